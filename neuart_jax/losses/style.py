"""Style losses: position-invariant statistics of a layer's features, and distances between them.

Symbols: F, P are the features float[height, width, channels] of the image being optimized and of
the style; N = channels; M = height * width positions; G, A are their Gram matrices; m, s and m', s'
the means and standard deviations of their channels.

Every loss supports soft masks: `weights` float[height, width] of at least 0, the membership of each
position in a region. Sums over positions become weighted sums, M becomes the sum of the weights,
and None stands for ones. The weights are data: no gradient flows into them. Statistics are computed
and compared in float32 or better, whatever the features' dtype.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.losses.distributions import (
    channel_quantiles,
    distance_of_histograms,
    distance_of_slices,
    energy_of_rows,
    energy_of_slices,
    slice_features,
)
from neuart_jax.losses.elementwise import (
    TINY,
    mean_squared_error,
    relative_error,
    sum_squared_error,
)
from neuart_jax.losses.gaussian import (
    NUM_PRINCIPAL,
    TargetGaussian,
    gaussian_wasserstein,
    make_target_gaussian,
)
from neuart_jax.losses.moments import (
    Moments,
    deviation_of,
    find_mean,
    gaussian_of,
    gram_of,
    sum_moments,
)
from neuart_jax.losses.quantiles import Quantiles, resample


class StyleLoss(NamedTuple):
    """A style formula.

    Attributes:
      statistic: (features of the style, weights or None) -> any pytree of float arrays without an
        axis of positions, which `blend_statistics` can average.
      compare: (features of the image being optimized, weights or None, statistic of the style) ->
        scalar.
    """

    statistic: Callable[[Array, Array | None], Any]
    compare: Callable[[Array, Array | None, Any], Array]


def blend_statistics(statistics: Sequence[Any], shares: Sequence[Array | float]) -> Any:
    """Return the weighted mean of several styles' statistics: one target.

    Styles of different sizes have different numbers of quantiles; all are resampled to the largest
    number, so that nothing is lost.

    Args:
      statistics: statistics of the same `StyleLoss`.
      shares: share of each statistic, with the sum 1.
    """

    def blend(*parts: Any) -> Any:
        if isinstance(parts[0], Quantiles):
            num_levels = max(part.values.shape[1] for part in parts)
            return Quantiles(blend(*(resample(part, num_levels).values for part in parts)))
        return sum(share * part for share, part in zip(shares, parts, strict=True))

    return jax.tree.map(blend, *statistics, is_leaf=lambda part: isinstance(part, Quantiles))


class MomentLoss(NamedTuple):
    """A style formula over moments, which can be summed over parts of an image.

    Attributes:
      read: (moments, their origin or None) -> statistic; see `moments`.
      distance: (statistic of the image being optimized, target, M) -> scalar.
      prepare: (statistic of the style, possibly a blend) -> target, with everything that can be
        precomputed for comparisons.
      centered: whether moments should be taken about the mean, which is then the first part of the
        statistic; otherwise they are about 0.
      diagonal: whether products of different channels are not needed.
    """

    read: Callable[[Moments, Array | None], Any]
    distance: Callable[[Any, Any, Array], Array]
    prepare: Callable[[Any], Any] = lambda statistic: statistic
    centered: bool = False
    diagonal: bool = False

    def origin(self, target: Any) -> Array | None:
        """Return the origin of moments that are compared with a style's target."""
        return target[0] if self.centered else None

    def sum(self, features: Array, weights: Array | None, origin: Array | None) -> Moments:
        """Return the moments that `read` needs."""
        return sum_moments(features, weights, origin=origin, diagonal=self.diagonal)

    def compare(self, moments: Moments, origin: Array | None, target: Any) -> Array:
        """Return the loss of features with these moments about an origin."""
        return self.distance(
            self.read(moments, origin), target, jnp.maximum(moments.total_weight, TINY)
        )

    def measure(self, features: Array, weights: Array | None) -> tuple[Moments, Array | None]:
        """Return the moments of complete features, and their origin."""
        origin = find_mean(features, weights) if self.centered else None
        return self.sum(features, weights, origin), origin

    def over_features(self) -> StyleLoss:
        """Return the same formula as a loss of complete features."""

        def statistic(features: Array, weights: Array | None) -> Any:
            return self.read(*self.measure(features, weights))

        def compare(features: Array, weights: Array | None, target: Any) -> Array:
            return self.compare(*self.measure(features, weights), self.prepare(target))

        return StyleLoss(statistic, compare)


def _gram_loss(distance: Callable[[Array, Array, Array], Array]) -> MomentLoss:
    """Make a loss from a distance of (G/M, A/M, M)."""
    return MomentLoss(gram_of, distance)


def _energy_of_gaussian(target: TargetGaussian) -> Array:
    return jnp.sum(jnp.square(target.mean)) + jnp.trace(target.covariance)


def _distance_of_deviations(statistic: Any, target: Any) -> Array:
    (mean, deviation), (target_mean, target_deviation) = statistic, target
    return sum_squared_error(mean, target_mean) + sum_squared_error(deviation, target_deviation)


def _energy_of_deviations(target: tuple[Array, Array]) -> Array:
    mean, deviation = target
    return jnp.sum(jnp.square(mean)) + jnp.sum(jnp.square(deviation))


