"""How much memory a run will need, before it starts, and whether there is as much."""

import contextlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import jax
import psutil

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.losses.style import SORTING_LOSSES
from neuart_jax.models import find_architecture
from neuart_jax.models.convolution import has_fast_form
from neuart_jax.models.features import takes_winograd
from neuart_jax.models.params.canonical import variable_shapes
from neuart_jax.models.winograd import TRANSFORMED_SIZE

GIB = 1024**3
_CGROUP = Path("/sys/fs/cgroup")

# Of the largest activation: what its own gradient needs beside what the forward pass left behind,
# from the compiled programs' memory at 128, 256 and 512 pixels.
_TRANSIENTS = 2.5
# Of the largest style layer: values, places and matched values, for every region.
_SORTING = 3.5
# Of the layers that are smoothed: what softmax keeps for its gradient, and that gradient.
_SMOOTHING = 2
# On CPUs a run's own memory comes on top of its step's: what compiling its programs leaves behind,
# whatever the size, and one more copy of the optimizer's state. Fitted to the peaks of sixteen
# whole commands: two networks and optimizers, 512 and 1024 pixels, programs cached or not.
_PROGRAMS = 0.55 * GIB
_STATES = 1
_FLOAT = 4
# What the forward pass leaves behind: layers after a ReLU, and of VGG's max pooling, which takes
# the maximum of maxima of pairs, all three.
_RECTIFIED = re.compile(r"relu.*|.*_relu|.*_out")
_MAXIMA = 3
_CONVOLUTION = re.compile(r"conv\d_\d|.*_conv")
# Of the matting Laplacian, per pixel: what the guide keeps, its energy's gradient, and making it,
# which is over before the steps begin. From the compiled programs' memory.
_GUIDE, _GUIDE_GRADIENT, _GUIDE_MAKING = 48, 110, 270 + 48
# Large enough for its margins to cost little.
_WINDOW = 1024


class Prediction(NamedTuple):
    """A run's memory in bytes.

    Attributes:
      constant: what doesn't depend on the size: weights, Gram matrices.
      growing: what grows with the number of pixels: activations, the optimizer's state.
    """

    constant: int
    growing: int

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.constant + self.growing


def predict_memory(
    config: Config,
    layers: tuple[str, ...],
    *,
    height: int,
    width: int,
    num_pairs: int = 1,
    num_regions: int = 0,
) -> Prediction:
    """Predict the peak of a run on each device; on a CPU that of the process, from now on.

    Args: as of `predict_step`.
    """
    step = predict_step(
        config, layers, height=height, width=width, num_pairs=num_pairs, num_regions=num_regions
    )
    if jax.default_backend() != "cpu":
        return step
    state = _images_of_state(config) * 3 * _FLOAT * height * width
    return Prediction(
        step.constant + round(_PROGRAMS),
        step.growing + num_pairs * _STATES * state // config.compute.shard_rows,
    )


def predict_step(
    config: Config,
    layers: tuple[str, ...],
    *,
    height: int,
    width: int,
    num_pairs: int = 1,
    num_regions: int = 0,
) -> Prediction:
    """Predict the memory of a run's compiled step on each device, arguments included.

    The activations that a gradient needs are those after each ReLU; with the gradient of the
    largest one, they are the peak. Compiled programs were within a fifth.

    Args:
      config: resolved.
      layers: every layer that the run reads.
      height: of the picture, in pixels.
      width: of the picture, in pixels.
      num_pairs: painted at once.
      num_regions: that have a style of their own; 0 without masks.
    """
    whole = seen = _predict(config, layers, num_regions, height=height, width=width)
    if window := config.compute.window:
        seen = _predict(
            config, layers, num_regions, height=min(window, height), width=min(window, width)
        )
    kept, passing, before = whole.kept, seen.passing, 0
    if config.realism.realism_weight:
        pixels = height * width
        kept += _GUIDE * pixels
        # It sees the whole picture, windows or not.
        passing += _GUIDE_GRADIENT * pixels
        before = _GUIDE_MAKING * pixels
    growing = max(num_pairs * (kept + passing), num_pairs * kept + before)
    growing //= config.compute.shard_rows
    return Prediction(whole.constant, growing)


class _Parts(NamedTuple):
    """A prediction in bytes.

    Attributes:
      constant: as in `Prediction`.
      kept: pictures and targets.
      passing: what goes through the network at a time.
    """

    constant: int
    kept: int
    passing: int


def _images_of_state(config: Config) -> int:
    """Count the arrays of the image's size that the state holds."""
    # The image and its gradient, the best image, the trial and its gradient; Adam's two means;
    # L-BFGS' direction and gradient, and two differences per step of the history.
    of_optimizer = 2 if config.optimizer.optimizer == "adam" else 2 + 2 * config.optimizer.history
    return 5 + of_optimizer


