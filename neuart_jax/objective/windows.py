"""An image seen through windows: where they lie, and what of a layer each one answers for.

Source: Galerne, Raad, Lezama & Morel 2024, "Scaling painting style transfer", arXiv 2212.13459,
section 4, whose blocks overlap by a margin.
Differs from source: no position is counted twice or missing, and a margin that the network's
receptive field fits into leaves no difference to the whole image but rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from neuart_jax.config.errors import InputError
from neuart_jax.models.receptive_field import Reach

# Indices of one slice have to be of one type.
_FIRST = np.int32(0)


class Span(NamedTuple):
    """A window along one side of the image, in pixels.

    Attributes:
      start: its first pixel.
      core_start: the first that it answers for.
      core_end: the first behind these.
    """

    start: int
    core_start: int
    core_end: int


class Tiling(NamedTuple):
    """Windows of one size that cover an image, every row of them by every column.

    Each lies wholly inside the image, and starts where the deepest layer has a position. Their
    cores share out the image, and are far enough from every edge of a window that isn't one of
    the image for the padding there not to matter.

    Attributes:
      height: of the image, in pixels.
      width: of the image, in pixels.
      window_height: of every window, in pixels.
      window_width: of every window, in pixels.
      rows: the windows from top to bottom.
      columns: from left to right.
    """

    height: int
    width: int
    window_height: int
    window_width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def is_whole(self) -> bool:
        """Whether a single window shows everything."""
        return len(self.rows) == len(self.columns) == 1

    def spots(self) -> tuple[Span, Span]:
        """Return the rows and columns of all windows, each field int32[windows]."""
        pairs = [(row, column) for row in self.rows for column in self.columns]
        rows, columns = zip(*pairs, strict=True)
        return _stack(rows), _stack(columns)


def _stack(spans: tuple[Span, ...]) -> Any:
    return jax.tree.map(lambda *values: jnp.array(values, jnp.int32), *spans)


def plan_tiles(height: int, width: int, *, halo: int, stride: int, window: int) -> Tiling:
    """Cover an image with as few windows of one size as can be, and those no larger than needed.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
      halo: pixels that must lie between a core and a window's edge; see `find_margins`.
      stride: pixels between neighboring positions of the deepest layer.
      window: longest side of a window, in pixels.

    Raises:
      InputError: nothing would be left of such a window without its halo.
    """
    window_height, rows = _plan_side(height, halo=halo, stride=stride, window=window)
    window_width, columns = _plan_side(width, halo=halo, stride=stride, window=window)
    return Tiling(height, width, window_height, window_width, rows, columns)


def one_window(height: int, width: int) -> Tiling:
    """Return the tiling of an image that a single window shows."""
    return Tiling(height, width, height, width, (Span(0, 0, height),), (Span(0, 0, width),))


def _plan_side(length: int, *, halo: int, stride: int, window: int) -> tuple[int, tuple[Span, ...]]:
    if length <= window:
        return length, (Span(0, 0, length),)
    margin = _round_up(halo, stride)

    def reach_of(size: int) -> int:
        """Return how far a window may lie from the one before."""
        return (size - halo) // stride * stride - margin

    smallest = margin + halo + 2 * stride - 1
    if window < smallest:
        raise InputError(
            f"a window of {window} pixels is too small for these layers",
            expected=f"at least {smallest}, since they see {halo} pixels around every position",
            remedy="take a larger window, or shallower layers",
        )
    # The last window ends with the image, where its layers have to end, too.
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
    """Return the halo and the stride that layers ask of `plan_tiles`.

    A position near a window's edge is right if all that it depends on lies inside; cores are made
    of whole positions of the deepest layer.

    Args:
      reaches: of all layers that are read.
    """
    # The first pixel behind a core is `stride` behind that of its last position.
    halo = max(max(r.before, r.after - r.stride + 1) for r in reaches.values())
    return halo, max(reach.stride for reach in reaches.values())


Measure = Callable[..., Any]
"""Adds up what is found in every window of one image: ``measure(fn, *, combine=jnp.add,
initial=0.0)``, where `fn` is (features, `Window`) -> any pytree of arrays, and `combine` makes one
array of two, beginning at `initial`. With a single window it is what `fn` returns."""


class Window(NamedTuple):
    """What one window shows of every layer.

    Attributes:
      cores: layer to float32[height', width'] of the window's own size: 1 where it answers for a
        position, else 0. A layer without one is seen as a whole.
      starts: layer to the row and the column, int32[], of its first position in the image.
    """

    cores: Mapping[str, Array]
    starts: Mapping[str, tuple[Array, Array]]

    def core(self, layer: str) -> Array | None:
        """Return a layer's core; None if that is all of it."""
        return self.cores.get(layer)

    def cut(self, layer: str, whole: Array) -> Array:
        """Return the window's part of float[full height', full width', ...] of a layer."""
        if layer not in self.cores:
            return whole
        row, column = self.starts[layer]
        return lax.dynamic_slice(
            whole, (row, column, _FIRST), (*self.cores[layer].shape, whole.shape[2])
        )

    def paste(self, layer: str, whole: Array, part: Array) -> Array:
        """Return `whole` with the core of a window's `part` put in its place."""
        if layer not in self.cores:
            return part
        row, column = self.starts[layer]
        core = self.cores[layer].reshape(*part.shape[:2], 1) > 0
        return lax.dynamic_update_slice(
            whole, jnp.where(core, part, self.cut(layer, whole)), (row, column, _FIRST)
        )


WHOLE = Window({}, {})
"""A window that shows all."""


def open_window(
    tiling: Tiling,
    spot: tuple[Span, Span],
    shapes: Mapping[str, tuple[int, ...]],
    reaches: Mapping[str, Reach],
) -> Window:
    """Return what is to be seen of layers in one window.

    Args:
      tiling: see `plan_tiles`.
      spot: the window's row and column, each field int32[].
      shapes: of the layers' features in it, (height', width', channels).
      reaches: of the same layers.
    """

    def inside(span: Span, side: int, count: int, stride: int) -> Array:
        places = span.start + stride * jnp.arange(count)
        # A layer may have positions beyond the image, of its padding.
        is_last = span.core_end == side
        return (places >= span.core_start) & ((places < span.core_end) | is_last)

    rows, columns = spot
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
    """Fold a function of (carry, spot) over all windows, one after the other."""
    return lax.scan(lambda carry, spot: (step(carry, spot), None), carry, tiling.spots())[0]


def cut_pixels(tiling: Tiling, spot: tuple[Span, Span], image: Array) -> Array:
    """Return a window's pixels of float[height, width, 3]."""
    rows, columns = spot
    shape = (tiling.window_height, tiling.window_width, image.shape[2])
    return lax.dynamic_slice(image, (rows.start, columns.start, _FIRST), shape)


def add_pixels(tiling: Tiling, spot: tuple[Span, Span], image: Array, part: Array) -> Array:
    """Return float[height, width, 3] with a window's pixels added to it."""
    rows, columns = spot
    return lax.dynamic_update_slice(
        image, cut_pixels(tiling, spot, image) + part, (rows.start, columns.start, _FIRST)
    )
