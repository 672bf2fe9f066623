"""Soft masks of regions: how much of each pixel belongs to each region, at any size."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.config.errors import InputError

Float32 = npt.NDArray[np.float32]


class Regions(NamedTuple):
    """Corresponding regions of the images.

    Attributes:
      names: names of the regions: their colors in the masks, or "region 1", "region 2".
      content: soft masks of the content, float32[height, width, regions], which sum to 1 at every
        pixel.
      styles: soft masks of every style image, float32[style_height, style_width, regions]. Their
        sums are at most 1, as parts that the content doesn't use are in no region; a mask is 0
        everywhere if the style has no part in the region.
      notes: sentences for the user about regions without a counterpart.
      labels: colors of the masks, in the notation of `labels.parse_color`; empty without masks.
      homes: the region of each color, float32[labels, regions]: 1 for that region and 0 elsewhere;
        None without masks.
    """

    names: tuple[str, ...]
    content: Float32
    styles: tuple[Float32, ...]
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    homes: Float32 | None = None


class MaskSamples(NamedTuple):
    """Masks of some frames of a clip, which stand for those of all its frames.

    Attributes:
      masks: the masks, sRGB in [0, 1], float32[frames, height, width, 3].
      images: the frames, sRGB in [0, 1], float32[frames, height, width, 3].
      colors: colors of the masks of all frames, in the notation of `labels.parse_color`:
        those that the user named, or those of `moving.join_colors`.
      named: whether the user named them, so that their order counts.
    """

    masks: Float32
    images: Float32
    colors: tuple[str, ...]
    named: bool


def resize_memberships(memberships: npt.ArrayLike, height: int, width: int) -> Float32:
    """Resize soft masks by averaging over the area of each new pixel.

    A side that grows is interpolated linearly. Sums over the regions are preserved.

    Args:
      memberships: float32[height', width', regions].
      height: new height in pixels, at least 1.
      width: new width in pixels, at least 1.

    Returns:
      float32[height, width, regions].
    """
    values = np.asarray(memberships, np.float32)
    if values.shape[:2] == (height, width):
        return values
    down = _averaging_matrix(values.shape[0], height)
    across = _averaging_matrix(values.shape[1], width)
    return np.einsum("ah,hwr,bw->abr", down, values, across, optimize=True)


def memberships_at(memberships: Array, shape: tuple[int, int]) -> Array:
    """Resize soft masks to the positions of a layer; `resize_memberships` for use inside jit.

    If a side is an integer multiple of the new one, this is average pooling.

    Args:
      memberships: float32[height', width', regions].
      shape: the layer's height and width.

    Returns:
      float32[height, width, regions].
    """
    values = jnp.asarray(memberships)
    if values.shape[:2] == tuple(shape):
        return values
    down = jnp.asarray(_averaging_matrix(values.shape[0], shape[0]))
    across = jnp.asarray(_averaging_matrix(values.shape[1], shape[1]))
    return jnp.einsum("ah,hwr,bw->abr", down, values, across, precision="highest")


def find_areas(memberships: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute each region's area in pixels: float[height, width, regions] -> float64[regions]."""
    return np.sum(memberships, axis=(0, 1), dtype=np.float64)


def called(name: str) -> str:
    """Return a region's name for use in a sentence: "region red", or "region 2" unchanged."""
    return name if name.startswith("region ") else f"region {name}"


def check_regions(regions: Regions, *, stride: int) -> None:
    """Check that every region covers at least one position of the deepest layer.

    Args:
      regions: the regions to check.
      stride: stride of that layer in pixels.

    Raises:
      InputError: the region's area, in the content or in all styles together, is below stride^2.
    """
    content = find_areas(regions.content)
    styles = np.sum([find_areas(style) for style in regions.styles], axis=0)
    for where, areas in (("the content image", content), ("the style images", styles)):
        for name, area in zip(regions.names, areas, strict=True):
            if area < stride**2 * (1 - 1e-6):  # rounding in float32
                raise InputError(
                    f"{called(name)} covers only {area:.0f} pixels of {where}",
                    expected=f"at least {stride**2}, the area of a position in the deepest layer",
                    remedy="use a larger --size, leave out the deepest layers, or merge this "
                    "region into another",
                )


def _averaging_matrix(length: int, new_length: int) -> Float32:
    """Return the matrix that resamples a line, float32[new_length, length]; rows sum to 1."""
    scale = length / new_length
    if new_length <= length:
        starts = np.arange(new_length + 1)[:, None] * scale
        covered = np.clip(starts - np.arange(length), 0, 1)  # of each pixel, left of each start
        weights = np.diff(covered, axis=0)
    else:
        centers = (np.arange(new_length)[:, None] + 0.5) * scale - 0.5
        weights = np.maximum(1 - np.abs(centers - np.arange(length)), 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
