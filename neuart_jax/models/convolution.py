"""Convolutions of [batch, height, width, channels], with a gradient that is fast inside loops."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

Lines = tuple[Array, Array, Array, Array]
"""One row or column each: near the top, the bottom, the left and the right border."""


def convolve(inputs: Array, kernel: Array, *, stride: int = 1, padding: str = "valid") -> Array:
    """Convolve with explicit padding: "valid", "zero" or "reflect" (the last two keep the size).

    `SAME` is never used: at stride 2 on even sizes it pads (0, 1) where these networks pad (1, 1).

    Args:
      inputs: float[batch, height, width, in].
      kernel: float[kernel_height, kernel_width, in, out], a square of odd side.
      stride: step between the outputs, in positions.
      padding: "reflect" wants a 3x3 kernel and at least 2 positions per side.

    Returns:
      float[batch, height', width', out].
    """
    if stride == 1:
        return _convolve_unit_stride(inputs, kernel, padding)
    if kernel.shape[0] == 1:
        # The gradient of a slice is a copy; that of a strided convolution is a dilated one.
        return _convolve_unit_stride(inputs[:, ::stride, ::stride], kernel, "valid")
    margin = _margin(kernel, padding)
    if padding == "reflect":
        margins = ((0, 0), (margin, margin), (margin, margin), (0, 0))
        inputs, margin = jnp.pad(inputs, margins, mode="reflect"), 0
    return _plain(inputs, kernel, margin=margin, stride=stride)


def _margin(kernel: Array, padding: str) -> int:
    return 0 if padding == "valid" else kernel.shape[0] // 2


def _plain(
    inputs: Array, kernel: Array, *, margin: int | tuple[int, int], stride: int = 1
) -> Array:
    rows, columns = (margin, margin) if isinstance(margin, int) else margin
    return lax.conv_general_dilated(
        inputs,
        kernel,
        (stride, stride),
        ((rows, rows), (columns, columns)),
        dimension_numbers=_DIMENSIONS,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_unit_stride(inputs: Array, kernel: Array, padding: str) -> Array:
    """Convolve at stride 1, with the gradient written out as a convolution of the same form.

    XLA's CPU compiler runs convolutions of this form in a fast library everywhere, but the
    transposed kernels that automatic differentiation gives only outside of loops and conditionals:
    inside, the gradient took 4.3 times as long (VGG's first block at 128x128; the cause is
    https://github.com/jax-ml/jax/issues/12868). It has no forward-mode derivative.
    """
    outputs = _plain(inputs, kernel, margin=_margin(kernel, padding))
    if padding == "reflect":
        lines = _borders_from_mirrored(_lines(inputs, 1), kernel)
        outputs = _add_lines(outputs, lines, 0)
    return outputs


def _forward(inputs: Array, kernel: Array, padding: str) -> tuple[Array, tuple[Array, Array]]:
    return _convolve_unit_stride(inputs, kernel, padding), (inputs, kernel)


def _backward(padding: str, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    transposed = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    margin = kernel.shape[0] - 1 - _margin(kernel, padding)
    inputs_bar = _plain(cotangent, transposed, margin=margin)
    if padding == "reflect":
        _, pull_back = jax.vjp(lambda at: _borders_from_mirrored(at, kernel), _lines(inputs, 1))
        (lines_bar,) = pull_back(_lines(cotangent, 0))
        inputs_bar = _add_lines(inputs_bar, lines_bar, 1)
    # Frozen networks don't ask for the kernel's gradient, and the compiler drops it.
    original = _convolve_unit_stride.__wrapped__  # type: ignore[attr-defined]
    _, pull_back_kernel = jax.vjp(lambda k: original(inputs, k, padding), kernel)
    return inputs_bar, pull_back_kernel(cotangent)[0]


_convolve_unit_stride.defvjp(_forward, _backward)


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

    # The corners come with the rows; so the columns see zeros above and below.
    return (
        _plain(reflect_columns(top), kernel[:1], margin=0),
        _plain(reflect_columns(bottom), kernel[2:], margin=0),
        _plain(left, kernel[:, :1], margin=(1, 0)),
        _plain(right, kernel[:, 2:], margin=(1, 0)),
    )
