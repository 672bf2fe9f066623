"""Convolutions of [batch, height, width, channels], with a gradient that is fast inside loops."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from neuart_jax.models.winograd import TransformedKernels, convolve_tiles

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_FEW_CHANNELS = 4

Lines = tuple[Array, Array, Array, Array]
"""One row or column each: near the top, the bottom, the left and the right border."""


def convolve(
    inputs: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: str = "valid",
    average: bool = False,
    transformed: TransformedKernels | None = None,
) -> Array:
    """Convolve with explicit padding: "valid", "zero" or "reflect" (the last two keep the size).

    `SAME` is never used: at stride 2 on even sizes it pads (0, 1) where these networks pad (1, 1).

    Args:
      inputs: float[batch, height, width, in].
      kernel: float[kernel_height, kernel_width, in, out], a square of odd side.
      stride: step between the outputs, in positions.
      padding: "reflect" wants a 3x3 kernel and at least 2 positions per side.
      average: whether an output is the mean of the stride x stride outputs at stride 1 that it
        stands for, instead of the first of them; those of an incomplete square are dropped.
      transformed: what `winograd.transform_kernel` made of the kernel, where `has_fast_form`
        says so: a quarter of the products. At stride 1 only.

    Returns:
      float[batch, height', width', out].
    """
    if stride > 1 and kernel.shape[0] == 1 and not average:
        # The gradient of a slice is a copy; that of a strided convolution is a dilated one.
        return _convolve_unit_stride(inputs[:, ::stride, ::stride], kernel, None, "valid")
    if stride == 1 and (inputs.shape[-1] > _FEW_CHANNELS or padding != "reflect"):
        return _convolve_unit_stride(inputs, kernel, transformed, padding)
    # Of an image, a padded copy costs less than mending the borders of what comes out.
    inputs = _pad(inputs, kernel.shape[0] // 2, padding)
    if stride > 1:
        inputs, kernel = _fold_stride(
            inputs, _average(kernel, stride) if average else kernel, stride
        )
    return _convolve_unit_stride(inputs, kernel, None, "valid")


def has_fast_form(shape: tuple[int, ...], *, stride: int, padding: str) -> bool:
    """Tell whether transforming a kernel of this shape pays in `convolve` (on a CPU).

    With few channels the transforms cost more than the products that they save.
    """
    size, _, *channels = shape
    return (size, stride) == (3, 1) and padding != "valid" and min(channels) >= 32


def _margin(kernel: Array, padding: str) -> int:
    return 0 if padding == "valid" else kernel.shape[0] // 2


def _pad(inputs: Array, margin: int, padding: str) -> Array:
    if padding == "valid":
        return inputs
    mode = "reflect" if padding == "reflect" else "constant"
    return jnp.pad(inputs, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode=mode)


def _average(kernel: Array, size: int) -> Array:
    """Return the kernel whose responses are the means of size x size of this one's."""
    shifts = [(i, size - 1 - i) for i in range(size)]
    shifted = [
        jnp.pad(kernel, (rows, columns, (0, 0), (0, 0))) for rows in shifts for columns in shifts
    ]
    return sum(shifted[1:], shifted[0]) / size**2


