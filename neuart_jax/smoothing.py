"""What may become of features before they are compared: a softmax over a whole layer."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.losses import smooth


class Smoothing(NamedTuple):
    """What becomes of features before they are compared; see `losses.smooth`.

    Attributes:
      kind: "none"; "softmax"; or "centered_softmax", less its mean. Gram matrices of features
        with the mean 1 are nearly all ones at high temperatures, and a relative error sees little
        else.
      temperature: of the softmax: of "softmax" in the features' unit, of "centered_softmax" in
        standard deviations of the target's features.
    """

    kind: str = "none"
    temperature: float = 1.0

    def find_temperatures(
        self, features: Mapping[str, Array], layers: Sequence[str]
    ) -> dict[str, Array]:
        """Return each layer's temperature, in the features' own unit: part of a target."""
        units = {
            "none": lambda values: jnp.ones(()),
            "softmax": lambda values: jnp.ones(()),
            # A flat picture's features have no spread to be measured in.
            "centered_softmax": lambda values: jnp.maximum(
                jnp.std(values.astype(jnp.promote_types(values.dtype, jnp.float32))), 1e-6
            ),
        }
        return {name: self.temperature * units[self.kind](features[name]) for name in layers}

    def __call__(self, features: Array, temperature: Array) -> Array:
        """Smooth one layer's features."""
        if self.kind == "none":
            return features
        smoothed = smooth(features, temperature)
        return smoothed - 1 if self.kind == "centered_softmax" else smoothed


NO_SMOOTHING = Smoothing()
