"""One-dimensional distributions: their quantiles, and optimal transport between them.

Rows are independent: channels, or projections. A row's values lie at positions whose order doesn't
matter, each with a share of the total; no shares means equal shares.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Quantiles(NamedTuple):
    """One distribution per row, as its quantile function at equally spaced levels.

    The mean of several quantile functions is that of their Wasserstein-2 barycenter.

    Attributes:
      values: float[rows, levels], ascending: the quantiles at the levels (i + 1/2) / levels; the
        quantile function is linear between them. With equal shares and as many levels as positions,
        these are the sorted values, without any loss.
    """

    values: Array


def find_quantiles(values: Array, shares: Array | None = None) -> Quantiles:
    """Compute as many quantiles as there are positions.

    A value is the quantile at the middle of its share: at the sum of the shares below it and half
    its own. The quantile function is linear between values, and constant beyond the outer ones.

    Args:
      values: float[rows, positions].
      shares: float[positions] with the sum 1. Values with a zero share don't count. If all shares
        are zero, every quantile is 0.
    """
    num_positions = values.shape[1]
    if shares is None:
        return Quantiles(jnp.take_along_axis(values, _argsort(values), axis=1))
    counts = (shares > 0).reshape(1, num_positions)
    largest = jnp.max(jnp.where(counts, values, -jnp.inf), axis=1, keepdims=True)
    largest = jnp.where(jnp.any(counts), largest, 0)
    # Values that don't count are sorted to the end, where they repeat the last quantile.
    order = _argsort(jnp.where(counts, values, jnp.inf))
    nodes = jnp.take_along_axis(jnp.where(counts, values, largest), order, axis=1)
    levels = _middles(num_positions, values.dtype)
    return Quantiles(
        jax.vmap(jnp.interp, in_axes=(None, 0, 0))(levels, _levels(shares, order), nodes)
    )


def resample(quantiles: Quantiles, num_levels: int) -> Quantiles:
    """Resample quantiles to another number of levels; without effect if the number is equal."""
    if quantiles.values.shape[1] == num_levels:
        return quantiles
    levels = _middles(num_levels, quantiles.values.dtype)
    return Quantiles(jax.vmap(_interpolate, in_axes=(0, None))(quantiles.values, levels))


def match(values: Array, target: Quantiles, shares: Array | None = None) -> Array:
    """Map each row's values to the target's distribution by optimal transport.

    The smallest value is mapped to the smallest of the target, and so on. Equal values are mapped
    to different ones in the order of their positions.

    Args:
      values: float[rows, positions].
      target: distribution of every row, with any number of levels.
      shares: shares of the positions, float[positions] with the sum 1; None means equal shares.

    Returns:
      float[rows, positions].
    """
    order = _argsort(values)
    if shares is None:
        matched = resample(target, values.shape[1]).values
    else:
        matched = jax.vmap(_interpolate)(target.values, _levels(shares, order))
    return jax.vmap(_put_back)(matched, order)


def _put_back(values: Array, order: Array) -> Array:
    return jnp.zeros_like(values).at[order].set(values, unique_indices=True)


def _middles(count: int, dtype: jnp.dtype) -> Array:
    return (jnp.arange(count, dtype=dtype) + 0.5) / count


def _levels(shares: Array, order: Array) -> Array:
    ordered = shares[order]
    return jnp.cumsum(ordered, axis=1) - 0.5 * ordered


def _interpolate(values: Array, levels: Array) -> Array:
    """Evaluate a row's quantile function, given by values float[num_levels], at any levels."""
    last = values.shape[0] - 1
    places = jnp.clip(levels * values.shape[0] - 0.5, 0, last)
    below = jnp.floor(places).astype(jnp.int32)
    return values[below] + (places - below) * (values[jnp.minimum(below + 1, last)] - values[below])


def _argsort(values: Array) -> Array:
    """Return the permutation int32[rows, positions] that sorts each row."""
    if values.dtype != jnp.float32:
        return jnp.argsort(values, axis=1)
    # Values and their positions are packed into 64-bit integers. On CPUs, XLA sorts pairs and
    # floats with a comparison function, which took four times as long at 65,536 positions.
    with jax.enable_x64(True):
        bits = lax.bitcast_convert_type(values, jnp.int32)
        # Negative floats are stored as sign and magnitude, so their order must be reversed.
        ranked = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits).astype(jnp.int64)
        positions = lax.broadcasted_iota(jnp.int64, values.shape, 1)
        ordered = lax.sort((ranked << 32) | positions, dimension=1)
        return (ordered & 0xFFFFFFFF).astype(jnp.int32)
