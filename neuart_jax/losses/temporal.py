"""Losses between a frame and earlier frames, warped to it."""

import jax.numpy as jnp
from jax import Array

from neuart_jax.losses.elementwise import TINY


def temporal_loss(image: Array, references: Array, weights: Array) -> Array:
    """Compute the mean over pixels and channels of sum_j c_j (x - omega_j)^2.

    Source: Ruder, Dosovitskiy & Brox 2016, "Artistic style transfer for videos", arXiv 1604.08610,
    sections 4.2 and 4.3.
    Differs from source: color values are in [0, 1]; in [0, 255], as in the source, the loss is
    255^2 times as large.

    Args:
      image: x, float[height, width, channels].
      references: omega_j, results of reference frames, warped to this frame, float[references,
        height, width, channels].
      weights: c_j, reliability of the warped pixels, float[references, height, width].
    """
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    difference = image.astype(dtype)[None] - references.astype(dtype)
    return jnp.sum(weights.astype(dtype)[..., None] * jnp.square(difference)) / image.size


def warping_error(image: Array, moved: Array, weights: Array) -> Array:
    """Compute the warping error, a measure of flicker: sum M (x - omega)^2 / sum M.

    Source: Lai et al. 2018, "Learning blind video temporal consistency", arXiv 1808.00449
    (E_warp), the mean over channels.
    Differs from source: the earlier frame is warped to the later one, instead of the later to the
    earlier; and the weights may lie between 0 and 1.

    Args:
      image: x, a frame, float[height, width, channels].
      moved: omega, the preceding frame, warped along the flow of the source's frames.
      weights: M, reliability of the flow, float[height, width].

    Returns:
      float[]; 0 for a film that moves exactly along the flow, and 0 if no pixel is reliable.
    """
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    squares = jnp.mean(jnp.square(image.astype(dtype) - moved.astype(dtype)), axis=-1)
    known = weights.astype(dtype)
    return jnp.sum(known * squares) / jnp.maximum(jnp.sum(known), TINY)
