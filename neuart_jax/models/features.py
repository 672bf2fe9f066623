"""Feature extraction: from pixels to the activations of chosen layers."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.config.sections import ComputeConfig
from neuart_jax.models import NetworkParams

Features = dict[str, Array]
FeatureFn = Callable[[Any, Array], Features]
"""(params, image) -> features: the objective's only interface to a network."""

PRODUCTS = {"float32": "highest", "tensorfloat32": "default", "bfloat16": "default"}
"""Value of `jax.default_matmul_precision` for each precision: by default GPUs round the factors of
products to TensorFloat-32, TPUs to bfloat16, and CPUs not at all."""


def resolve_precision(precision: str) -> str:
    """Resolve "auto" to the precision for the device that JAX computes on."""
    if precision != "auto":
        return precision
    return "float32" if jax.default_backend() == "cpu" else "tensorfloat32"


def takes_winograd(config: ComputeConfig) -> bool:
    """Return whether kernels are transformed for Winograd; see `kernel_transforms`.

    Args:
      config: the settings, with a resolved precision.
    """
    # Winograd's sums cancel, which the 8 bits of bfloat16 don't allow.
    automatic = jax.default_backend() == "cpu" and config.precision != "bfloat16"
    # Sharded devices would have to exchange whole strips of rows.
    automatic = automatic and config.shard_rows == 1
    return config.convolution == "winograd" or (config.convolution == "auto" and automatic)


def make_feature_fn(
    module: Any, layers: Iterable[str], *, precision: str = "tensorfloat32"
) -> FeatureFn:
    """Make a pure function from an image to its features, differentiable in reverse mode.

    Args:
      module: a linen module from `models`, or any object with the same `apply`.
      layers: names of the layers to return.
      precision: a key of `PRODUCTS`. With "bfloat16" the parameters, the normalized image and every
        activation are rounded to bfloat16.

    Returns:
      A function of NetworkParams and an image float[..., height, width, 3], sRGB in [0, 1], that
      returns {layer: float[..., height', width', channels]}, in bfloat16 for that precision, else
      in the image's dtype. The gradient has the image's dtype.
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
        # Gradients use it too: it is stored with every product and in `convolution`'s own rule.
        with jax.default_matmul_precision(PRODUCTS[precision]):
            return apply(params, image)

    return feature_fn
