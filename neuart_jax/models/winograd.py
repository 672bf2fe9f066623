"""3x3 convolutions with a quarter of the products: Winograd's minimal filtering F(4x4, 3x3).

Source: Lavin & Gray 2015, "Fast algorithms for convolutional neural networks", arXiv 1509.09308,
section 4.3: every 4x4 tile of the output comes from a 6x6 tile d of the input and the kernel g as
A^T [(G g G^T) * (B^T d B)] A, where * multiplies each of the 36 places separately, for all channels
at once by matrix products.

This is for CPUs, where products are expensive and memory is close; the transforms are arranged
accordingly.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

TILE = 4
"""Side of an output tile; input tiles are larger by `_HALO`, and overlap by it."""

_HALO = 2
_PLACES = TILE + _HALO

# The matrices of F(4, 3), which interpolates at 0, 1, -1, 2, -2 and infinity.
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)

TRANSFORMED_SIZE = 2 * _PLACES**2 // 9
"""Ratio of the size of `TransformedKernels` to that of the kernel."""

_STRIP_BYTES = 10 * 2**20
"""Largest size of a strip's transformed tiles: they are written, multiplied and read again, which
is fastest while they stay in the cache. Measured at 2.5, 5, 10 and 20 MiB."""

_MIN_TILES = 256
"""Number of tiles below which a strip's matrix products are too small to be fast."""


class TransformedKernels(NamedTuple):
    """A kernel transformed for the products, computed once.

    Attributes:
      forward: float[36, in, out].
      backward: float[36, out, in], for the gradient with respect to the inputs.
    """

    forward: Array
    backward: Array


def transform_kernel(kernel: Array) -> TransformedKernels:
    """Compute G g G^T for a kernel float[3, 3, in, out] and for the kernel of its gradient."""
    # As one product: an einsum of three factors takes three times as long on CPUs.
    matrix = np.kron(_KERNEL, _KERNEL)

    def transform(kernel: Array) -> Array:
        elements = kernel.reshape(9, -1)
        places = jnp.matmul(jnp.asarray(matrix, kernel.dtype), elements, precision="highest")
        return places.reshape(_PLACES**2, *kernel.shape[2:])

    return TransformedKernels(transform(kernel), transform(jnp.flip(kernel, (0, 1)).swapaxes(2, 3)))


def convolve_tiles(inputs: Array, kernel: Array, padding: str) -> Array:
    """Convolve at stride 1, keeping the size.

    Against float64 the error is about 3e-6 of the output's norm in float32, where the direct
    convolution has 3e-7.

    Args:
      inputs: float[batch, height, width, in].
      kernel: a field of `TransformedKernels`.
      padding: "zero", or "reflect", which needs at least 2 positions per side.

    Returns:
      float[batch, height, width, out].
    """
    # Under vmap the pairs' axis is merged into the batch axis, so that strips keep their size.
    convolve = jax.custom_batching.custom_vmap(
        lambda inputs, kernel: _convolve_tiles(inputs, kernel, padding)
    )

    @convolve.def_vmap
    def convolve_pairs(
        num_pairs: int, batched: tuple[bool, bool], inputs: Array, kernel: Array
    ) -> tuple[Array, bool]:
        if batched[1]:
            if not batched[0]:
                return lax.map(lambda k: _convolve_tiles(inputs, k, padding), kernel), True
            each = lambda pair: _convolve_tiles(pair[0], pair[1], padding)  # noqa: E731
            return lax.map(each, (inputs, kernel)), True
        joined = inputs.reshape(-1, *inputs.shape[2:])
        outputs = _convolve_tiles(joined, kernel, padding)
        return outputs.reshape(*inputs.shape[:-1], -1), True

    return convolve(inputs, kernel)


