"""Tiling of an image: overlapping windows, and the part of every layer that each contributes.

Source: Galerne, Raad, Lezama & Morel 2024, "Scaling painting style transfer", arXiv 2212.13459,
section 4, whose blocks overlap by a margin.
Differs from source: every position is counted exactly once, and the halo covers the network's
receptive field, so that the result equals that of the whole image up to rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from neuart_jax.config.errors import InputError
from neuart_jax.models.receptive_field import Reach

# All indices of a slice must have the same dtype.
_FIRST = np.int32(0)


class Span(NamedTuple):
    """A window along one side of the image, in pixels.

    Attributes:
      start: first pixel of the window.
      core_start: first pixel of the core, the part that the window contributes.
      core_end: first pixel behind the core.
    """

    start: int
    core_start: int
    core_end: int


class Tiling(NamedTuple):
    """A grid of equal-sized windows that covers an image.

    Every window lies inside the image and starts at a position of the deepest layer. The cores
    partition the image, and are separated by a halo from all window edges inside the image, so that
    the padding there has no effect.

    Attributes:
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      window_height: height of every window, in pixels.
      window_width: width of every window, in pixels.
      rows: the windows from top to bottom.
      columns: the windows from left to right.
    """

    height: int
    width: int
    window_height: int
    window_width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def is_whole(self) -> bool:
        """Whether a single window covers the image."""
        return len(self.rows) == len(self.columns) == 1

    def tiles(self) -> tuple[Span, Span]:
        """Return the rows and columns of all windows, each field int32[windows]."""
        pairs = [(row, column) for row in self.rows for column in self.columns]
        rows, columns = zip(*pairs, strict=True)
        return _stack(rows), _stack(columns)


def _stack(spans: tuple[Span, ...]) -> Any:
    return jax.tree.map(lambda *values: jnp.array(values, jnp.int32), *spans)


def plan_tiles(height: int, width: int, *, halo: int, stride: int, window: int) -> Tiling:
    """Cover an image with the fewest equal-sized windows, each as small as possible.

    Args:
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      halo: pixels between a core and the edge of its window; see `find_margins`.
      stride: stride of the deepest layer, in pixels.
      window: longest side of a window, in pixels.

    Raises:
      InputError: the window is smaller than its halo.
    """
    window_height, rows = _plan_side(height, halo=halo, stride=stride, window=window)
    window_width, columns = _plan_side(width, halo=halo, stride=stride, window=window)
    return Tiling(height, width, window_height, window_width, rows, columns)


def one_window(height: int, width: int) -> Tiling:
    """Return the tiling of an image by a single window."""
    return Tiling(height, width, height, width, (Span(0, 0, height),), (Span(0, 0, width),))


def _plan_side(length: int, *, halo: int, stride: int, window: int) -> tuple[int, tuple[Span, ...]]:
    if length <= window:
        return length, (Span(0, 0, length),)
    margin = _round_up(halo, stride)

    def reach_of(size: int) -> int:
        """Return the largest distance from a window to the next."""
        return (size - halo) // stride * stride - margin

    smallest = margin + halo + 2 * stride - 1
    if window < smallest:
        raise InputError(
            f"a window of {window} pixels is too small for these layers",
            expected=f"at least {smallest}, as they see {halo} pixels around every position",
            remedy="use a larger window, or shallower layers",
        )
    # The last window ends with the image, so its layers must end there as well.
    size = window - (window - length) % stride
    steps = -(-(length - size) // reach_of(size))
    while length - (size - stride) <= steps * reach_of(size - stride):
        size -= stride
    spare = (length - size) // stride
    starts = [number * spare // steps * stride for number in range(steps + 1)]
    cores = [0, *(start + margin for start in starts[1:]), length]
    return size, tuple(map(Span, starts, cores[:-1], cores[1:]))


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def find_margins(reaches: Mapping[str, Reach]) -> tuple[int, int]:
    """Return the halo and the stride that layers need in `plan_tiles`.

    A position is correct if its receptive field lies inside the window. Cores consist of whole
    positions of the deepest layer.

    Args:
      reaches: receptive fields of all layers that are read.
    """
    # The first pixel behind a core is `stride` pixels behind its last position's pixel.
    halo = max(max(r.before, r.after - r.stride + 1) for r in reaches.values())
    return halo, max(reach.stride for reach in reaches.values())


Measure = Callable[..., Any]
"""Reduces a function over the windows of an image: ``measure(fn, *, combine=jnp.add,
initial=0.0)``, where `fn` is (features, `Window`) -> any pytree of arrays, and `combine` combines
two arrays, starting with `initial`. With a single window, the result is that of `fn`."""


class Window(NamedTuple):
    """The part of every layer that lies in one window.

    Attributes:
      cores: float32[height', width'] by layer, of the window's size: 1 for positions in the core,
        else 0. A layer without a core is seen completely.
      starts: row and column, int32[], of the window's first position in the image, by layer.
    """

    cores: Mapping[str, Array]
    starts: Mapping[str, tuple[Array, Array]]

    def core(self, layer: str) -> Array | None:
        """Return a layer's core; None for the complete layer."""
        return self.cores.get(layer)

    def cut(self, layer: str, whole: Array) -> Array:
        """Return the window's part of a layer's float[full height', full width', ...]."""
        if layer not in self.cores:
            return whole
        row, column = self.starts[layer]
        return lax.dynamic_slice(
            whole, (row, column, _FIRST), (*self.cores[layer].shape, whole.shape[2])
        )

    def paste(self, layer: str, whole: Array, part: Array) -> Array:
        """Return `whole` with the core of the window's `part` written to its place."""
        if layer not in self.cores:
            return part
        row, column = self.starts[layer]
        core = self.cores[layer].reshape(*part.shape[:2], 1) > 0
        return lax.dynamic_update_slice(
            whole, jnp.where(core, part, self.cut(layer, whole)), (row, column, _FIRST)
        )


