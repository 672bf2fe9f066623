"""Statistics from sums over positions: Gram matrices, means, standard deviations, covariances.

Symbols: F are the features float[height, width, channels]; M = height * width positions; w are the
weights float[height, width] of the positions, in which case M is their sum. No gradient flows into
the weights. Sums are computed in float32 or better, whatever the features' dtype.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from neuart_jax.losses.elementwise import TINY


class Moments(NamedTuple):
    """Sums over positions; the sums over parts of an image add up to those over the whole.

    Attributes:
      total_weight: M, float[].
      first: sum_k w_k (F_k - o), float[channels].
      second: sum_k w_k (F_k - o) (F_k - o)^T, float[channels, channels], or only its diagonal.
    """

    total_weight: Array
    first: Array
    second: Array


def sum_moments(
    features: Array,
    weights: Array | None = None,
    *,
    origin: Array | None = None,
    diagonal: bool = False,
) -> Moments:
    """Compute the moments of features about an origin.

    Args:
      features: F, float[height, width, channels].
      weights: w, float[height, width] of at least 0; None stands for ones.
      origin: o, float[channels]; None is 0. An origin near the mean avoids cancellation in
        variances.
      diagonal: whether to sum only squares, not products of different channels.
    """
    rows = position_rows(features)
    if origin is not None:
        rows = rows - origin.reshape(1, -1)
    if weights is None:
        count = jnp.full((), rows.shape[0], rows.dtype)
    else:
        count = jnp.sum(weight_column(weights))
    if diagonal:
        second = _weighted_sum(jnp.square(rows), weights)
    elif weights is not None:
        second = _inner_products(rows * jnp.sqrt(weight_column(weights)))
    elif origin is not None:
        second = _inner_products(rows)
    else:
        # Half-precision factors are multiplied without conversion.
        second = _inner_products(features.reshape(-1, features.shape[-1]))
    return Moments(count, _weighted_sum(rows, weights), second)


def map_moments(moments: Moments, factor: Array) -> Moments:
    """Return the moments of factor * (F - o)."""
    return Moments(moments.total_weight, factor * moments.first, factor**2 * moments.second)


def gram_of(moments: Moments, origin: Array | None) -> Array:
    """Return G / M, G_ij = sum_k w_k F_ik F_jk."""
    count, first, second = moments
    if origin is not None:
        cross = jnp.outer(origin, first + 0.5 * count * origin)
        second = second + cross + cross.T
    return second / jnp.maximum(count, TINY)


def mean_of(moments: Moments, origin: Array | None) -> Array:
    """Return sum_k w_k F_k / M, or 0 if all weights are zero."""
    count, first, _ = moments
    total = first if origin is None else first + count * origin
    return total / jnp.maximum(count, TINY)


def gaussian_of(moments: Moments, origin: Array | None) -> tuple[Array, Array]:
    """Return the mean float[channels] and the covariance float[channels, channels]."""
    count, first, second = moments
    step = first / jnp.maximum(count, TINY)
    covariance = second / jnp.maximum(count, TINY) - jnp.outer(step, step)
    return mean_of(moments, origin), covariance


def deviation_of(moments: Moments, origin: Array | None) -> tuple[Array, Array]:
    """Return every channel's mean and standard deviation, from diagonal moments."""
    count, first, second = moments
    step = first / jnp.maximum(count, TINY)
    variance = second / jnp.maximum(count, TINY) - jnp.square(step)
    # The derivative of the root is unbounded at zero, where a channel is constant.
    return mean_of(moments, origin), jnp.sqrt(jnp.maximum(variance, TINY))


def find_mean(features: Array, weights: Array | None = None) -> Array:
    """Compute every channel's mean, float[channels], as an origin, without gradient."""
    rows = lax.stop_gradient(position_rows(features))
    count = rows.shape[0] if weights is None else jnp.sum(weight_column(weights))
    return _weighted_sum(rows, weights) / jnp.maximum(count, TINY)


def mean_and_deviation(features: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Compute every channel's mean and standard deviation, float[channels] each.

    Args:
      features: float[height, width, channels].
      weights: weights of the positions, float[height, width]; None weights all equally.
    """
    mean = find_mean(features, weights)
    return deviation_of(sum_moments(features, weights, origin=mean, diagonal=True), mean)


def gaussian_statistic(features: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Compute the mean float[channels] and the covariance float[channels, channels].

    Args:
      features: float[height, width, channels].
      weights: weights of the positions, float[height, width]; None weights all equally.
    """
    mean = find_mean(features, weights)
    return gaussian_of(sum_moments(features, weights, origin=mean), mean)


def gram_matrix(
    features: Array,
    *,
    divisor: Literal["positions", "elements", "none"],
    weights: Array | None = None,
) -> Array:
    """Compute the channels' inner products over positions, G_ij = sum_k w_k F_ik F_jk / divisor.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (3), which has no divisor; the weights:
    Gatys et al. 2017, arXiv 1611.07865, section 4.
    Differs from source: guidance channels there multiply F, so the products are multiplied by their
    squares; here the Gram matrices of regions whose weights sum to 1 at every position add up to
    that of the whole.

    Args:
      features: float[height, width, channels].
      divisor: "positions" divides by M, so that images of different sizes can be compared;
        "elements" divides by N M; "none" doesn't divide.
      weights: float[height, width] of at least 0; all-zero weights give zeros.

    Returns:
      float[channels, channels], accumulated in float32 or better whatever the features' dtype, as
      entries easily exceed float16's 65,504.
    """
    count, _, products = sum_moments(features, weights)
    count = jnp.maximum(count, TINY)
    sizes = {
        "positions": count,
        "elements": count * features.shape[-1],
        "none": jnp.ones_like(count),
    }
    return products / sizes[divisor]


@jax.custom_jvp
def _inner_products(positions: Array) -> Array:
    return _multiply_transposed(positions, positions)


@_inner_products.defjvp
def _inner_products_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Automatic differentiation computes two products, one of which is the other's transpose.
    (positions,), (tangent,) = primals, tangents
    half = _multiply_transposed(tangent, positions)
    return _inner_products(positions), half + half.T


def _multiply_transposed(left: Array, right: Array) -> Array:
    return jnp.einsum(
        "pi,pj->ij",
        left,
        right,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )


def _sum_dtype(values: Array) -> Any:
    return jnp.promote_types(values.dtype, jnp.float32)


def position_rows(features: Array) -> Array:
    """Return features as float[positions, channels] in float32 or better."""
    return features.reshape(-1, features.shape[-1]).astype(_sum_dtype(features))


def weight_column(weights: Array) -> Array:
    """Return the weights as float32[positions, 1] or better."""
    return lax.stop_gradient(weights.reshape(-1, 1).astype(_sum_dtype(weights)))


def _weighted_sum(rows: Array, weights: Array | None) -> Array:
    """Sum float[positions, channels] over positions."""
    return jnp.sum(rows if weights is None else weight_column(weights) * rows, axis=0)