def _gaussian_loss(
    divide: Callable[[Array, Any], Array], *, num_principal: int | None = None
) -> MomentLoss:
    """Make a loss from a normalization: (sum over channels, statistic of the style) -> scalar."""

    def distance(own: Any, target: TargetGaussian, m: Array) -> Array:
        of_means, of_covariances = gaussian_wasserstein(own, target, num_principal=num_principal)
        return divide(of_means + of_covariances, target)

    return MomentLoss(
        gaussian_of,
        distance,
        prepare=make_target_gaussian,
        centered=True,
    )


def _deviation_loss(divide: Callable[[Array, Any], Array]) -> MomentLoss:
    return MomentLoss(
        deviation_of,
        lambda own, target, m: divide(_distance_of_deviations(own, target), target),
        centered=True,
        diagonal=True,
    )


def _by_channels(total: Array, target: Sequence[Array]) -> Array:
    return total / target[0].shape[0]


def _by(energy: Callable[[Any], Array]) -> Callable[[Array, Any], Array]:
    """Make a normalization by the style's energy, so that a loss is invariant to feature scale.

    The energy of a style is sum P^2 / M, as computed from its statistic; the loss is finite for an
    all-zero style as well.
    """
    return lambda total, target: total / jnp.maximum(energy(target), TINY)


Distance = Callable[[Array, Array | None, Any], Array]
"""(features, weights or None, statistic of the style) -> sum over channels."""


def _mean_over_channels(statistic: Callable[..., Any], distance: Distance) -> StyleLoss:
    def compare(features: Array, weights: Array | None, target: Any) -> Array:
        return distance(features, weights, target) / features.shape[-1]

    return StyleLoss(statistic, compare)


def _over_energy(
    statistic: Callable[..., Any], distance: Distance, energy: Callable[[Any], Array]
) -> StyleLoss:
    by_energy = _by(energy)

    def compare(features: Array, weights: Array | None, target: Any) -> Array:
        return by_energy(distance(features, weights, target), target)

    return StyleLoss(statistic, compare)


MOMENT_LOSSES: dict[str, MomentLoss] = {
    # sum (G/M - A/M)^2 / sum (A/M)^2
    "relative": _gram_loss(lambda gram, target, m: relative_error(gram, target)),
    # 1/N^2 sum (G/M - A/M)^2: github.com/leongatys/PytorchNeuralStyleTransfer. The same as
    # sum (G/NM - A/NM)^2: github.com/gordicaleksa/pytorch-neural-style-transfer
    "mean": _gram_loss(lambda gram, target, m: mean_squared_error(gram, target)),
    # sum (G/M - A/M)^2
    "sum": _gram_loss(lambda gram, target, m: sum_squared_error(gram, target)),
    # 1/2 sum (G - A)^2, both with the optimized image's M if the images' sizes differ.
    "half_sum": _gram_loss(lambda gram, target, m: 0.5 * m**2 * sum_squared_error(gram, target)),
    # sum (G - A)^2 / (4 N^2 M^2): Gatys et al. 2015, arXiv 1508.06576, equation (4). The paper
    # doesn't say which M it means if the images' sizes differ; here each Gram matrix has its own.
    "gatys": _gram_loss(lambda gram, target, m: 0.25 * mean_squared_error(gram, target)),
    # 1/N^2 sum (G/NM - A/NM)^2: github.com/jcjohnson/neural-style
    "mean_elements": _gram_loss(
        lambda gram, target, m: mean_squared_error(gram, target) / gram.shape[0] ** 2
    ),
    # (|m-m'|^2 + tr(...)) / N, see `gaussian.gaussian_wasserstein`. The source averages over
    # channels, and over the diagonal for the trace.
    "wasserstein": _gaussian_loss(_by_channels),
    # (|m-m'|^2 + tr(...)) / (|m'|^2 + tr S')
    "relative_wasserstein": _gaussian_loss(_by(_energy_of_gaussian)),
    # the same, with only the variances of what lies outside the style's first components
    "principal_wasserstein": _gaussian_loss(_by(_energy_of_gaussian), num_principal=NUM_PRINCIPAL),
    # 1/N sum (m-m')^2 + (s-s')^2: Li, Wang, Liu & Hou 2017, "Demystifying neural style transfer",
    # arXiv 1701.01036; Huang & Belongie 2017, arXiv 1703.06868, equation (13), without its roots.
    "mean_std": _deviation_loss(_by_channels),
    # sum (m-m')^2 + (s-s')^2 / sum m'^2 + s'^2
    "relative_mean_std": _deviation_loss(_by(_energy_of_deviations)),
}
"""Style formulas over sums, by name. G and A are Gram matrices of the image and of the style."""

_SLICES = slice_features, distance_of_slices
_HISTOGRAMS = channel_quantiles, distance_of_histograms

_SORTING_LOSSES: dict[str, StyleLoss] = {
    # mean over directions and positions of (sort(F v) - sort(P v))^2, see `distance_of_slices`
    "sliced_wasserstein": _mean_over_channels(*_SLICES),
    # the same over mean (P v)^2
    "relative_sliced_wasserstein": _over_energy(*_SLICES, energy_of_slices),
    # mean over channels and positions of (F - R(F))^2, see `distance_of_histograms`
    "histogram": _mean_over_channels(*_HISTOGRAMS),
    # the same over mean P^2
    "relative_histogram": _over_energy(*_HISTOGRAMS, energy_of_rows),
}

STYLE_LOSSES: dict[str, StyleLoss] = {
    **{name: loss.over_features() for name, loss in MOMENT_LOSSES.items()},
    **_SORTING_LOSSES,
}
"""Style formulas, by name."""

SORTING_LOSSES = frozenset(_SORTING_LOSSES)
"""Style formulas that sort all features, and need the memory for it."""
