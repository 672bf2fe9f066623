"""From pixels to the features of the layers asked for."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
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


def transform_kernels(
    module: Any, params: NetworkParams, layers: Iterable[str], *, size: tuple[int, int]
) -> NetworkParams:
    """Add to a network what its convolutions need to take a quarter of the products.

    Args:
      module: a linen module from `models`.
      params: its arrays.
      layers: names of the layers that will be asked for; only kernels on the way are transformed.
      size: (height, width) of a picture large enough for these layers.

    Returns:
      The same arrays with the collection "winograd" beside them; see `models.winograd`.
    """
    transformed = _kernel_transform(module, tuple(layers), size)(params.variables)
    return params._replace(variables={**params.variables, **transformed})


@functools.lru_cache(maxsize=16)
def _kernel_transform(
    module: Any, layers: tuple[str, ...], size: tuple[int, int]
) -> Callable[[Any], Any]:
    def transform(variables: Any) -> Any:
        # Features aren't asked for, so the compiler leaves only the kernels' transforms.
        image = jnp.zeros((*size, 3), jax.tree.leaves(variables)[0].dtype)
        return module.apply(variables, image, layers=layers, mutable=["winograd"])[1]

    return jax.jit(transform)
