"""Style images that are transparent in places: only what is opaque gives a style."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neuart_jax.inputs.regions.memberships import Float32, Regions

# Below it a pixel's own color is too uncertain.
_VISIBLE = 0.5


def is_opaque(opacity: Float32) -> npt.NDArray[np.bool_]:
    """Tell which pixels' colors count: float32[height, width] -> bool[height, width]."""
    return opacity > _VISIBLE


def take_opaque(image: Float32, opacity: Float32) -> Float32:
    """Return the own colors of all pixels that are opaque, in a row.

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
    """Put colors back into an image, and give all other pixels the color of the nearest.

    What a network sees at the edge of what is opaque is then what goes on there, and no white.

    Args:
      colors: float32[pixels, 1, 3], from `take_opaque`.
      opacity: float32[height, width] in [0, 1].

    Returns:
      float32[height, width, 3].
    """
    where = is_opaque(opacity)
    image = np.zeros((*opacity.shape, 3), np.float32)
    image[where] = colors[:, 0]
    from scipy import ndimage  # Not at the top: it slows the command line's start.

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
    """Have pixels of style images count as much as they are opaque.

    Args:
      regions: of the images; None is one that goes everywhere.
      content_shape: (height, width, ...) of the content image.
      style_shapes: the same of every style image.
      opacities: of each, float32[height', width'], or None where it is opaque.
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
