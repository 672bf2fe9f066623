"""Paint masks and gray images: which part of an image is stylized."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuart_jax.inputs.regions.memberships import Regions, find_areas

Float32 = npt.NDArray[np.float32]

# Deviation of a mask from black or white that counts as JPEG noise.
_NOISE = 8 / 255
# Deviation between the channels of a gray image: JPEG's rounding.
_GRAY = 2.5 / 255
# A region is dropped if less than this share of it, and fewer than this many pixels, are painted.
_LEAST_SHARE, _LEAST_AREA = 0.01, 256


class Canvas(NamedTuple):
    """The photograph below a stylized image, and the mask between them.

    Attributes:
      mask: float32[height, width, 1] in [0, 1]; 1 where the stylized image covers the photograph.
      photograph: float32[height, width, 3].
    """

    mask: Any
    photograph: Any

    def compose(self, image: Any) -> Any:
        """Blend an image over the photograph, which is exactly unchanged where the mask is 0."""
        return self.mask * image + (1 - self.mask) * self.photograph


def is_gray(image: npt.ArrayLike) -> bool:
    """Return whether an image, float[height, width, 3], is gray up to rounding."""
    values = np.asarray(image)
    return bool(np.max(np.max(values, axis=-1) - np.min(values, axis=-1), initial=0) <= _GRAY)


def read_paint_mask(mask: npt.ArrayLike) -> Float32:
    """Convert the image of a paint mask to opacities: white is painted, gray in part.

    Args:
      mask: float[height, width, 3] in [0, 1].

    Returns:
      float32[height, width] in [0, 1]; nearly black is 0 and nearly white is 1.
    """
    levels = np.mean(np.asarray(mask, np.float32), axis=-1)
    return np.clip((levels - _NOISE) / (1 - 2 * _NOISE), 0, 1).astype(np.float32)


def limit_regions(
    regions: Regions | None, mask: Float32, style_shapes: list[tuple[int, ...]]
) -> tuple[Regions, Float32]:
    """Multiply the content's soft masks by a paint mask, and drop regions that aren't painted.

    Args:
      regions: regions of the images; None stands for a single region that covers all.
      mask: the paint mask, float32[height, width] in [0, 1].
      style_shapes: (height', width', ...) of every style image.

    Returns:
      The regions, and the content's soft masks of the same regions before the multiplication,
      float32[height, width, regions].
    """
    if regions is None:
        styles = tuple(np.ones((*shape[:2], 1), np.float32) for shape in style_shapes)
        regions = Regions(("region 1",), np.ones((*mask.shape, 1), np.float32), styles)
        return regions._replace(content=mask[..., None]), regions.content
    painted = regions.content * mask[..., None]
    before, after = find_areas(regions.content), find_areas(painted)
    kept = (after >= _LEAST_AREA) | (after >= _LEAST_SHARE * before)
    if not kept.any():
        kept[np.argmax(after)] = True
    limited = regions._replace(
        names=tuple(name for name, keep in zip(regions.names, kept, strict=True) if keep),
        content=painted[..., kept],
        styles=tuple(style[..., kept] for style in regions.styles),
        homes=None if regions.homes is None else regions.homes[:, kept],
    )
    return limited, regions.content[..., kept]
