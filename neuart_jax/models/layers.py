"""Building blocks shared by the networks. Arrays are [batch, height, width, channels]."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from neuart_jax.models.convolution import convolve, has_fast_form
from neuart_jax.models.winograd import TransformedKernels, transform_kernel

FitConvolution = Callable[[Array, tuple[int, int, int, int]], Array]
"""Chooses a kernel during `init`: (inputs, kernel shape) -> [kh, kw, in, out]."""

NamedLayers = Iterator[tuple[str, Array]]


def collect_layers(
    layers: NamedLayers, wanted: Iterable[str] | None, *, batched: bool
) -> dict[str, Array]:
    """Run a network up to the deepest requested layer.

    Args:
      layers: iterator of (name, activation) in the order of computation; nothing after the last
        requested layer is computed, and parameters beyond it are not read.
      wanted: names of the layers to keep; None keeps all.
      batched: whether the input is a batch; otherwise the batch axis, of length 1, is dropped.

    Returns:
      Names and activations, float[batch, height, width, channels] or float[height, width,
      channels].
    """
    missing = None if wanted is None else set(wanted)
    found: dict[str, Array] = {}
    while missing is None or missing:
        layer = next(layers, None)
        if layer is None:
            break
        name, activation = layer
        if missing is None or name in missing:
            found[name] = activation if batched else activation[0]
        if missing is not None:
            missing.discard(name)
    return found


def layer_channels(
    names: Iterable[str], variables: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Return the number of channels of every layer.

    Args:
      names: layers in the order of computation.
      variables: path and shape of every variable; a layer without a kernel has as many channels as
        its predecessor.
    """
    channels, counts = 3, {}
    for name in names:
        channels = variables.get(f"params/{name}/kernel", (channels,))[-1]
        counts[name] = channels
    return counts


def convolution_shapes(name: str, size: int, depth: int, channels: int) -> dict[str, Any]:
    """Map the paths of a `Convolution`'s variables to their shapes.

    Args:
      name: name of the module.
      size: side of the square kernel.
      depth: number of input channels.
      channels: number of output channels.
    """
    return {
        f"params/{name}/kernel": (size, size, depth, channels),
        f"params/{name}/bias": (channels,),
    }