# Jitted so that it is traced once per shape, forward and backward: a run of VGG19 called it 81
# times.
@functools.partial(jax.jit, static_argnums=2)
def _convolve_tiles(inputs: Array, kernel: Array, padding: str) -> Array:
    _, height, width, channels = inputs.shape
    tiles_down, tiles_across = (-(-side // TILE) for side in (height, width))
    widest = max(channels, kernel.shape[-1])
    bytes_per_row = _PLACES**2 * tiles_across * widest * inputs.dtype.itemsize
    rows = max(_STRIP_BYTES // bytes_per_row, -(-_MIN_TILES // tiles_across), 1)
    if rows >= tiles_down:
        return _convolve_groups(inputs, kernel, padding, size=max(1, rows // tiles_down))
    # The same number of strips, but all of one height.
    rows = -(-tiles_down // -(-tiles_down // rows))
    return _convolve_strips(inputs, kernel, padding, height=rows * TILE)


def _convolve_groups(inputs: Array, kernel: Array, padding: str, *, size: int) -> Array:
    """Convolve whole images, `size` or fewer at a time."""
    batch = inputs.shape[0]
    size = max(divisor for divisor in range(1, min(size, batch) + 1) if batch % divisor == 0)

    def convolve(group: Array) -> Array:
        height = group.shape[1]
        if padding == "reflect":
            group = jnp.concatenate([group[:, 1:2], group, group[:, -2:-1]], axis=1)
        else:
            group = jnp.pad(group, ((0, 0), (1, 1), (0, 0), (0, 0)))
        return _convolve_rows(group, kernel, padding)[:, :height]

    if size == batch:
        return convolve(inputs)
    groups = inputs.reshape(-1, size, *inputs.shape[1:])
    outputs = lax.map(convolve, groups)
    return outputs.reshape(batch, *outputs.shape[2:])


def _convolve_strips(inputs: Array, kernel: Array, padding: str, *, height: int) -> Array:
    """Convolve strips of `height` rows one after the other, each of one image."""
    batch, full_height, width, _ = inputs.shape
    num_strips = -(-full_height // height)

    def row(image: Array, index: Array, mirrored: int, *, is_border: Array) -> Array:
        line = lax.dynamic_slice_in_dim(image, jnp.where(is_border, mirrored, index), 1, axis=1)
        return line if padding == "reflect" else jnp.where(is_border, 0, line)

    def write_strip(index: Array, outputs: Array) -> Array:
        number = index // num_strips
        # The last strip ends with the image; rows it shares with the one before are recomputed.
        top = jnp.minimum(index % num_strips * height, full_height - height)
        below = top + height
        image = lax.dynamic_slice_in_dim(inputs, number, 1)
        strip = jnp.concatenate(
            [
                row(image, top - 1, 1, is_border=top == 0),
                lax.dynamic_slice_in_dim(image, top, height, axis=1),
                row(image, below, full_height - 2, is_border=below == full_height),
            ],
            axis=1,
        )
        convolved = _convolve_rows(strip, kernel, padding)
        return lax.dynamic_update_slice(outputs, convolved, (number, top, 0, 0))

    # Every element is overwritten. A constant would be shared between layers, and so copied.
    anything = inputs[0, 0, 0, 0]
    outputs = jnp.full((batch, full_height, width, kernel.shape[-1]), anything)
    return lax.fori_loop(0, batch * num_strips, write_strip, outputs)


def _convolve_rows(rows: Array, kernel: Array, padding: str) -> Array:
    """Convolve a strip that has its neighboring rows above and below.

    Args:
      rows: float[batch, height + 2, width, in].
      kernel: float[36, in, out].
      padding: padding on the left and right.

    Returns:
      float[batch, height, width, out], with the height rounded up to whole tiles.
    """
    batch, height, width, channels = rows.shape
    down, across = -(-(height - _HALO) // TILE), -(-width // TILE)
    if padding == "reflect":
        rows = jnp.concatenate([rows[:, :, 1:2], rows, rows[:, :, -2:-1]], axis=2)
    left = 0 if padding == "reflect" else 1
    right = TILE * across + _HALO - rows.shape[2] - left
    bottom = TILE * down + _HALO - height
    rows = lax.optimization_barrier(jnp.pad(rows, ((0, 0), (0, bottom), (left, right), (0, 0))))
    # Each stage's axis of places is put where the inputs of all its sums fit in the cache together.
    parts = [rows[:, i : i + TILE * (down - 1) + 1 : TILE] for i in range(_PLACES)]
    along = 1 if down > 1 else 2
    tiles = _combine(_INPUT, parts, axis=2, halved=along)
    tiles = jnp.moveaxis(tiles, 2, 0)
    parts = [tiles[:, :, :, i : i + TILE * (across - 1) + 1 : TILE] for i in range(_PLACES)]
    tiles = _combine(_INPUT, parts, axis=1, halved=0)

    products = jnp.matmul(tiles.reshape(_PLACES**2, -1, channels), kernel, precision="highest")
    products = products.reshape(_PLACES, _PLACES, batch, down, across, -1)

    parts = [products[:, i] for i in range(_PLACES)]
    outputs = _combine(_OUTPUT, parts, axis=4, halved=0)
    outputs = outputs.reshape(_PLACES, batch, down, TILE * across, -1)
    # In halves as well: fused with the copy to its destination, VGG19's step at 512x512 took 82 MiB
    # more.
    outputs = _combine(_OUTPUT, list(outputs), axis=2, halved=along)
    return outputs.reshape(batch, TILE * down, TILE * across, -1)[:, :, :width]


def _combine(matrix: np.ndarray, arrays: list[Array], *, axis: int, halved: int) -> Array:
    """Compute `_multiply` in two halves along the arrays' axis `halved`, concatenated.

    The compiler fuses a sum into its consumers, and would so recompute a stage for each of the 36
    places of the next one, even across an optimization barrier; it doesn't fuse a concatenation.
    """
    length = arrays[0].shape[halved]
    halves = [
        _multiply(
            matrix, [lax.slice_in_dim(array, *ends, axis=halved) for array in arrays], axis=axis
        )
        for ends in ((0, length // 2), (length // 2, length))
    ]
    return jnp.concatenate(halves, axis=halved if halved < axis else halved + 1)


def _multiply(matrix: np.ndarray, arrays: list[Array], *, axis: int) -> Array:
    """Multiply a small matrix by a stack of arrays; its rows become a new axis of the result.

    A single loop, with products by zero included: stacked sums, which skip zeros, become one loop
    per row of the matrix, each of which reads the arrays from memory again. That took 1.5 times the
    time of all stages on two cores of a Xeon (Emerald Rapids).
    """
    shape = [-1 if place == axis else 1 for place in range(arrays[0].ndim + 1)]
    columns = jnp.asarray(matrix.T, arrays[0].dtype)
    terms = [
        column.reshape(shape) * jnp.expand_dims(array, axis)
        for column, array in zip(columns, arrays, strict=True)
    ]
    return sum(terms[1:], terms[0])
