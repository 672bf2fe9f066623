"""Style losses: what is kept of a layer without its places, and how an image is compared with it.

Symbols: F, P are the features float[height, width, channels] of the image being made and of the
style; N = channels; M = height * width positions; G, A are their Gram matrices; m, s and m', s' the
means and standard deviations of their channels.

Every loss takes soft regions: `weights` float[height, width] of at least 0, the membership of each
position. Sums over positions become weighted sums, M becomes the sum of the weights, and no weights
mean that every one is 1. The weights are data: no gradient flows into them. Statistics are kept and
compared in float32 or better, whatever the features' dtype.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array, lax

from neuart_jax.losses import TINY, mean_squared_error, relative_error, sum_squared_error
from neuart_jax.quantiles import Quantiles, find_quantiles, match, resample


class StyleLoss(NamedTuple):
    """A style formula.

    Attributes:
      statistic: (features of the style, weights or None) -> any pytree of float arrays without
        positions, of which `blend_statistics` takes means.
      compare: (features of the image being made, weights or None, statistic of the style) ->
        scalar.
    """

    statistic: Callable[[Array, Array | None], Any]
    compare: Callable[[Array, Array | None, Any], Array]


def blend_statistics(statistics: Sequence[Any], shares: Sequence[Array | float]) -> Any:
    """Return the weighted mean of several styles' statistics: one target.

    Styles of different sizes have different numbers of quantiles: they get those of the largest,
    so that none loses any.

    Args:
      statistics: of one kind of `StyleLoss`.
      shares: of each, with the sum 1.
    """

    def blend(*parts: Any) -> Any:
        if isinstance(parts[0], Quantiles):
            num_levels = max(part.values.shape[1] for part in parts)
            return Quantiles(blend(*(resample(part, num_levels).values for part in parts)))
        return sum(share * part for share, part in zip(shares, parts, strict=True))

    return jax.tree.map(blend, *statistics, is_leaf=lambda part: isinstance(part, Quantiles))


def gram_matrix(
    features: Array,
    *,
    divisor: Literal["positions", "elements", "none"],
    weights: Array | None = None,
) -> Array:
    """Compute the channels' inner products over positions, G_ij = sum_k w_k F_ik F_jk / divisor.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (3), which has no divisor; the weights:
    Gatys et al. 2017, arXiv 1611.07865, section 4.
    Differs from source: the latter's guides weight F, and so the products by their squares; here
    the Gram matrices of regions whose weights have the sum 1 everywhere have the sum that the
    whole has.

    Args:
      features: float[height, width, channels].
      divisor: "positions" divides by M, so that images of different sizes can be compared;
        "elements" by N M; "none" leaves the sum.
      weights: float[height, width] of at least 0; zeros all over give zeros.

    Returns:
      float[channels, channels], accumulated in float32 or better whatever the features' dtype:
      an entry easily passes float16's 65,504.
    """
    height, width, channels = features.shape
    if weights is None:
        products = _inner_products(features.reshape(height * width, channels))
    else:
        roots = jnp.sqrt(_column(weights))
        products = _inner_products(_positions(features) * roots)
    count = _count(features, weights)
    sizes = {"positions": count, "elements": count * channels, "none": 1}
    return products / sizes[divisor]


@jax.custom_jvp
def _inner_products(positions: Array) -> Array:
    return _multiply_transposed(positions, positions)


@_inner_products.defjvp
def _inner_products_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The automatic rule takes two products, of which one is the other's transpose.
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


def _positions(features: Array) -> Array:
    """Return float[positions, channels] in float32 or better."""
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    return features.reshape(-1, features.shape[-1]).astype(dtype)


def _column(weights: Array) -> Array:
    """Return the weights as float32[positions, 1] or better."""
    dtype = jnp.promote_types(weights.dtype, jnp.float32)
    return lax.stop_gradient(weights.reshape(-1, 1).astype(dtype))


def _count(features: Array, weights: Array | None) -> Any:
    """Return M: the number of positions, or the sum of their weights, never quite 0."""
    if weights is None:
        return features.shape[0] * features.shape[1]
    return jnp.maximum(jnp.sum(_column(weights)), TINY)


def mean_gram(features: Array, weights: Array | None = None) -> Array:
    """Compute G / M, the Gram matrix that no image size enters; see `gram_matrix`."""
    return gram_matrix(features, divisor="positions", weights=weights)


def _gram_loss(distance: Callable[[Array, Array, Any], Array]) -> StyleLoss:
    """Make a loss of a distance over (G/M, A/M, M)."""

    def compare(features: Array, weights: Array | None, target: Array) -> Array:
        return distance(mean_gram(features, weights), target, _count(features, weights))

    return StyleLoss(mean_gram, compare)


Distance = Callable[[Array, Array | None, Any], Array]
"""(features, weights or None, statistic of the style) -> sum over channels."""


def _mean_over_channels(statistic: Callable[..., Any], distance: Distance) -> StyleLoss:
    def compare(features: Array, weights: Array | None, target: Any) -> Array:
        return distance(features, weights, target) / features.shape[-1]

    return StyleLoss(statistic, compare)


def _over_energy(
    statistic: Callable[..., Any], distance: Distance, energy: Callable[[Any], Array]
) -> StyleLoss:
    """Make a loss that is free of the scale of network and picture, finite for a zero style.

    The energy of a style's statistic is sum P^2 / M, as far as the statistic tells.
    """

    def compare(features: Array, weights: Array | None, target: Any) -> Array:
        return distance(features, weights, target) / jnp.maximum(energy(target), TINY)

    return StyleLoss(statistic, compare)


def _mean(values: Array, weights: Array | None) -> Array:
    """Average float[positions, channels] over positions."""
    if weights is None:
        return jnp.mean(values, axis=0)
    column = _column(weights)
    return jnp.sum(column * values, axis=0) / jnp.maximum(jnp.sum(column), TINY)


def mean_and_deviation(features: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Compute every channel's mean and standard deviation, float[channels] each."""
    positions = _positions(features)
    mean = _mean(positions, weights)
    variance = _mean(jnp.square(positions - mean.reshape(1, -1)), weights)
    # The root's slope has no bound at zero, where a channel is flat.
    return mean, jnp.sqrt(jnp.maximum(variance, TINY))


