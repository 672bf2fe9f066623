"""Kernels of fast convolutions, transformed once for all evaluations of a run."""

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
    """Return a network's arrays as a run with a resolved configuration computes with them.

    Args:
      network: as it was loaded.
      config: of the run.
      layers: that are read.
      size: (height, width) of the content.
    """
    if not takes_winograd(config.compute):
        return network.params
    return transform_kernels(network.module, network.params, layers, size=size)


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

    return compile_fn(transform, key=cache_key(module, "transform", layers, size))
