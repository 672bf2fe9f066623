"""From pixels to the features of the layers asked for."""

from collections.abc import Callable, Iterable
from typing import Any

from jax import Array

from neuart_jax.models import NetworkParams

Features = dict[str, Array]
FeatureFn = Callable[[Any, Array], Features]
"""(params, image) -> features: all that the objective knows of a network."""


def make_feature_fn(module: Any, layers: Iterable[str]) -> FeatureFn:
    """Bind a network and its layers into one pure function.

    Args:
      module: a linen module from `models`, or anything with the same `apply`.
      layers: names of the layers to keep.

    Returns:
      A function of NetworkParams and of an image float[..., height, width, 3], sRGB in [0, 1],
      that gives {layer: float[..., height', width', channels]}.
    """
    layers = tuple(layers)

    def feature_fn(params: NetworkParams, image: Array) -> Features:
        per_channel = (1,) * (image.ndim - 1) + (3,)
        mean = params.mean.astype(image.dtype).reshape(per_channel)
        std = params.std.astype(image.dtype).reshape(per_channel)
        return module.apply(params.variables, (image - mean) / std, layers=layers)

    return feature_fn