def _predict(
    config: Config, layers: tuple[str, ...], num_regions: int, *, height: int, width: int
) -> _Parts:
    network, losses = config.network, config.losses
    architecture = find_architecture(network.model)
    shapes = architecture.layer_shapes(height=height, width=width, pooling=network.pooling)
    number = 2 if config.compute.precision == "bfloat16" else _FLOAT
    sizes = {name: number * math.prod(shape) for name, shape in shapes.items()}
    computed = list(shapes)[: max(map(list(shapes).index, layers), default=-1) + 1]
    activations = sum(sizes[name] for name in computed if _RECTIFIED.fullmatch(name))
    if architecture.family == "vgg" and network.pooling == "max":
        activations += _MAXIMA * sum(sizes[name] for name in computed if name.startswith("pool"))
    largest = max((sizes[name] for name in computed if _CONVOLUTION.fullmatch(name)), default=0)
    variables = [array.shape for array in variable_shapes(network.model, layers).values()]
    transformed = sum(
        _FLOAT * math.prod(kernel)
        for kernel in variables
        if len(kernel) == 4 and takes_winograd(config.compute)
        if has_fast_form(kernel, stride=1, padding=network.padding)
    )
    grams = sum(_FLOAT * shapes[name][-1] ** 2 for name in layers)
    content_size = sum(sizes[name] for name, _ in losses.content_layers if name in layers)
    style_layers = [name for name, _ in losses.style_layers if name in layers]
    style_size = sum(sizes[name] for name in style_layers)
    largest_style = max((sizes[name] for name in style_layers), default=0)
    targets = content_size
    targets += num_regions * _FLOAT * sum(math.prod(shapes[name][:2]) for name in style_layers)
    # Each region weighs the features anew.
    statistics: float = max(num_regions - 1, 0) * largest_style
    if losses.style_loss in SORTING_LOSSES:
        targets += max(num_regions, 1) * style_size
        statistics += _SORTING * max(num_regions, 1) * largest_style
    if losses.smoothing != "none":
        statistics += _SMOOTHING * (content_size + style_size)
    images = _images_of_state(config) * 3 * _FLOAT * height * width
    return _Parts(
        # A kernel that isn't transformed is turned over for its gradient.
        constant=2 * _FLOAT * sum(map(math.prod, variables))
        + (TRANSFORMED_SIZE - 1) * transformed
        + grams,
        kept=targets + images,
        passing=round(activations + _TRANSIENTS * largest + statistics),
    )


def free_memory() -> int:
    """Return the bytes that JAX's device has free; where it can't tell, those of the machine."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    free = int(psutil.virtual_memory().available)
    limits = [found for found in map(_read_free, _CONTROL_GROUPS) if found is not None]
    return min([free, *limits])


class _ControlGroup(NamedTuple):
    """Where a container's memory is told, below `_CGROUP`: files, and a line of the statistics."""

    limit: str
    used: str
    statistics: str
    reclaimable: str


# Version 2, and version 1.
_CONTROL_GROUPS = (
    _ControlGroup("memory.max", "memory.current", "memory.stat", "inactive_file"),
    _ControlGroup(
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def _read_free(group: _ControlGroup) -> int | None:
    """Return the bytes that a container may still use, cached files that can go included."""
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in (group.limit, group.used))
    # No control group, or one without a limit ("max").
    except (OSError, ValueError):
        return None
    cached = 0
    with contextlib.suppress(OSError, ValueError):
        lines = (_CGROUP / group.statistics).read_text().splitlines()
        cached = int(dict(line.split() for line in lines).get(group.reclaimable, 0))
    return max(0, limit - used + cached)


def check_memory(
    config: Config,
    layers: tuple[str, ...],
    *,
    height: int,
    width: int,
    num_pairs: int = 1,
    num_regions: int = 0,
) -> None:
    """Check that a run fits into the memory that is free, unless `memory_check` is off.

    Args:
      config: resolved.
      layers: every layer that the run reads.
      height: of the picture, in pixels.
      width: of the picture, in pixels.
      num_pairs: painted at once.
      num_regions: as in `predict_memory`.

    Raises:
      InputError: it doesn't; the message names what does, fewer pairs or the largest size.
    """
    if not config.compute.memory_check:
        return
    prediction = predict_memory(
        config,
        layers,
        height=height,
        width=width,
        num_pairs=num_pairs,
        num_regions=num_regions,
    )
    free = free_memory()
    if prediction.total <= free:
        return
    remedy = "close other programs, or try nevertheless with --nomemory_check"
    share = (free - prediction.constant) / prediction.growing
    fitting_pairs = int(share * num_pairs)
    if num_pairs > 1 and fitting_pairs > 0:
        remedy = f"paint {fitting_pairs} at once"
    elif share > 0:
        # Rounding down to a multiple of 8 leaves a little.
        largest = int(max(height, width) * math.sqrt(share)) // 8 * 8
        remedy = f"take --size={largest}, or try nevertheless with --nomemory_check"
        if not config.compute.window and max(height, width) > _WINDOW:
            remedy = f"add --window={_WINDOW}, which computes it piece by piece, or {remedy}"
    pictures = "a picture" if num_pairs == 1 else f"a batch of {num_pairs} pictures"
    raise InputError(
        f"{pictures} of {width}x{height} pixels needs about {prediction.total / GIB:.1f} GiB",
        expected=f"at most the {free / GIB:.1f} GiB of memory that are free",
        remedy=remedy,
    )
