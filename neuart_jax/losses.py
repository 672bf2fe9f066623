"""The losses: arrays in, scalar out. Every formula and every divisor of the project is here.

Symbols: F, P are the features float[..., height, width, channels] of the image being made and of
the target; N = channels; M = height * width positions; G, A are their Gram matrices.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

Loss = Callable[[Array, Array], Array]

# Below any energy that real features have, and far above float32's smallest normal number: it only
# keeps the relative losses of an all-zero target finite.
_TINY = 1e-12


def gram_matrix(features: Array, *, divisor: Literal["positions", "elements", "none"]) -> Array:
    """Compute the channels' inner products over positions, G_ij = sum_k F_ik F_jk / divisor.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (3), which has no divisor.

    Args:
      features: float[height, width, channels].
      divisor: "positions" divides by M, so that images of different sizes can be compared;
        "elements" by N M; "none" leaves the sum.

    Returns:
      float[channels, channels], accumulated in float32 or better whatever the features' dtype:
      an entry easily passes float16's 65,504.
    """
    height, width, channels = features.shape
    positions = features.reshape(height * width, channels)
    accumulator = jnp.promote_types(features.dtype, jnp.float32)
    products = jnp.einsum(
        "pi,pj->ij",
        positions,
        positions,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=accumulator,
    )
    sizes = {"positions": height * width, "elements": height * width * channels, "none": 1}
    return products / sizes[divisor]


def sum_squared_error(values: Array, target: Array) -> Array:
    """Sum the squared differences of two arrays of one shape, in float32 or better."""
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    return jnp.sum(jnp.square(values.astype(dtype) - target.astype(dtype)))


def relative_error(values: Array, target: Array) -> Array:
    """Compute sum (values - target)^2 / sum target^2: free of the scale of network and picture.

    1 means as far from the target as zero is. Finite for an all-zero target.
    """
    energy = sum_squared_error(target, jnp.zeros_like(target))
    return sum_squared_error(values, target) / jnp.maximum(energy, _TINY)


def mean_squared_error(values: Array, target: Array) -> Array:
    """Average the squared differences of two arrays of one shape."""
    return sum_squared_error(values, target) / values.size


def gatys_content_loss(features: Array, target: Array) -> Array:
    """Compute 1/2 sum (F - P)^2.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (1).

    Args:
      features: F, float[height, width, channels].
      target: P, of the same shape.
    """
    return 0.5 * sum_squared_error(features, target)


def gatys_style_loss(gram: Array, target: Array) -> Array:
    """Compute E_l = sum (G - A)^2 / (4 N^2 M^2) for undivided Gram matrices G and A.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (4).
    Differs from source: takes G / M and A / M, each over its own M. The same number where both
    pictures have one size; the source doesn't say which M it means where they don't.

    Args:
      gram: G / M, float[channels, channels], `gram_matrix` with the divisor "positions".
      target: A / M, likewise.
    """
    return sum_squared_error(gram, target) / (4 * gram.shape[-1] ** 2)


CONTENT_LOSSES: dict[str, Loss] = {
    "relative": relative_error,
    "mean": mean_squared_error,
    "gatys": gatys_content_loss,
}
"""Content formulas over (F, P)."""

STYLE_LOSSES: dict[str, Loss] = {
    "relative": relative_error,
    "mean": mean_squared_error,
    "gatys": gatys_style_loss,
}
"""Style formulas over (G / M, A / M)."""


def total_variation(image: Array) -> Array:
    """Average the squared steps between vertical neighbors, add the same of horizontal ones.

    Source: Mahendran & Vedaldi 2015, arXiv 1412.0035, equation (4) with beta = 2.
    Differs from source: a mean, so that the weight doesn't depend on the picture's size.

    Args:
      image: float[height, width, channels], each side of at least 1 (a single row has no steps).
    """
    steps = (image[1:] - image[:-1], image[:, 1:] - image[:, :-1])
    return sum((jnp.mean(jnp.square(step)) for step in steps if step.size), jnp.zeros(()))