WHOLE = Window({}, {})
"""A window that covers the whole image."""


def open_window(
    tiling: Tiling,
    tile: tuple[Span, Span],
    shapes: Mapping[str, tuple[int, ...]],
    reaches: Mapping[str, Reach],
) -> Window:
    """Return the part of every layer that lies in one window.

    Args:
      tiling: tiling of the image, from `plan_tiles`.
      tile: row and column of the window, with fields int32[].
      shapes: shapes of the layers' features in the window, (height', width', channels).
      reaches: receptive fields of the same layers.
    """

    def inside(span: Span, side: int, count: int, stride: int) -> Array:
        places = span.start + stride * jnp.arange(count)
        # A layer may have positions beyond the image, in its padding.
        is_last = span.core_end == side
        return (places >= span.core_start) & ((places < span.core_end) | is_last)

    rows, columns = tile
    cores: dict[str, Array] = {}
    starts: dict[str, tuple[Any, Any]] = {}
    for layer, (height, width, *_) in shapes.items():
        stride = reaches[layer].stride
        down = inside(rows, tiling.height, height, stride).reshape(-1, 1)
        across = inside(columns, tiling.width, width, stride).reshape(1, -1)
        cores[layer] = (down & across).astype(jnp.float32)
        starts[layer] = (rows.start // stride, columns.start // stride)
    return Window(cores, starts)


def scan_windows(tiling: Tiling, step: Callable[[Any, tuple[Span, Span]], Any], carry: Any) -> Any:
    """Fold a function of (carry, tile) over all windows, sequentially."""
    return lax.scan(lambda carry, tile: (step(carry, tile), None), carry, tiling.tiles())[0]


def cut_pixels(tiling: Tiling, tile: tuple[Span, Span], image: Array) -> Array:
    """Return a window's pixels of float[height, width, 3]."""
    rows, columns = tile
    shape = (tiling.window_height, tiling.window_width, image.shape[2])
    return lax.dynamic_slice(image, (rows.start, columns.start, _FIRST), shape)


def add_pixels(tiling: Tiling, tile: tuple[Span, Span], image: Array, part: Array) -> Array:
    """Return float[height, width, 3] with a window's pixels added to it."""
    rows, columns = tile
    return lax.dynamic_update_slice(
        image, cut_pixels(tiling, tile, image) + part, (rows.start, columns.start, _FIRST)
    )
