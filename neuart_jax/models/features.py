"""From pixels to the features of the layers asked for."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.config.sections import ComputeConfig
from neuart_jax.models import NetworkParams

Features = dict[str, Array]
FeatureFn = Callable[[Any, Array], Features]
"""(params, image) -> features: all that the objective knows of a network."""

PRODUCTS = {"float32": "highest", "tensorfloat32": "default", "bfloat16": "default"}
"""What `jax.default_matmul_precision` is for a precision: by default GPUs round the factors to
TensorFloat-32, TPUs to bfloat16, and CPUs not at all."""


def resolve_precision(precision: str) -> str:
    """Return what "auto" means on the device that JAX computes on."""
    if precision != "auto":
        return precision
    return "float32" if jax.default_backend() == "cpu" else "tensorfloat32"


def takes_winograd(config: ComputeConfig) -> bool:
    """Tell whether kernels are to be transformed; see `kernel_transforms`.

    Args:
      config: with its precision resolved.
    """
    # Its sums cancel, which bfloat16's 8 bits don't allow.
    automatic = jax.default_backend() == "cpu" and config.precision != "bfloat16"
    # Its strips of rows would have to be exchanged whole.
    automatic = automatic and config.shard_rows == 1
    return config.convolution == "winograd" or (config.convolution == "auto" and automatic)


def make_feature_fn(
    module: Any, layers: Iterable[str], *, precision: str = "tensorfloat32"
) -> FeatureFn:
    """Bind a network and its layers into one pure function, differentiable in reverse mode.

    Args:
      module: a linen module from `models`, or anything with the same `apply`.
      layers: names of the layers to keep.
      precision: a key of `PRODUCTS`. With "bfloat16" the parameters and the normalized image are
        rounded to it, and so is every activation.

    Returns:
      A function of NetworkParams and of an image float[..., height, width, 3], sRGB in [0, 1],
      that gives {layer: float[..., height', width', channels]}, in bfloat16 if that is the
      precision, else in the image's dtype. The image's gradient has the image's dtype.
    """
    layers = tuple(layers)

    def apply(params: NetworkParams, image: Array) -> Features:
        per_channel = (1,) * (image.ndim - 1) + (3,)
        mean = params.mean.astype(image.dtype).reshape(per_channel)
        std = params.std.astype(image.dtype).reshape(per_channel)
        variables, normalized = params.variables, (image - mean) / std
        if precision == "bfloat16":
            variables, normalized = jax.tree.map(
                lambda array: array.astype(jnp.bfloat16), (variables, normalized)
            )
        return module.apply(variables, normalized, layers=layers)

    def feature_fn(params: NetworkParams, image: Array) -> Features:
        # Gradients take it on: it is a part of every product, and of `convolution`'s own rule.
        with jax.default_matmul_precision(PRODUCTS[precision]):
            return apply(params, image)

    return feature_fn
