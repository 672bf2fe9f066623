"""What may become of features before they are compared: a softmax over a whole layer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.losses.elementwise import smooth
from neuart_jax.models.features import Features
from neuart_jax.objective.windows import Measure, Window


class Smoothing(NamedTuple):
    """What becomes of features before they are compared; see `elementwise.smooth`.

    In parts of an image it is taken apart. With a shift c that is about the logarithm of the mean
    of e^(F/T), `part` gives E = e^(F/T - c) - 1, which is as small as the smoothed features are
    near 1; they are (1 + E) / (1 + m), where m is the mean of E over the whole layer. So nothing
    cancels in float32, where sums of e^(F/T) would leave nothing of small differences.

    Attributes:
      kind: "none"; "softmax"; or "centered_softmax", less its mean. Gram matrices of features
        with the mean 1 are nearly all ones at high temperatures, and a relative error sees little
        else.
      temperature: of the softmax: of "softmax" in the features' unit, of "centered_softmax" in
        standard deviations of the target's features.
    """

    kind: str = "none"
    temperature: float = 1.0

    @property
    def is_none(self) -> bool:
        """Whether features stay as they are."""
        return self.kind == "none"

    @property
    def level(self) -> float:
        """What smoothed features have for a mean."""
        return 0.0 if self.kind == "centered_softmax" else 1.0

    def find_temperatures(self, measure: Measure, layers: Sequence[str]) -> dict[str, Array]:
        """Return each layer's temperature, in the features' own unit: part of a target.

        Args:
          measure: of the image that is the target.
          layers: to be smoothed.
        """
        if self.kind != "centered_softmax":
            return {name: self.temperature * jnp.ones(()) for name in layers}

        means = _average(measure, layers, lambda name, values: values)
        variances = _average(measure, layers, lambda name, values: jnp.square(values - means[name]))
        # A flat image's features have no spread to be measured in.
        return {n: self.temperature * jnp.maximum(jnp.sqrt(v), 1e-6) for n, v in variances.items()}

    def find_shifts(self, measure: Measure, temperatures: dict[str, Array]) -> dict[str, Array]:
        """Return the logarithm of the mean of e^(F/T) of each layer.

        Args:
          measure: of the image that has the features F.
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
        """Smooth one layer's features, which are there in full."""
        if self.is_none:
            return features
        smoothed = smooth(features, temperature)
        return smoothed - 1 if self.kind == "centered_softmax" else smoothed

    def begin(
        self, features: Array, temperature: Array, shift: Array, core: Array | None
    ) -> tuple[Array, "Smoothing"]:
        """Smooth one layer as far as can be done in a window, and return what is left to do.

        Args:
          features: of the window.
          temperature: of the layer.
          shift: of the layer; see `part`.
          core: of the window; without one it shows the whole layer, which is smoothed at once.
        """
        if core is None:
            return self(features, temperature), NO_SMOOTHING
        return self.part(features, temperature, shift), self

    def part(self, features: Array, temperature: Array, shift: Array) -> Array:
        """Return E of a part of one layer's features, or the features if they aren't smoothed.

        Features more than 40 temperatures above all those that the shift comes from overflow
        float32 in the sums of squares.
        """
        if self.is_none:
            return features
        return jnp.expm1(features.astype(_float(features)) / temperature - shift)

    def factor(self, mean: Array) -> Array:
        """Return what a difference of E becomes in the smoothed features.

        Args:
          mean: m, over all channels and positions of the layer.
        """
        return jnp.ones(()) if self.is_none else 1 / (1 + mean)

    def origin_of_part(self, origin: Array) -> Array:
        """Return the E that becomes `origin` where m is 0."""
        return origin if self.is_none else origin - self.level

    def origin(self, part: Array, mean: Array) -> Array:
        """Return what E becomes in the smoothed features."""
        return part if self.is_none else self.level + (part - mean) / (1 + mean)


NO_SMOOTHING = Smoothing()


def _float(values: Array) -> jnp.dtype:
    return jnp.promote_types(values.dtype, jnp.float32)


def _average(
    measure: Measure, layers: Sequence[str], change: Callable[[str, Array], Array]
) -> dict[str, Array]:
    """Return each layer's mean, over all elements, of what its features are changed into."""

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
      core: float32[height, width], 1 where a position counts and 0 elsewhere; None counts all.
    """
    if core is None:
        return jnp.sum(values), jnp.full((), values.size, values.dtype)
    core = core.reshape(*core.shape, 1).astype(values.dtype)
    return jnp.sum(core * values), jnp.sum(core) * values.shape[2]


def _log_sum_exp(values: Array, core: Array | None) -> Array:
    if core is not None:
        values = jnp.where(core.reshape(*core.shape, 1) > 0, values, -jnp.inf)
    return jax.nn.logsumexp(values)
