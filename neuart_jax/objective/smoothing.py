"""Smoothing of features before they are compared: a softmax over a whole layer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.losses.elementwise import smooth
from neuart_jax.models.features import Features
from neuart_jax.objective.windows import Measure, Window


class Smoothing(NamedTuple):
    """Smoothing of features by a softmax over the whole layer; see `elementwise.smooth`.

    For parts of an image the softmax is decomposed. With a shift c close to the logarithm of the
    mean of e^(F/T), `part` computes E = e^(F/T - c) - 1, which is small if the smoothed features
    are near 1; they are (1 + E) / (1 + m), where m is the mean of E over the whole layer. This
    avoids cancellation in float32, where sums of e^(F/T) would lose small differences.

    Attributes:
      kind: "none"; "softmax"; or "centered_softmax", the softmax minus its mean. At high
        temperatures, Gram matrices of features with the mean 1 are nearly all ones, which dominate
        a relative error.
      temperature: temperature of the softmax: in the unit of the features for "softmax", in
        standard deviations of the target's features for "centered_softmax".
    """

    kind: str = "none"
    temperature: float = 1.0

    @property
    def is_none(self) -> bool:
        """Whether features are left unchanged."""
        return self.kind == "none"

    @property
    def level(self) -> float:
        """Mean of the smoothed features."""
        return 0.0 if self.kind == "centered_softmax" else 1.0

    def find_temperatures(self, measure: Measure, layers: Sequence[str]) -> dict[str, Array]:
        """Return each layer's temperature in the unit of its features, as part of a target.

        Args:
          measure: `Measure` of the target image.
          layers: the layers to smooth.
        """
        if self.kind != "centered_softmax":
            return {name: self.temperature * jnp.ones(()) for name in layers}

        means = _average(measure, layers, lambda name, values: values)
        variances = _average(measure, layers, lambda name, values: jnp.square(values - means[name]))
        # The features of a constant image have no standard deviation.
        return {n: self.temperature * jnp.maximum(jnp.sqrt(v), 1e-6) for n, v in variances.items()}

    def find_shifts(self, measure: Measure, temperatures: dict[str, Array]) -> dict[str, Array]:
        """Return the logarithm of the mean of e^(F/T) for each layer.

        Args:
          measure: `Measure` of the image with the features F.
          temperatures: T of every layer.
        """
        if self.is_none:
            return {name: jnp.zeros(()) for name in temperatures}

        def logarithms(features: Features, window: Window) -> dict[str, tuple[Array, Array]]:
            found = {}
            for name, temperature in temperatures.items():
                values = features[name].astype(_float(features[name])) / temperature
                core = window.core(name)
                counts = jnp.zeros_like(values)
                found[name] = (_log_sum_exp(values, core), _log_sum_exp(counts, core))
            return found

        found = measure(logarithms, combine=jnp.logaddexp, initial=-jnp.inf)
        return {name: total - count for name, (total, count) in found.items()}

    def __call__(self, features: Array, temperature: Array) -> Array:
        """Smooth a layer's complete features."""
        if self.is_none:
            return features
        smoothed = smooth(features, temperature)
        return smoothed - 1 if self.kind == "centered_softmax" else smoothed

    def begin(
        self, features: Array, temperature: Array, shift: Array, core: Array | None
    ) -> tuple[Array, "Smoothing"]:
        """Smooth a layer as far as possible within a window, and return the remaining smoothing.

        Args:
          features: the layer's features in the window.
          temperature: temperature of the layer.
          shift: shift of the layer; see `part`.
          core: core of the window; None for a window with the whole layer, which is smoothed
            completely.
        """
        if core is None:
            return self(features, temperature), NO_SMOOTHING
        return self.part(features, temperature, shift), self

    def part(self, features: Array, temperature: Array, shift: Array) -> Array:
        """Return E for a part of a layer's features, or the features if they aren't smoothed.

        Features more than 40 temperatures above all those that determined the shift overflow
        float32 in sums of squares.
        """
        if self.is_none:
            return features
        return jnp.expm1(features.astype(_float(features)) / temperature - shift)

    def factor(self, mean: Array) -> Array:
        """Return the factor from a difference of E to one of the smoothed features.

        Args:
          mean: m, over all channels and positions of the layer.
        """
        return jnp.ones(()) if self.is_none else 1 / (1 + mean)

    def origin_of_part(self, origin: Array) -> Array:
        """Return the E that corresponds to `origin` for m = 0."""
        return origin if self.is_none else origin - self.level

    def origin(self, part: Array, mean: Array) -> Array:
        """Return the smoothed features that correspond to E."""
        return part if self.is_none else self.level + (part - mean) / (1 + mean)


NO_SMOOTHING = Smoothing()


def _float(values: Array) -> jnp.dtype:
    return jnp.promote_types(values.dtype, jnp.float32)


def _average(
    measure: Measure, layers: Sequence[str], change: Callable[[str, Array], Array]
) -> dict[str, Array]:
    """Return the mean of a function of each layer's features, over all elements."""

    def sums(features: Features, window: Window) -> dict[str, tuple[Array, Array]]:
        found = {}
        for name in layers:
            values = change(name, features[name].astype(_float(features[name])))
            found[name] = sum_elements(values, window.core(name))
        return found

    return {name: total / count for name, (total, count) in measure(sums).items()}


def sum_elements(values: Array, core: Array | None) -> tuple[Array, Array]:
    """Return the sum over all elements of float[height, width, channels], and their number.

    Args:
      values: in float32 or better.
      core: float32[height, width], 1 for positions that count and 0 elsewhere; None counts all.
    """
    if core is None:
        return jnp.sum(values), jnp.full((), values.size, values.dtype)
    core = core.reshape(*core.shape, 1).astype(values.dtype)
    return jnp.sum(core * values), jnp.sum(core) * values.shape[2]


def _log_sum_exp(values: Array, core: Array | None) -> Array:
    if core is not None:
        values = jnp.where(core.reshape(*core.shape, 1) > 0, values, -jnp.inf)
    return jax.nn.logsumexp(values)
