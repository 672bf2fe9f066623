"""Style losses based on sorting: distributions of features along directions or of every channel.

The symbols are those of `style`. These losses need all features of a layer at once.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array, lax

from neuart_jax.losses.elementwise import TINY
from neuart_jax.losses.moments import position_rows, weight_column
from neuart_jax.losses.quantiles import Quantiles, find_quantiles, match


def _shares(weights: Array | None) -> Array | None:
    """Normalize weights to float[positions] with the sum 1; all-zero weights stay zeros."""
    if weights is None:
        return None
    column = weight_column(weights)
    return (column / jnp.maximum(jnp.sum(column), TINY)).reshape(-1)


def _distance_of_rows(values: Array, weights: Array | None, target: Quantiles) -> Array:
    """Sum, over rows, the mean squared difference between the values and `match(values, target)`.

    This is the squared Wasserstein-2 distance of two one-dimensional distributions; with as many
    quantiles as positions, mean (sort(x) - sort(y))^2. The assignment of values is constant under
    differentiation, as it is piecewise constant anyway: the gradient is that of a squared error and
    doesn't pass through a sort.

    Args:
      values: float[rows, positions].
      weights: weights of the positions, float[height, width], or None.
      target: target distribution of every row.
    """
    shares = _shares(weights)
    matched = match(lax.stop_gradient(values), target, shares)
    squares = jnp.square(values - matched)
    if shares is None:
        return jnp.sum(squares) / values.shape[1]
    return jnp.sum(squares * shares.reshape(1, -1))


def energy_of_rows(target: Quantiles) -> Array:
    """Sum the mean squares of all rows."""
    return jnp.sum(jnp.square(target.values)) / target.values.shape[1]


class Slices(NamedTuple):
    """Projections of a distribution of features onto several directions.

    Attributes:
      directions: unit vectors, float[directions, channels]. They are part of the statistic, so that
        they are data of the compiled step; means of statistics leave them unchanged.
      quantiles: quantiles of the projections, one row per direction.
    """

    directions: Array
    quantiles: Quantiles


@functools.cache
def draw_directions(num_channels: int) -> npt.NDArray[np.float64]:
    """Return a fixed orthonormal basis float64[channels, channels], in rows.

    The basis is sampled uniformly from the orthogonal group, as in Mezzadri 2007, "How to generate
    random matrices from the classical compact groups".
    """
    normal = np.random.default_rng(0).standard_normal((num_channels, num_channels))
    basis, triangle = np.linalg.qr(normal)
    directions = (basis * np.sign(np.diag(triangle))).T
    directions.flags.writeable = False
    return directions


def slice_features(features: Array, weights: Array | None = None) -> Slices:
    """Compute the quantiles of the features' projections onto `draw_directions`."""
    positions = position_rows(features)
    directions = jnp.asarray(draw_directions(positions.shape[1]), positions.dtype)
    return Slices(directions, find_quantiles(_project(positions, directions), _shares(weights)))


def _project(positions: Array, directions: Array) -> Array:
    # Positions are the last axis, along which they are sorted.
    return jnp.einsum("pc,dc->dp", positions, directions, precision=lax.Precision.HIGHEST)


def distance_of_slices(features: Array, weights: Array | None, target: Slices) -> Array:
    """Sum, over directions, the mean squared difference of the sorted projections.

    Source: Heitz, Vanhoey, Chambon & Belcour 2021, "A sliced Wasserstein loss for neural texture
    synthesis", arXiv 2006.07229, section 3.
    Differs from source: the directions, as many as channels, are a fixed orthonormal basis, instead
    of being resampled at every evaluation, because a line search needs a fixed function. Every
    difference of means then counts in full, and the energies of the projections add up to those of
    the channels. For styles of other sizes, the quantile function, linear between the sorted
    values, is evaluated at (i + 1/2) / M.
    """
    projections = _project(position_rows(features), target.directions)
    return _distance_of_rows(projections, weights, target.quantiles)


def energy_of_slices(target: Slices) -> Array:
    """Sum the mean squares of the projections over all directions."""
    return energy_of_rows(target.quantiles)


def channel_quantiles(features: Array, weights: Array | None = None) -> Quantiles:
    """Compute every channel's quantiles."""
    return find_quantiles(position_rows(features).T, _shares(weights))


def distance_of_histograms(features: Array, weights: Array | None, target: Quantiles) -> Array:
    """Sum, over channels, the mean of (F - R(F))^2, where R(F) has the style's histogram.

    Source: Risser, Wilmot & Barnes 2017, "Stable and controllable neural texture synthesis and
    style transfer using histogram losses", arXiv 1701.08893, equation (8), with R held constant.
    Differs from source: R is exact, by sorting, instead of using histograms with 256 bins; equal
    values, such as the zeros after a ReLU, are distributed over several values of the style instead
    of all being mapped to the same one, so that the loss is 0 only for equal histograms; and the
    loss is a mean over positions instead of a sum.
    """
    return _distance_of_rows(position_rows(features).T, weights, target)