def _fold_stride(inputs: Array, kernel: Array, stride: int) -> tuple[Array, Array]:
    """Turn a valid convolution with a stride into one without.

    Squares of stride x stride positions become one, with so many times the channels, in the
    kernel, too. Many channels are computed faster than three, and the gradient is no dilated
    convolution: with it, on two CPU cores, 0.56 of the time of a 7x7 convolution of an image, 0.7
    to 0.8 of that of 3x3 ones of 128 and 256 channels, in spite of the kernel's added zeros.

    Args:
      inputs: float[batch, height, width, in], padded already.
      kernel: float[size, size, in, out].
      stride: of both axes.

    Returns:
      Inputs float[batch, height'', width'', stride^2 in] and kernel float[taps, taps, stride^2 in,
      out] with taps = ceil(size / stride), to be convolved at stride 1 without padding.
    """
    size, _, channels, num_outputs = kernel.shape
    taps = -(-size // stride)
    rest = taps * stride - size
    kernel = jnp.pad(kernel, ((0, rest), (0, rest), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, num_outputs)
    # Exactly what the outputs see: the end is cut off, or lies under the kernel's added zeros.
    sides = [((side - size) // stride + taps) * stride for side in inputs.shape[1:3]]
    inputs = inputs[:, : sides[0], : sides[1]]
    missing = [(0, side - has) for side, has in zip(sides, inputs.shape[1:3], strict=True)]
    inputs = jnp.pad(inputs, ((0, 0), *missing, (0, 0)))
    squares = inputs.reshape(-1, sides[0] // stride, stride, sides[1] // stride, stride, channels)
    deep = stride**2 * channels
    return (
        squares.transpose(0, 1, 3, 2, 4, 5).reshape(*squares.shape[:2], squares.shape[3], deep),
        kernel.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, deep, num_outputs),
    )


def _plain(inputs: Array, kernel: Array, *, margin: int) -> Array:
    if inputs.dtype == jnp.float64:
        return _by_products(inputs, kernel, margin=margin)
    return lax.conv_general_dilated(
        inputs, kernel, (1, 1), ((margin, margin),) * 2, dimension_numbers=_DIMENSIONS
    )


def _by_products(inputs: Array, kernel: Array, *, margin: int) -> Array:
    """Convolve at stride 1 as one product of matrices for every position of the kernel.

    XLA's CPU compiler has no fast float64 convolution: a 3x3 one of 256 channels at 64x64 took it
    8 s on two cores, and 0.14 s like this.
    """
    size = kernel.shape[0]
    inputs = _pad(inputs, margin, "zero")
    height, width = (side + 1 - size for side in inputs.shape[1:3])
    return sum(
        jnp.einsum("nhwc,ck->nhwk", inputs[:, i : i + height, j : j + width], kernel[i, j])
        for i in range(size)
        for j in range(size)
    )  # type: ignore[return-value]


def _convolve_unit_stride(
    inputs: Array, kernel: Array, transformed: TransformedKernels | None, padding: str
) -> Array:
    # The gradient is traced later, outside of the context that the precision comes from.
    precision: Any = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return _convolve(inputs, kernel, transformed, padding, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _convolve(
    inputs: Array,
    kernel: Array,
    transformed: TransformedKernels | None,
    padding: str,
    precision: str | None,
) -> Array:
    """Convolve at stride 1, with the gradient written out as a convolution of the same form.

    XLA's CPU compiler runs convolutions of this form in a fast library everywhere, but the
    transposed kernels that automatic differentiation gives only outside of loops and conditionals:
    inside, the gradient took 4.3 times as long (VGG's first block at 128x128; the cause is
    https://github.com/jax-ml/jax/issues/12868). It has no forward-mode derivative.
    """
    if transformed is not None:
        return convolve_tiles(inputs, transformed.forward, padding)
    outputs = _plain(inputs, kernel, margin=_margin(kernel, padding))
    if padding == "reflect":
        lines = _borders_from_mirrored(_lines(inputs, 1), kernel)
        outputs = _add_lines(outputs, lines, 0)
    return outputs


def _forward(
    inputs: Array,
    kernel: Array,
    transformed: TransformedKernels | None,
    padding: str,
    precision: str | None,
) -> tuple[Array, tuple[Array, Array, TransformedKernels | None]]:
    outputs = _convolve(inputs, kernel, transformed, padding, precision)
    return outputs, (inputs, kernel, transformed)


def _backward(
    padding: str,
    precision: str | None,
    saved: tuple[Array, Array, TransformedKernels | None],
    cotangent: Array,
) -> tuple[Array, Array, None]:
    with jax.default_matmul_precision(precision):
        return _pull_back(padding, saved, cotangent)


def _pull_back(
    padding: str, saved: tuple[Array, Array, TransformedKernels | None], cotangent: Array
) -> tuple[Array, Array, None]:
    inputs, kernel, transformed = saved
    if transformed is not None:
        inputs_bar = convolve_tiles(cotangent, transformed.backward, "zero")
    elif inputs.shape[-1] <= _FEW_CHANNELS and kernel.shape[0] > 1:
        inputs_bar = _spread(cotangent, kernel, margin=_margin(kernel, padding))
    else:
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        margin = kernel.shape[0] - 1 - _margin(kernel, padding)
        inputs_bar = _plain(cotangent, turned, margin=margin)
    if padding == "reflect":
        _, pull_back = jax.vjp(lambda at: _borders_from_mirrored(at, kernel), _lines(inputs, 1))
        (lines_bar,) = pull_back(_lines(cotangent, 0))
        inputs_bar = _add_lines(inputs_bar, lines_bar, 1)
    # Frozen networks don't ask for the kernel's gradient, and the compiler drops it.
    original = _convolve.__wrapped__  # type: ignore[attr-defined]
    _, pull_back_kernel = jax.vjp(lambda k: original(inputs, k, None, padding, None), kernel)
    return inputs_bar, pull_back_kernel(cotangent)[0], None


_convolve.defvjp(_forward, _backward)


def _spread(cotangent: Array, kernel: Array, *, margin: int) -> Array:
    """Compute the gradient of a convolution of few channels: all products at once, then shifts.

    Convolutions down to 3 channels fill a vector unit badly: 50 against 8 ms for VGG's first layer
    at 512x512 on two cores.
    """
    size, _, channels, _ = kernel.shape
    height, width = (side + size - 1 - 2 * margin for side in cotangent.shape[1:3])
    products = jnp.einsum("nhwk,ijck->nhwijc", cotangent, kernel)
    placed = jnp.zeros((), cotangent.dtype)
    for i in range(size):
        for j in range(size):
            rows, columns = ((i, size - 1 - i, 0), (j, size - 1 - j, 0))
            placed += lax.pad(
                products[:, :, :, i, j],
                jnp.zeros((), cotangent.dtype),
                ((0, 0, 0), rows, columns, (0, 0, 0)),
            )
    return placed[:, margin : margin + height, margin : margin + width]


def _lines(array: Array, depth: int) -> Lines:
    """Take the rows and columns that lie `depth` positions inside the border."""
    height, width = array.shape[1:3]
    rows = (lax.slice_in_dim(array, i, i + 1, axis=1) for i in (depth, height - 1 - depth))
    columns = (lax.slice_in_dim(array, i, i + 1, axis=2) for i in (depth, width - 1 - depth))
    return (*rows, *columns)  # type: ignore[return-value]


def _add_lines(array: Array, lines: Lines, depth: int) -> Array:
    top, bottom, left, right = lines
    height, width = array.shape[1:3]
    array = array.at[:, depth].add(top[:, 0]).at[:, height - 1 - depth].add(bottom[:, 0])
    return array.at[:, :, depth].add(left[:, :, 0]).at[:, :, width - 1 - depth].add(right[:, :, 0])


def _borders_from_mirrored(mirrored: Lines, kernel: Array) -> Lines:
    """Compute what the outputs' borders get from the positions that reflection adds.

    A zero-padded 3x3 convolution and these four lines make a reflect-padded one. Padding the array
    instead copies it, and again in the gradient: 2.2 times the zero-padded time on a CPU, where
    this takes 1.1 times.

    Args:
      mirrored: the inputs' lines of depth 1, which reflection repeats beyond the border.
      kernel: float[3, 3, in, out].

    Returns:
      What to add to the outputs' lines of depth 0.
    """
    top, bottom, left, right = mirrored

    def reflect_columns(row: Array) -> Array:
        return jnp.concatenate([row[:, :, 1:2], row, row[:, :, -2:-1]], axis=2)

    def convolve_line(line: Array, taps: Array) -> Array:
        # One product of matrices: a convolution of one row costs a CPU ten times as much.
        length = line.shape[1] - 2
        neighbors = jnp.concatenate([line[:, i : i + length] for i in range(3)], axis=2)
        return jnp.einsum("nlc,ck->nlk", neighbors, taps.reshape(-1, taps.shape[-1]))

    def pad_with_zeros(column: Array) -> Array:
        return jnp.pad(column, ((0, 0), (1, 1), (0, 0)))

    # The corners come with the rows; so the columns see zeros above and below.
    return (
        convolve_line(reflect_columns(top)[:, 0], kernel[0])[:, None],
        convolve_line(reflect_columns(bottom)[:, 0], kernel[2])[:, None],
        convolve_line(pad_with_zeros(left[:, :, 0]), kernel[:, 0])[:, :, None],
        convolve_line(pad_with_zeros(right[:, :, 0]), kernel[:, 2])[:, :, None],
    )
