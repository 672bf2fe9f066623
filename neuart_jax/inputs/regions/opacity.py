"""Partly transparent style images: only opaque pixels give a style."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neuart_jax.inputs.regions.memberships import Float32, Regions

# Below this opacity a pixel's own color is too uncertain.
_VISIBLE = 0.5


def is_opaque(opacity: Float32) -> npt.NDArray[np.bool_]:
    """Return which pixels count as opaque: float32[height, width] -> bool[height, width]."""
    return opacity > _VISIBLE


def take_opaque(image: Float32, opacity: Float32) -> Float32:
    """Return the colors of all opaque pixels, without the white they are composited over.

    Args:
      image: float32[height, width, 3] over white, sRGB in [0, 1].
      opacity: float32[height, width] in [0, 1].

    Returns:
      float32[pixels, 1, 3].
    """
    where = is_opaque(opacity)
    alpha = opacity[where][:, None]
    return np.clip((image[where] - (1 - alpha)) / alpha, 0, 1)[:, None]


def spread_opaque(colors: Float32, opacity: Float32) -> Float32:
    """Put the opaque pixels back into an image, and extend their colors to the other pixels.

    Every other pixel takes the color of the nearest opaque one, so that the network sees a
    continuation at the edge of the opaque area instead of white.

    Args:
      colors: colors of the opaque pixels, float32[pixels, 1, 3], from `take_opaque`.
      opacity: float32[height, width] in [0, 1].

    Returns:
      float32[height, width, 3].
    """
    where = is_opaque(opacity)
    image = np.zeros((*opacity.shape, 3), np.float32)
    image[where] = colors[:, 0]
    from scipy import ndimage  # Imported here, as it slows the start of the command line.

    rows, columns = ndimage.distance_transform_edt(
        ~where, return_distances=False, return_indices=True
    )
    return image[rows, columns]


def weigh_styles(
    regions: Regions | None,
    content_shape: tuple[int, ...],
    style_shapes: Sequence[tuple[int, ...]],
    opacities: Sequence[Float32 | None],
) -> Regions:
    """Multiply the styles' soft masks by the opacity of the style images.

    Args:
      regions: regions of the images; None stands for a single region that covers all.
      content_shape: (height, width, ...) of the content image.
      style_shapes: (height', width', ...) of every style image.
      opacities: opacity of every style image, float32[height', width'], or None for an opaque
        image.
    """
    if regions is None:
        whole = [np.ones((*shape[:2], 1), np.float32) for shape in (content_shape, *style_shapes)]
        regions = Regions(("region 1",), whole[0], tuple(whole[1:]))
    return regions._replace(
        styles=tuple(
            memberships if opacity is None else memberships * opacity[..., None]
            for memberships, opacity in zip(regions.styles, opacities, strict=True)
        )
    )
