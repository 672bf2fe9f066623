"""Which part of an image is painted: under a mask, or in gray."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuart_jax.inputs.regions.memberships import Regions, find_areas

Float32 = npt.NDArray[np.float32]

# Levels of a mask, of 255, that are black or white: JPEG's noise.
_NOISE = 8 / 255
# What two images of gray may have of color: JPEG's rounding.
_GRAY = 2.5 / 255
# Of a region, and in pixels, below which nothing of it is painted.
_LEAST_SHARE, _LEAST_AREA = 0.01, 256


class Canvas(NamedTuple):
    """What lies below the image that is made, and where it is covered.

    Attributes:
      mask: float32[height, width, 1] in [0, 1]; 1 where the image is painted.
      photograph: float32[height, width, 3].
    """

    mask: Any
    photograph: Any

    def compose(self, image: Any) -> Any:
        """Lay a painted image over the photograph: exactly the latter where the mask is 0."""
        return self.mask * image + (1 - self.mask) * self.photograph


def is_gray(image: npt.ArrayLike) -> bool:
    """Tell whether an image, float[height, width, 3], has no color but for rounding."""
    values = np.asarray(image)
    return bool(np.max(np.max(values, axis=-1) - np.min(values, axis=-1), initial=0) <= _GRAY)


def read_paint_mask(mask: npt.ArrayLike) -> Float32:
    """Turn an image of a mask into shares: what is white is painted, gray in part.

    Args:
      mask: float[height, width, 3] in [0, 1].

    Returns:
      float32[height, width] in [0, 1]; nearly black is 0 and nearly white is 1.
    """
    levels = np.mean(np.asarray(mask, np.float32), axis=-1)
    return np.clip((levels - _NOISE) / (1 - 2 * _NOISE), 0, 1).astype(np.float32)


def limit_regions(
    regions: Regions | None, mask: Float32, style_shapes: list[tuple[int, ...]]
) -> Regions:
    """Have pixels of the content count as much as they are painted; leave out what isn't at all.

    Args:
      regions: of the images; None is one that goes everywhere.
      mask: float32[height, width] in [0, 1].
      style_shapes: (height', width', ...) of every style image.
    """
    if regions is None:
        styles = tuple(np.ones((*shape[:2], 1), np.float32) for shape in style_shapes)
        return Regions(("region 1",), mask[..., None], styles)
    painted = regions.content * mask[..., None]
    before, after = find_areas(regions.content), find_areas(painted)
    kept = (after >= _LEAST_AREA) | (after >= _LEAST_SHARE * before)
    if not kept.any():
        kept[np.argmax(after)] = True
    return regions._replace(
        names=tuple(name for name, keep in zip(regions.names, kept, strict=True) if keep),
        content=painted[..., kept],
        styles=tuple(style[..., kept] for style in regions.styles),
    )
