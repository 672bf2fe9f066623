"""Convolutions of [batch, height, width, channels] whose gradient is fast inside loops."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from neuart_jax.models.winograd import TransformedKernels, convolve_tiles

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_FEW_CHANNELS = 4

Lines = tuple[Array, Array, Array, Array]
"""A row or column near the top, bottom, left and right border."""


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

    `SAME` is never used: at stride 2 and even sizes it pads (0, 1), but these networks pad (1, 1).

    Args:
      inputs: float[batch, height, width, in].
      kernel: float[kernel_height, kernel_width, in, out], square with an odd side.
      stride: step between the outputs, in positions.
      padding: "valid", "zero" or "reflect"; "reflect" needs a 3x3 kernel and at least 2 positions
        per side.
      average: whether an output is the mean of the corresponding stride x stride outputs at stride
        1, instead of the first of them; incomplete squares are dropped.
      transformed: the kernel transformed by `winograd.transform_kernel`, if `has_fast_form`: a
        quarter of the products, at stride 1 only.

    Returns:
      float[batch, height', width', out].
    """
    if stride > 1 and kernel.shape[0] == 1 and not average:
        # The gradient of a slice is a copy; that of a strided convolution is a dilated convolution.
        return _convolve_unit_stride(inputs[:, ::stride, ::stride], kernel, None, "valid")
    if stride == 1 and (inputs.shape[-1] > _FEW_CHANNELS or padding != "reflect"):
        return _convolve_unit_stride(inputs, kernel, transformed, padding)
    # With few channels, padding a copy is cheaper than correcting the output's borders.
    inputs = _pad(inputs, kernel.shape[0] // 2, padding)
    if stride > 1:
        inputs, kernel = _fold_stride(
            inputs, _average(kernel, stride) if average else kernel, stride
        )
    return _convolve_unit_stride(inputs, kernel, None, "valid")


def has_fast_form(shape: tuple[int, ...], *, stride: int, padding: str) -> bool:
    """Return whether a kernel of this shape is faster with Winograd's transform (on a CPU).

    With few channels the transforms cost more than the products they save.
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
    """Return the kernel whose responses are means over size x size responses of this kernel."""
    shifts = [(i, size - 1 - i) for i in range(size)]
    shifted = [
        jnp.pad(kernel, (rows, columns, (0, 0), (0, 0))) for rows in shifts for columns in shifts
    ]
    return sum(shifted[1:], shifted[0]) / size**2


def _fold_stride(inputs: Array, kernel: Array, stride: int) -> tuple[Array, Array]:
    """Rewrite a strided valid convolution as one at stride 1, by a space-to-depth transform.

    Each square of stride x stride positions becomes one position with stride^2 times the channels,
    in the kernel as well. Many channels are faster than three, and the gradient is not a dilated
    convolution: including the gradient, on two CPU cores, 0.56 of the time of a 7x7 convolution of
    an image, and 0.7 to 0.8 of that of 3x3 convolutions of 128 and 256 channels, in spite of the
    zeros added to the kernel.

    Args:
      inputs: float[batch, height, width, in], already padded.
      kernel: float[size, size, in, out].
      stride: stride along both axes.

    Returns:
      Inputs float[batch, height'', width'', stride^2 in] and kernel float[taps, taps, stride^2 in,
      out] with taps = ceil(size / stride), to be convolved at stride 1 without padding.
    """
    size, _, channels, num_outputs = kernel.shape
    taps = -(-size // stride)
    rest = taps * stride - size
    kernel = jnp.pad(kernel, ((0, rest), (0, rest), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, num_outputs)
    # Exactly the inputs that outputs read: excess is cut off, added rows meet the kernel's zeros.
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
    """Convolve at stride 1 by one matrix product per position of the kernel.

    XLA's CPU backend has no fast float64 convolution: a 3x3 convolution of 256 channels at 64x64
    took 8 s on two cores, and takes 0.14 s this way.
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
    # The gradient is traced later, outside the context manager that sets the precision.
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
    """Convolve at stride 1, with a custom gradient that is a convolution of the same form.

    XLA's CPU backend runs convolutions of this form in a fast library everywhere, but those with
    the transposed kernels of automatic differentiation only outside loops and conditionals: inside,
    the gradient took 4.3 times as long (VGG's first block at 128x128; the cause is
    https://github.com/jax-ml/jax/issues/12868). There is no forward-mode derivative.
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
    # With a frozen network the kernel's gradient is unused, and the compiler drops it.
    original = _convolve.__wrapped__  # type: ignore[attr-defined]
    _, pull_back_kernel = jax.vjp(lambda k: original(inputs, k, None, padding, None), kernel)
    return inputs_bar, pull_back_kernel(cotangent)[0], None


_convolve.defvjp(_forward, _backward)


def _spread(cotangent: Array, kernel: Array, *, margin: int) -> Array:
    """Compute the input gradient for few input channels: all products at once, then shifts.

    Convolutions with 3 output channels use vector units poorly: 50 ms against 8 ms for VGG's first
    layer at 512x512 on two cores.
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
    """Return the rows and columns `depth` positions inside the border."""
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
    """Compute the contribution of reflected positions to the borders of the output.

    A zero-padded 3x3 convolution plus these four lines is a reflect-padded one. Padding the array
    would copy it, in the gradient as well: 2.2 times the time with zero padding on a CPU, against
    1.1 times here.

    Args:
      mirrored: the inputs' lines at depth 1, which reflection repeats beyond the border.
      kernel: float[3, 3, in, out].

    Returns:
      The terms to add to the outputs' lines at depth 0.
    """
    top, bottom, left, right = mirrored

    def reflect_columns(row: Array) -> Array:
        return jnp.concatenate([row[:, :, 1:2], row, row[:, :, -2:-1]], axis=2)

    def convolve_line(line: Array, taps: Array) -> Array:
        # One matrix product: a convolution of one row is ten times slower on a CPU.
        length = line.shape[1] - 2
        neighbors = jnp.concatenate([line[:, i : i + length] for i in range(3)], axis=2)
        return jnp.einsum("nlc,ck->nlk", neighbors, taps.reshape(-1, taps.shape[-1]))

    def pad_with_zeros(column: Array) -> Array:
        return jnp.pad(column, ((0, 0), (1, 1), (0, 0)))

    # The rows include the corners, so the columns are padded with zeros above and below.
    return (
        convolve_line(reflect_columns(top)[:, 0], kernel[0])[:, None],
        convolve_line(reflect_columns(bottom)[:, 0], kernel[2])[:, None],
        convolve_line(pad_with_zeros(left[:, :, 0]), kernel[:, 0])[:, :, None],
        convolve_line(pad_with_zeros(right[:, :, 0]), kernel[:, 2])[:, :, None],
    )
