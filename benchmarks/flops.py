"""Count the floating point operations of an evaluation's convolutions and matrix products."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr

from neuart_jax.config.config import Config
from neuart_jax.models import find_architecture
from neuart_jax.models.params.canonical import nest, variable_shapes
from neuart_jax.objective.build import run_layers


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Count the operations of all convolutions and matrix products that a function calls.

    A convolution has 2 kh kw Cin Cout H W operations, where H and W are the output's sides; a
    product of matrices [m, k] and [k, n] has 2 m k n. Everything else is negligible.

    Args:
      function: a function without loops and branches around its convolutions.
      *arguments: arrays, or their shapes and dtypes.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def evaluation_flops(config: Config, *, stride_on: str = "") -> int:
    """Count the operations of a loss with its gradient in the network, by direct convolutions.

    Convolutions are counted as direct ones over zero-padded features, whatever the configuration;
    strided ones as rewritten by `models.convolution`. The gradient of a convolution with respect to
    its input is a convolution of the same size, and frozen kernels need no gradient: twice the
    forward pass. The objective's own products, 6 M N^2 for each Gram matrix, are left out: 2 % with
    VGG19.

    Args:
      config: resolved configuration, whose `size` is the side of a square image.
      stride_on: for ResNet50, see `models.resnet50.ResNet50`.
    """
    architecture = find_architecture(config.network.model)
    values = {"pooling": config.network.pooling, "padding": "zero", "stride_on": stride_on}
    module = architecture.make_module(
        **{name: values[name] for name in architecture.options if values.get(name)}
    )
    layers = run_layers(config.losses)
    image = jax.ShapeDtypeStruct((config.images.size, config.images.size, 3), jnp.float32)
    shapes = nest(variable_shapes(config.network.model, layers))

    def features(variables: Any, image: Array) -> Any:
        return module.apply(variables, image, layers=layers)

    return 2 * count_flops(features, shapes, image)


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            out_axis = equation.params["dimension_numbers"].rhs_spec[0]
            # The kernel has kh kw Cin Cout elements, with Cin already per group.
            per_position = math.prod(kernel) // kernel[out_axis]
            total += 2 * per_position * math.prod(_shape(equation.outvars[0]))
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = _shape(equation.invars[0])
            inner = math.prod(left[axis] for axis in contracted)
            total += 2 * inner * math.prod(_shape(equation.outvars[0]))
        else:
            total += sum(_count(inner) for inner in _inner_jaxprs(equation.params))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
