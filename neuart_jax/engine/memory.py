"""Predict a run's memory before it starts, and check it against the free memory."""

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

# Multiple of the largest activation that its gradient needs in addition to what the forward pass
# left, from the compiled programs' memory at 128, 256 and 512 pixels.
_TRANSIENTS = 2.5
# Multiple of the largest style layer: values, positions and matched values, for every region.
_SORTING = 3.5
# Multiple of the smoothed layers: residuals of the softmax, and its gradient.
_SMOOTHING = 2
# On CPUs a run needs more memory than its step: what compilation leaves behind, independent of the
# size, and one more copy of the optimizer's state. Fitted to the peaks of sixteen whole commands:
# two networks and optimizers, 512 and 1024 pixels, programs cached or not.
_PROGRAMS = 0.55 * GIB
_STATES = 1
_FLOAT = 4
# Activations kept by the forward pass: layers after a ReLU, and all three arrays of VGG's max
# pooling, which takes the maximum of pairwise maxima.
_RECTIFIED = re.compile(r"relu.*|.*_relu|.*_out")
_MAXIMA = 3
_CONVOLUTION = re.compile(r"conv\d_\d|.*_conv")
# Bytes per pixel for the matting Laplacian: the guide, the gradient of its energy, and the
# computation of the guide, which ends before the first step. From the compiled programs' memory.
_GUIDE, _GUIDE_GRADIENT, _GUIDE_MAKING = 48, 110, 270 + 48
# Recommended window, large enough that its halo costs little.
_WINDOW = 1024


class Prediction(NamedTuple):
    """A run's memory in bytes.

    Attributes:
      constant: independent of the image's size: parameters, Gram matrices.
      growing: proportional to the number of pixels: activations, the optimizer's state.
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
    """Predict a run's peak memory per device; on a CPU, the process's growth from now on.

    The arguments are those of `predict_step`.
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
    """Predict the memory of a run's compiled step per device, including its arguments.

    The peak consists of the activations after each ReLU, which the gradient needs, and the gradient
    of the largest one. Predictions were within a fifth of the compiled programs' memory.

    Args:
      config: resolved configuration.
      layers: all layers that the run reads.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      num_pairs: number of pairs that run together.
      num_regions: number of regions; 0 without masks.
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
        # This term sees the whole image, even with windows.
        passing += _GUIDE_GRADIENT * pixels
        before = _GUIDE_MAKING * pixels
    growing = max(num_pairs * (kept + passing), num_pairs * kept + before)
    growing //= config.compute.shard_rows
    return Prediction(whole.constant, growing)


class _Parts(NamedTuple):
    """A prediction in bytes.

    Attributes:
      constant: independent of the size; see `Prediction`.
      kept: images and targets.
      passing: activations that are in memory at a time.
    """

    constant: int
    kept: int
    passing: int


def _images_of_state(config: Config) -> int:
    """Count the arrays of the image's size in the state."""
    # The image and its gradient, the best image, the trial and its gradient; Adam's two moments;
    # L-BFGS's direction and gradient, and two differences per step of the history.
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
    # Each region multiplies the features by its own weights.
    statistics: float = max(num_regions - 1, 0) * largest_style
    if losses.style_loss in SORTING_LOSSES:
        targets += max(num_regions, 1) * style_size
        statistics += _SORTING * max(num_regions, 1) * largest_style
    if losses.smoothing != "none":
        statistics += _SMOOTHING * (content_size + style_size)
    images = _images_of_state(config) * 3 * _FLOAT * height * width
    return _Parts(
        # A kernel that isn't transformed is flipped for the gradient.
        constant=2 * _FLOAT * sum(map(math.prod, variables))
        + (TRANSFORMED_SIZE - 1) * transformed
        + grams,
        kept=targets + images,
        passing=round(activations + _TRANSIENTS * largest + statistics),
    )


def free_memory() -> int:
    """Return the free bytes of JAX's device, or of the machine if the device can't tell."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    free = int(psutil.virtual_memory().available)
    limits = [found for found in map(_read_free, _CONTROL_GROUPS) if found is not None]
    return min([free, *limits])


class _ControlGroup(NamedTuple):
    """Files with a container's memory, below `_CGROUP`, and the key in its statistics."""

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
    """Return the bytes that a container may still use, including reclaimable file caches."""
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in (group.limit, group.used))
    # There is no control group, or no limit ("max").
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
    """Check that a run fits into the free memory, unless `memory_check` is off.

    Args:
      config: resolved configuration.
      layers: all layers that the run reads.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      num_pairs: number of pairs that run together.
      num_regions: number of regions; 0 without masks.

    Raises:
      InputError: the run doesn't fit; the message suggests fewer pairs or the largest size that
        fits.
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
    remedy = "close other programs, or try anyway with --nomemory_check"
    share = (free - prediction.constant) / prediction.growing
    fitting_pairs = int(share * num_pairs)
    if num_pairs > 1 and fitting_pairs > 0:
        remedy = f"paint {fitting_pairs} at once"
    elif share > 0:
        # Rounded down to a multiple of 8, with a small margin.
        largest = int(max(height, width) * math.sqrt(share)) // 8 * 8
        remedy = f"use --size={largest}, or try anyway with --nomemory_check"
        if not config.compute.window and max(height, width) > _WINDOW:
            remedy = f"add --window={_WINDOW}, which computes it piece by piece, or {remedy}"
    images = "an image" if num_pairs == 1 else f"a batch of {num_pairs} images"
    raise InputError(
        f"{images} of {width}x{height} pixels needs about {prediction.total / GIB:.1f} GiB",
        expected=f"at most the {free / GIB:.1f} GiB of memory that are free",
        remedy=remedy,
    )
