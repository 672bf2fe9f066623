"""Targets of terms over layers, and the weights of the layers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.config.fields import LayerWeights

# Below the loss of any two different images: a layer with a smaller loss keeps its weight.
_SMALLEST_REFERENCE = 1e-8


class LayerTarget(NamedTuple):
    """Target of a term over layers; every attribute is a dictionary by layer.

    Attributes:
      values: the layer's features, or one statistic per region.
      temperatures: temperature of the smoothing.
      shifts: shift of the smoothing in parts.
      layer_weights: the layer's w_l, balanced if requested.
      memberships: soft masks, float32[height', width', regions]; empty without regions.
      importance: each region's share of the loss, float32[regions].
    """

    values: dict[str, Any]
    temperatures: dict[str, Array]
    shifts: dict[str, Array]
    layer_weights: dict[str, Array]
    memberships: dict[str, Array]
    importance: dict[str, Array]


def layer_names(layer_weights: LayerWeights) -> tuple[str, ...]:
    """Return the names of the layers."""
    return tuple(name for name, _ in layer_weights)


def weight_arrays(layer_weights: LayerWeights) -> dict[str, Array]:
    """Return every layer's w_l as float32[]."""
    return {name: jnp.float32(weight) for name, weight in layer_weights}


def balance_weights(
    weights: Mapping[str, Array], references: Mapping[str, Array]
) -> dict[str, Array]:
    """Divide each layer's weight by a reference loss of that layer, unless that loss is zero."""
    return {
        name: jnp.where(references[name] > _SMALLEST_REFERENCE, weight / references[name], weight)
        for name, weight in weights.items()
    }
