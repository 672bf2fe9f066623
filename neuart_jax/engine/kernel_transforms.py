"""Transform the kernels of fast convolutions once for all evaluations of a run."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from neuart_jax.config.config import Config
from neuart_jax.engine.cache_key import cache_key
from neuart_jax.engine.compile import compile_fn
from neuart_jax.models import NetworkParams
from neuart_jax.models.features import takes_winograd
from neuart_jax.models.params.load import Network


def prepare_params(
    network: Network, config: Config, *, layers: Iterable[str], size: tuple[int, int]
) -> NetworkParams:
    """Return a network's parameters in the form that a run computes with.

    Args:
      network: the loaded network.
      config: resolved configuration of the run.
      layers: the layers that are read.
      size: (height, width) of the content.
    """
    if not takes_winograd(config.compute):
        return network.params
    return transform_kernels(network.module, network.params, layers, size=size)


def transform_kernels(
    module: Any, params: NetworkParams, layers: Iterable[str], *, size: tuple[int, int]
) -> NetworkParams:
    """Add the transformed kernels for Winograd convolutions to a network's parameters.

    Args:
      module: a linen module from `models`.
      params: parameters of the module.
      layers: names of the layers that are read; only kernels up to them are transformed.
      size: (height, width) of an image large enough for these layers.

    Returns:
      The parameters with an additional collection "winograd"; see `models.winograd`.
    """
    transformed = _kernel_transform(module, tuple(layers), size)(params.variables)
    return params._replace(variables={**params.variables, **transformed})


@functools.lru_cache(maxsize=16)
def _kernel_transform(
    module: Any, layers: tuple[str, ...], size: tuple[int, int]
) -> Callable[[Any], Any]:
    def transform(variables: Any) -> Any:
        # The features are unused, so the compiler keeps only the kernels' transforms.
        image = jnp.zeros((*size, 3), jax.tree.leaves(variables)[0].dtype)
        return module.apply(variables, image, layers=layers, mutable=["winograd"])[1]

    return compile_fn(transform, key=cache_key(module, "transform", layers, size))