def _distance_of_moments(
    features: Array, weights: Array | None, target: tuple[Array, Array]
) -> Array:
    mean, deviation = mean_and_deviation(features, weights)
    return sum_squared_error(mean, target[0]) + sum_squared_error(deviation, target[1])


def _energy_of_moments(target: tuple[Array, Array]) -> Array:
    mean, deviation = target
    return jnp.sum(jnp.square(mean)) + jnp.sum(jnp.square(deviation))


def gaussian_statistic(features: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Compute the mean float[channels] and the covariance float[channels, channels]."""
    mean = _mean(_positions(features), weights)
    centered = features - mean.astype(features.dtype).reshape(1, 1, -1)
    return mean, mean_gram(centered, weights)


def gaussian_wasserstein(
    statistic: tuple[Array, Array], target: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Compute both parts of the squared Wasserstein-2 distance between two normal distributions.

    |m - m'|^2 and tr(S + S' - 2 (S'^1/2 S S'^1/2)^1/2), where m, S and m', S' are the means and
    covariances.

    Source: Dowson & Landau 1982, "The Frechet distance between multivariate normal
    distributions"; for style transfer: github.com/crowsonkb/style-transfer-pytorch.
    Differs from source: 1e-4 of the target's mean variance is added to both covariances, where
    the latter adds 1e-4, so that the scale of the weights doesn't matter.

    Args:
      statistic: mean float32[channels] and covariance float32[channels, channels].
      target: likewise.
    """
    (mean, covariance), (target_mean, target_covariance) = statistic, target
    channels = mean.shape[0]
    ridge = 1e-4 * jnp.trace(target_covariance) / channels + TINY
    identity = jnp.eye(channels, dtype=covariance.dtype)
    covariance = covariance + ridge * identity
    target_covariance = target_covariance + ridge * identity
    root, _ = _square_roots(target_covariance)
    product = _matmul(_matmul(root, covariance), root)
    trace = jnp.trace(covariance) + jnp.trace(target_covariance) - 2 * trace_of_root(product)
    # Rounding can leave it just below zero where both are the same.
    return sum_squared_error(mean, target_mean), jnp.maximum(trace, 0)


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _square_roots(matrix: Array, *, rounds: int = 24) -> tuple[Array, Array]:
    """Compute the square root of a positive definite matrix, and its inverse.

    Source: the coupled Newton-Schulz iteration, Higham 2008, "Functions of Matrices", (6.35).
    """
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    # A bound of the largest eigenvalue; squares of small entries would be zero in float32.
    scale = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))

    def improve(pair: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        root, inverse = pair
        factor = 1.5 * identity - 0.5 * _matmul(inverse, root)
        return (_matmul(root, factor), _matmul(factor, inverse)), None

    (root, inverse), _ = lax.scan(improve, (matrix / scale, identity), length=rounds)
    return root * jnp.sqrt(scale), inverse / jnp.sqrt(scale)


@jax.custom_vjp
def trace_of_root(matrix: Array) -> Array:
    """Compute tr(A^1/2) of a positive definite matrix; its gradient is A^-1/2 / 2."""
    return jnp.trace(_square_roots(matrix)[0])


def _trace_of_root_forward(matrix: Array) -> tuple[Array, Array]:
    root, inverse = _square_roots(matrix)
    return jnp.trace(root), inverse


def _trace_of_root_backward(inverse: Array, cotangent: Array) -> tuple[Array]:
    return (0.5 * cotangent * inverse,)


trace_of_root.defvjp(_trace_of_root_forward, _trace_of_root_backward)


def _distance_of_gaussians(
    features: Array, weights: Array | None, target: tuple[Array, Array]
) -> Array:
    of_means, of_covariances = gaussian_wasserstein(gaussian_statistic(features, weights), target)
    return of_means + of_covariances


def _energy_of_gaussian(target: tuple[Array, Array]) -> Array:
    mean, covariance = target
    return jnp.sum(jnp.square(mean)) + jnp.trace(covariance)


def _shares(weights: Array | None) -> Array | None:
    """Return weights as float[positions] with the sum 1, or zeros where there is none."""
    if weights is None:
        return None
    column = _column(weights)
    return (column / jnp.maximum(jnp.sum(column), TINY)).reshape(-1)


def _distance_of_rows(values: Array, weights: Array | None, target: Quantiles) -> Array:
    """Sum, over rows, the mean squared difference to what `match` makes of the values.

    The squared Wasserstein-2 distance of two distributions along a line; with as many quantiles as
    positions, mean (sort(x) - sort(y))^2. Which value belongs to which is held constant in the
    gradient, where it doesn't change anyway: it is that of a squared error, through no sort.

    Args:
      values: float[rows, positions].
      weights: of the positions, float[height, width], or None.
      target: of the same rows.
    """
    shares = _shares(weights)
    matched = match(lax.stop_gradient(values), target, shares)
    squares = jnp.square(values - matched)
    if shares is None:
        return jnp.sum(squares) / values.shape[1]
    return jnp.sum(squares * shares.reshape(1, -1))


def _energy_of_rows(target: Quantiles) -> Array:
    return jnp.sum(jnp.square(target.values)) / target.values.shape[1]


class Slices(NamedTuple):
    """A distribution of features as seen from several directions.

    Attributes:
      directions: float[directions, channels] of length 1. Part of the statistic, so that they are
        data of the compiled step; a mean of statistics leaves them as they are.
      quantiles: of the projections, one row per direction.
    """

    directions: Array
    quantiles: Quantiles


@functools.cache
def draw_directions(num_channels: int) -> npt.NDArray[np.float64]:
    """Return an orthonormal basis float64[channels, channels] in rows, always the same.

    It is drawn evenly from all rotations and reflections, as in Mezzadri 2007, "How to generate
    random matrices from the classical compact groups".
    """
    normal = np.random.default_rng(0).standard_normal((num_channels, num_channels))
    basis, triangle = np.linalg.qr(normal)
    directions = (basis * np.sign(np.diag(triangle))).T
    directions.flags.writeable = False
    return directions


def slice_features(features: Array, weights: Array | None = None) -> Slices:
    """Compute the quantiles of the features' projections on the directions of `draw_directions`."""
    positions = _positions(features)
    directions = jnp.asarray(draw_directions(positions.shape[1]), positions.dtype)
    return Slices(directions, find_quantiles(_project(positions, directions), _shares(weights)))


def _project(positions: Array, directions: Array) -> Array:
    # With positions last, where they are sorted.
    return jnp.einsum("pc,dc->dp", positions, directions, precision=lax.Precision.HIGHEST)


def _distance_of_slices(features: Array, weights: Array | None, target: Slices) -> Array:
    """Sum, over directions, the mean squared difference of the sorted projections.

    Source: Heitz, Vanhoey, Chambon & Belcour 2021, "A sliced Wasserstein loss for neural texture
    synthesis", arXiv 2006.07229, section 3.
    Differs from source: the directions, as many as channels, are a fixed orthonormal basis, where
    new ones are drawn for every evaluation: a line search needs one function. Every difference of
    means then counts in full, and the energies of the projections have the sum of the channels'.
    Styles of other sizes have their quantile functions, linear between the sorted values, read at
    (i + 1/2) / M.
    """
    projections = _project(_positions(features), target.directions)
    return _distance_of_rows(projections, weights, target.quantiles)


def _energy_of_slices(target: Slices) -> Array:
    return _energy_of_rows(target.quantiles)


def channel_quantiles(features: Array, weights: Array | None = None) -> Quantiles:
    """Compute every channel's quantiles."""
    return find_quantiles(_positions(features).T, _shares(weights))


def _distance_of_histograms(features: Array, weights: Array | None, target: Quantiles) -> Array:
    """Sum, over channels, the mean of (F - R(F))^2, where R(F) has the style's histogram.

    Source: Risser, Wilmot & Barnes 2017, "Stable and controllable neural texture synthesis and
    style transfer using histogram losses", arXiv 1701.08893, equation (8), with R held constant.
    Differs from source: R is exact, by sorting, where the source's histograms have 256 bins; equal
    values, such as the zeros after a ReLU, are shared out among the style's values instead of all
    becoming the same one, so that the histograms are the same wherever the loss is 0; and it is a
    mean over positions, where the source has a sum.
    """
    return _distance_of_rows(_positions(features).T, weights, target)


_MOMENTS = mean_and_deviation, _distance_of_moments
_GAUSSIANS = gaussian_statistic, _distance_of_gaussians
_SLICES = slice_features, _distance_of_slices
_HISTOGRAMS = channel_quantiles, _distance_of_histograms

STYLE_LOSSES: dict[str, StyleLoss] = {
    # sum (G/M - A/M)^2 / sum (A/M)^2
    "relative": _gram_loss(lambda gram, target, m: relative_error(gram, target)),
    # 1/N^2 sum (G/M - A/M)^2: github.com/leongatys/PytorchNeuralStyleTransfer. The same as
    # sum (G/NM - A/NM)^2: github.com/gordicaleksa/pytorch-neural-style-transfer
    "mean": _gram_loss(lambda gram, target, m: mean_squared_error(gram, target)),
    # sum (G/M - A/M)^2
    "sum": _gram_loss(lambda gram, target, m: sum_squared_error(gram, target)),
    # 1/2 sum (G - A)^2, both times the image's M where the pictures' sizes differ.
    "half_sum": _gram_loss(lambda gram, target, m: 0.5 * m**2 * sum_squared_error(gram, target)),
    # sum (G - A)^2 / (4 N^2 M^2): Gatys et al. 2015, arXiv 1508.06576, equation (4). It doesn't
    # say which M it means where the pictures' sizes differ; here each Gram has its own.
    "gatys": _gram_loss(lambda gram, target, m: 0.25 * mean_squared_error(gram, target)),
    # 1/N^2 sum (G/NM - A/NM)^2: github.com/jcjohnson/neural-style
    "mean_elements": _gram_loss(
        lambda gram, target, m: mean_squared_error(gram, target) / gram.shape[0] ** 2
    ),
    # (|m-m'|^2 + tr(...)) / N, see `gaussian_wasserstein`. Its authors average over channels, and
    # the diagonal for the trace.
    "wasserstein": _mean_over_channels(*_GAUSSIANS),
    # (|m-m'|^2 + tr(...)) / (|m'|^2 + tr S')
    "relative_wasserstein": _over_energy(*_GAUSSIANS, _energy_of_gaussian),
    # 1/N sum (m-m')^2 + (s-s')^2: Li, Wang, Liu & Hou 2017, "Demystifying neural style transfer",
    # arXiv 1701.01036; Huang & Belongie 2017, arXiv 1703.06868, equation (13), without its roots.
    "mean_std": _mean_over_channels(*_MOMENTS),
    # sum (m-m')^2 + (s-s')^2 / sum m'^2 + s'^2
    "relative_mean_std": _over_energy(*_MOMENTS, _energy_of_moments),
    # mean over directions and positions of (sort(F v) - sort(P v))^2, see `_distance_of_slices`
    "sliced_wasserstein": _mean_over_channels(*_SLICES),
    # the same over mean (P v)^2
    "relative_sliced_wasserstein": _over_energy(*_SLICES, _energy_of_slices),
    # mean over channels and positions of (F - R(F))^2, see `_distance_of_histograms`
    "histogram": _mean_over_channels(*_HISTOGRAMS),
    # the same over mean P^2
    "relative_histogram": _over_energy(*_HISTOGRAMS, _energy_of_rows),
}
"""Style formulas, by name. G and A are Gram matrices of the image and of the style."""

SORTING_LOSSES = frozenset(name for name in STYLE_LOSSES if "sliced" in name or "histogram" in name)
"""Those that keep and sort every feature, and need memory for it."""
