"""Distributions along a line: their quantiles, and which value of one belongs to which of another.

Rows are independent of each other: channels, or projections. A row's values lie at positions whose
order doesn't matter, each with a share of the whole; no shares means equal ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Quantiles(NamedTuple):
    """One distribution per row, as its quantile function at equally spaced levels.

    The mean of several is the quantile function of their Wasserstein-2 barycenter.

    Attributes:
      values: float[rows, levels], ascending: the quantiles of the levels (i + 1/2) / levels, and
        linear between them. With equal shares and as many levels as positions these are the sorted
        values, and nothing is lost.
    """

    values: Array


def find_quantiles(values: Array, shares: Array | None = None) -> Quantiles:
    """Return as many quantiles as there are positions.

    A value stands at the middle of its share: at the sum of the shares below it and half its own.
    Between two values the quantile function is linear, and beyond the outer ones constant.

    Args:
      values: float[rows, positions].
      shares: float[positions] with the sum 1. A value without a share doesn't count. If none has
        one, every quantile is 0.
    """
    num_positions = values.shape[1]
    if shares is None:
        return Quantiles(jnp.take_along_axis(values, _argsort(values), axis=1))
    counts = (shares > 0).reshape(1, num_positions)
    largest = jnp.max(jnp.where(counts, values, -jnp.inf), axis=1, keepdims=True)
    largest = jnp.where(jnp.any(counts), largest, 0)
    # What doesn't count goes to the end, where it is a repetition.
    order = _argsort(jnp.where(counts, values, jnp.inf))
    nodes = jnp.take_along_axis(jnp.where(counts, values, largest), order, axis=1)
    levels = _middles(num_positions, values.dtype)
    return Quantiles(
        jax.vmap(jnp.interp, in_axes=(None, 0, 0))(levels, _levels(shares, order), nodes)
    )


def resample(quantiles: Quantiles, num_levels: int) -> Quantiles:
    """Bring quantiles to another number of levels; nothing changes if they have it."""
    if quantiles.values.shape[1] == num_levels:
        return quantiles
    levels = _middles(num_levels, quantiles.values.dtype)
    return Quantiles(jax.vmap(_interpolate, in_axes=(0, None))(quantiles.values, levels))


def match(values: Array, target: Quantiles, shares: Array | None = None) -> Array:
    """Return what each value becomes if its row takes on the target's distribution.

    The smallest value becomes the smallest of the target, and so on: the cheapest transport along
    a line. Equal values get different ones in the order of their positions.

    Args:
      values: float[rows, positions].
      target: of the same rows, with any number of levels.
      shares: of the positions, float[positions] with the sum 1.

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
    """Evaluate one row's quantile function, values float[num_levels], at any levels."""
    last = values.shape[0] - 1
    places = jnp.clip(levels * values.shape[0] - 0.5, 0, last)
    below = jnp.floor(places).astype(jnp.int32)
    return values[below] + (places - below) * (values[jnp.minimum(below + 1, last)] - values[below])


def _argsort(values: Array) -> Array:
    """Return the order int32[rows, positions] that sorts each row."""
    if values.dtype != jnp.float32:
        return jnp.argsort(values, axis=1)
    # Numbers and their positions as single integers of 64 bits. On CPUs, XLA sorts pairs and
    # floats by calling a comparison, which took four times as long at 65,536 positions.
    with jax.enable_x64(True):
        bits = lax.bitcast_convert_type(values, jnp.int32)
        # Negative floats are sign and magnitude, which rises downwards.
        ranked = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits).astype(jnp.int64)
        positions = lax.broadcasted_iota(jnp.int64, values.shape, 1)
        ordered = lax.sort((ranked << 32) | positions, dimension=1)
        return (ordered & 0xFFFFFFFF).astype(jnp.int32)
