"""What terms that go through layers compare with, and how much each layer counts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.config.fields import LayerWeights

# Below any loss between images that differ: a layer without a loss to divide by keeps its weight.
_SMALLEST_REFERENCE = 1e-8


class LayerTarget(NamedTuple):
    """What a term that goes through layers compares with.

    Attributes:
      values: layer to features, or to one statistic per region.
      temperatures: layer to that of the smoothing.
      shifts: layer to that of the smoothing in parts.
      layer_weights: layer to its w_l, balanced if that was asked for.
      memberships: layer to float32[height', width', regions]; empty without regions.
      importance: layer to each region's share of the loss, float32[regions].
    """

    values: dict[str, Any]
    temperatures: dict[str, Array]
    shifts: dict[str, Array]
    layer_weights: dict[str, Array]
    memberships: dict[str, Array]
    importance: dict[str, Array]


def layer_names(layer_weights: LayerWeights) -> tuple[str, ...]:
    """Return the layers that have a weight."""
    return tuple(name for name, _ in layer_weights)


def weight_arrays(layer_weights: LayerWeights) -> dict[str, Array]:
    """Return layer to w_l, float32[]."""
    return {name: jnp.float32(weight) for name, weight in layer_weights}


def balance_weights(
    weights: Mapping[str, Array], references: Mapping[str, Array]
) -> dict[str, Array]:
    """Divide each layer's weight by a loss of that layer, where there is one."""
    return {
        name: jnp.where(references[name] > _SMALLEST_REFERENCE, weight / references[name], weight)
        for name, weight in weights.items()
    }