class Convolution(nn.Module):
    """A convolution with bias, whose parameters can be fitted to the data that `init` sees.

    Attributes:
      features: number of output channels.
      size: side of the square kernel.
      stride: step between the outputs.
      padding: "valid", "zero" or "reflect"; see `convolve`.
      average: whether outputs at a stride are means; see `convolve`.
      fit: chooses the kernel at `init`; its responses are then scaled to standard deviation 1 and
        shifted to mean 0 over the batch and all positions, before any averaging
        (Kraehenbuehl et al. 2016, "Data-dependent initializations of convolutional neural
        networks", arXiv 1511.06856). Without it, kernels are He normal and biases zero.
    """

    features: int
    size: int
    stride: int = 1
    padding: str = "valid"
    average: bool = False
    fit: FitConvolution | None = None

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Map float[batch, height, width, in] to float[batch, height', width', features]."""
        shape = (self.size, self.size, inputs.shape[-1], self.features)
        sliding: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "average": self.average,
        }
        if self.is_initializing() and self.fit is not None:
            calibrated = _calibrate(inputs, self.fit(inputs, shape), **sliding)
            self.param("kernel", lambda _: calibrated.kernel)
            self.param("bias", lambda _: calibrated.bias)
            return calibrated.outputs
        kernel = self.param("kernel", jax.nn.initializers.he_normal(), shape)
        bias = self.param("bias", lambda _: jnp.zeros(self.features))
        responses = convolve(inputs, kernel, transformed=self._transform(kernel), **sliding)
        return responses + bias.reshape(1, 1, 1, -1)

    def _transform(self, kernel: Array) -> TransformedKernels | None:
        """Return the transform in the collection "winograd"; compute it if that is mutable."""
        asked = self.is_mutable_collection("winograd") and not self.is_initializing()
        fast = asked and has_fast_form(kernel.shape, stride=self.stride, padding=self.padding)
        if not fast and not self.has_variable("winograd", "kernels"):
            return None
        variable = self.variable("winograd", "kernels", transform_kernel, kernel)
        return TransformedKernels(*variable.value)


class _Calibrated(NamedTuple):
    kernel: Array
    bias: Array
    outputs: Array


# Compiled whole: its operations one by one were a hundred small programs per shape of the images.
@functools.partial(jax.jit, static_argnames=("stride", "padding", "average"))
def _calibrate(
    inputs: Array, kernel: Array, *, stride: int, padding: str, average: bool
) -> _Calibrated:
    """Scale a kernel and find a bias, so that responses have mean 0 and standard deviation 1."""
    responses = convolve(inputs, kernel, stride=1 if average else stride, padding=padding)
    deviation = jnp.std(responses, axis=(0, 1, 2))
    # A filter with a constant response (to a constant image) keeps its scale: its standard
    # deviation is rounding.
    rounding = 1e-5 * jnp.sqrt(jnp.mean(responses**2, axis=(0, 1, 2)))
    deviation = jnp.where(deviation > rounding, deviation, 1)
    bias = -jnp.mean(responses, axis=(0, 1, 2)) / deviation
    kernel = kernel / deviation.reshape(1, 1, 1, -1)
    outputs = convolve(inputs, kernel, stride=stride, padding=padding, average=average)
    return _Calibrated(kernel, bias, outputs + bias.reshape(1, 1, 1, -1))


# One program for calls outside of another one; inside, as if it were written there.
@functools.partial(jax.jit, static_argnames="kind", inline=True)
def pool(inputs: Array, *, kind: str) -> Array:
    """Pool 2x2 windows at stride 2; an odd last row or column is dropped (VALID).

    Four shifted views, which the compiler fuses with the ReLU before them. Of elements that share
    the maximum, the first takes the gradient, as in a window reduction.

    Args:
      inputs: float[batch, height, width, channels].
      kind: "max" or "average".

    Returns:
      float[batch, height // 2, width // 2, channels].
    """
    height, width = (side // 2 * 2 for side in inputs.shape[1:3])
    corners = [inputs[:, i:height:2, j:width:2] for i in range(2) for j in range(2)]
    if kind == "max":
        return _maximum(_maximum(*corners[:2]), _maximum(*corners[2:]))
    return sum(corners[1:], corners[0]) / 4


@functools.partial(jax.jit, inline=True)
def pool_overlapping(inputs: Array) -> Array:
    """Pool the maxima of 3x3 windows at stride 2, without padding, along one axis after the other.

    Including ReLU, padding and gradient, 192x256x64 took 8 ms on two CPU cores, against 70 ms for
    a window reduction.

    Args:
      inputs: float[batch, height, width, channels], of at least 3x3 positions.

    Returns:
      float[batch, (height - 1) // 2, (width - 1) // 2, channels].
    """
    # Columns first, so that of equal elements the first by rows takes the gradient.
    for axis in (2, 1):
        length = (inputs.shape[axis] - 3) // 2 * 2 + 1
        first, second, third = (
            lax.slice_in_dim(inputs, start, start + length, 2, axis=axis) for start in range(3)
        )
        inputs = _maximum(_maximum(first, second), third)
    return inputs


def _maximum(first: Array, second: Array) -> Array:
    """Return the larger elements; of equal ones the first, which takes the gradient.

    `jnp.maximum` divides the gradient between equal elements, for which its derivative compares the
    arrays with their maximum again: including ReLU and gradient, pooling 512x384x64 took 94 ms with
    it on two CPU cores, and 48 ms with this.
    """
    # NaN is passed on, as by `jnp.maximum`.
    return jnp.where((first >= second) | jnp.isnan(first), first, second)
