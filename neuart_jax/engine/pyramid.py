"""Coarse to fine: the same run at growing sizes, each starting from the one before.

Large strokes are found at small sizes, where an evaluation costs a fraction; the full size only
adds the fine ones. Gatys et al. 2017, arXiv 1611.07865, section 6; jcjohnson/neural-style's
multi-resolution recipe.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.engine.result import BatchCallback, Keep, Progress, Result, Snapshot
from neuart_jax.engine.sharding import share_rows
from neuart_jax.engine.step import Status
from neuart_jax.inputs.regions.memberships import Regions, resize_memberships
from neuart_jax.io.images import resize_image

SMALLEST_SIDE = 96
"""Pixels below which a coarser scale isn't worth having: deep layers see a few positions only."""


class Scale(NamedTuple):
    """One size of a run, or one of several stages at a size.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style, reduced by the same factor.
      regions: of these pictures, if there are any.
      num_steps: updates at this size at the most.
      realistic: whether the result is held to the content's edges, if the run is to be.
      paint: how much of each pixel is painted, float32[height, width, 1]; None is all.
    """

    content_image: Array
    style_images: tuple[Array, ...]
    regions: Regions | None
    num_steps: int
    realistic: bool = True
    paint: Any = None

    def spread(self, num_devices: int) -> Self:
        """Return it with the rows of its pictures shared out among devices."""
        content, *styles = (
            share_rows(image, num_devices) for image in (self.content_image, *self.style_images)
        )
        paint = self.paint if self.paint is None else share_rows(self.paint, num_devices)
        return self._replace(content_image=content, style_images=tuple(styles), paint=paint)


class Earlier(NamedTuple):
    """What a scale gets from the one before.

    Attributes:
      image: its result at this scale's size, float32[height, width, 3].
      lost: what its size couldn't hold of the content picture, float32[height, width, 3].
      opt_state: its optimizer's last state, where that was kept.
    """

    image: Array
    lost: Array
    opt_state: Any


class Watch(NamedTuple):
    """How a scale is seen from outside, and where it begins.

    Attributes:
      callback: called after every chunk.
      first_step: steps made before this scale.
      restored: where to go on, if the scale was cut.
      keep: called after every chunk's reports, if there is a use for snapshots.
    """

    callback: BatchCallback
    first_step: int
    restored: Snapshot | None
    keep: Keep | None


RunScale = Callable[[list[int], list[Scale], list[Earlier | None], Watch], list[Result]]
"""(numbers of pairs, each one's scale, what its coarser one gave, how it is watched) -> their
results."""


class PairProgress(NamedTuple):
    """What one pair has been through.

    Attributes:
      results: of the scales that are done.
      history: the figures of every report, counted over all scales.
      seconds: wall-clock time so far.
      seconds_to_first_step: as in `Result`.
    """

    results: list[Result]
    history: list[dict[str, Any]]
    seconds: float
    seconds_to_first_step: float


class RunSnapshot(NamedTuple):
    """All that is needed to go on with a run over several scales; see `result.Snapshot`.

    Attributes:
      pairs: each pair's part.
      scale: of the scale that the run is at.
    """

    pairs: list[PairProgress]
    scale: Snapshot


KeepRun = Callable[[Callable[[], RunSnapshot]], None]
"""Called after every chunk's reports, with what fetches a snapshot if one is to be kept."""


def make_scales(
    content_image: Array,
    style_images: tuple[Array, ...],
    *,
    regions: Regions | None = None,
    count: int,
    num_steps: int,
    coarse_steps: int,
    realistic_steps: int = 0,
    paint: npt.NDArray[np.float32] | None = None,
) -> list[Scale]:
    """Halve all pictures again and again, coarsest first.

    Args:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style, sRGB in [0, 1].
      regions: of these pictures, if there are any.
      count: how many sizes, at the most; those with a side below `SMALLEST_SIDE` are left out.
      num_steps: updates at full size.
      coarse_steps: updates at every other size.
      realistic_steps: updates of a last stage at full size, the only realistic one then; 0 adds
        none.
      paint: how much of each pixel is painted, float32[height, width], of any size; None is all.
    """

    def resize_paint(image: Array) -> Array | None:
        if paint is None:
            return None
        return jax.device_put(resize_memberships(paint[..., None], *image.shape[:2]))

    full = Scale(
        content_image,
        style_images,
        regions,
        num_steps,
        realistic_steps == 0,
        resize_paint(content_image),
    )
    scales = [full]
    sizes = [image.shape[:2] for image in (content_image, *style_images)]
    for halvings in range(1, count_scales(sizes, at_most=count)):
        content, *styles = (_reduce(i, 2**halvings) for i in (content_image, *style_images))
        scales.append(
            full._replace(
                content_image=content,
                style_images=tuple(styles),
                regions=regions and _resize_regions(regions, content, styles),
                num_steps=coarse_steps,
                paint=resize_paint(content),
            )
        )
    scales = scales[::-1]
    if realistic_steps:
        scales.append(full._replace(num_steps=realistic_steps, realistic=True))
    return scales


def count_scales(sizes: Sequence[tuple[int, ...]], *, at_most: int) -> int:
    """Count the sizes that pictures can be worked at, none with a side below `SMALLEST_SIDE`.

    Args:
      sizes: (height, width) of the content and of every style picture, in pixels.
      at_most: how many.
    """
    shortest = min(map(min, sizes))
    worth_it = (n for n in range(2, at_most + 1) if round(shortest / 2 ** (n - 1)) >= SMALLEST_SIDE)
    return max(worth_it, default=1)


def _resize_regions(regions: Regions, content: Array, styles: Sequence[Array]) -> Regions:
    return regions._replace(
        content=resize_memberships(regions.content, *content.shape[:2]),
        styles=tuple(
            resize_memberships(memberships, *style.shape[:2])
            for memberships, style in zip(regions.styles, styles, strict=True)
        ),
    )


def _reduce(image: Array, factor: int) -> Array:
    height, width = (round(side / factor) for side in image.shape[:2])
    return jax.device_put(resize_image(np.asarray(image), height, width))


class _Pair:
    """What one pair has been through: the scales' results and reports, joined as they come."""

    def __init__(self, scales: list[Scale], restored: PairProgress | None) -> None:
        self.scales = scales
        self.results: list[Result] = []
        self._history: list[dict[str, Any]] = []
        self._began = time.perf_counter()
        self._seconds_to_first_step = 0.0
        if restored is not None:
            self.results, self._history = list(restored.results), list(restored.history)
            self._began -= restored.seconds
            self._seconds_to_first_step = restored.seconds_to_first_step

    @property
    def progress(self) -> PairProgress:
        seconds = time.perf_counter() - self._began
        return PairProgress(
            list(self.results), list(self._history), seconds, self._seconds_to_first_step
        )

    @property
    def goes_on(self) -> bool:
        failed = (Status.STOPPED, Status.NON_FINITE)
        return not self.results or self.results[-1].status not in failed

    @property
    def num_steps(self) -> int:
        return sum(result.num_steps for result in self.results)

    @property
    def num_evaluations(self) -> int:
        return sum(result.num_evaluations for result in self.results)

    def before(self, scale: Scale) -> Earlier | None:
        """Return what the scale before gave, at the size of a scale, if there was one."""
        if not self.results:
            return None
        last, content = self.results[-1], np.asarray(scale.content_image)
        size, shape = last.image.shape[:2], content.shape[:2]
        image, lost = last.image, np.zeros_like(content)
        if size != shape:
            image = resize_image(image, *shape)
            lost = content - resize_image(resize_image(content, *size), *shape)
        # Not kept twice: it is as large as several pictures.
        self.results[-1] = dataclasses.replace(last, opt_state=None)
        return Earlier(jax.device_put(image), jax.device_put(lost), last.opt_state)

    def count_on(self, progress: Progress) -> Progress:
        """Return a scale's progress with counts over all scales and its image at full size."""
        seconds = time.perf_counter() - self._began
        if not self._seconds_to_first_step and progress.num_steps:
            before_this_scale = seconds - progress.seconds
            self._seconds_to_first_step = before_this_scale + progress.seconds_to_first_step
        ended = progress.status != Status.RUNNING
        is_last = len(self.results) == len(self.scales) - 1
        progress = progress._replace(
            num_steps=progress.num_steps + self.num_steps,
            num_evaluations=progress.num_evaluations + self.num_evaluations,
            seconds=seconds,
            total_steps=sum(scale.num_steps for scale in self.scales),
            image=functools.partial(self._at_full_size, progress.image),
            status=progress.status if is_last or not ended else Status.RUNNING,
        )
        self._history.append(progress.figures())
        return progress

    def join(self) -> Result:
        first, *others = self.results
        last = self.results[-1]
        return dataclasses.replace(
            last,
            opt_state=None,
            image=self._at_full_size(lambda: last.image),
            num_steps=self.num_steps,
            num_evaluations=self.num_evaluations,
            step_losses=np.concatenate([first.step_losses, *(r.step_losses[1:] for r in others)]),
            history=tuple(self._history),
            seconds=time.perf_counter() - self._began,
            seconds_to_first_step=self._seconds_to_first_step,
        )

    def _at_full_size(self, fetch: Callable[[], np.ndarray]) -> np.ndarray:
        image = fetch()
        shape = self.scales[-1].content_image.shape[:2]
        return image if image.shape[:2] == shape else resize_image(image, *shape)


def run_scales(
    pyramids: list[list[Scale]],
    run_scale: RunScale,
    *,
    callback: BatchCallback | None,
    restored: RunSnapshot | None = None,
    keep: KeepRun | None = None,
) -> list[Result]:
    """Run one scale after the other and join what they give.

    A pair that is stopped or fails at a coarse scale ends there: its picture is enlarged, its
    losses are those of the coarse one. The others go on without it.

    Args:
      pyramids: of each pair, coarsest scale first; the pairs' shapes are the same.
      run_scale: runs one scale of some pairs.
      callback: sees steps, evaluations and seconds counted over all scales, and images at full
        size.
      restored: where to go on, if the run was cut.
      keep: see `KeepRun`.

    Returns:
      Each pair's last result, with counts, seconds and histories of all.
    """
    parts = [None] * len(pyramids) if restored is None else restored.pairs
    pairs = [_Pair(*each) for each in zip(pyramids, parts, strict=True)]
    level = max(len(pair.results) for pair in pairs)
    snapshot = restored and restored.scale

    def keep_scale(fetch: Callable[[], Snapshot]) -> None:
        if keep is not None:
            keep(lambda: RunSnapshot([pair.progress for pair in pairs], fetch()))

    while level < len(pyramids[0]):
        running = [number for number, pair in enumerate(pairs) if pair.goes_on]
        if not running:
            break

        def report(index: int, progress: Progress, running: list[int] = running) -> bool | None:
            number = running[index]
            progress = pairs[number].count_on(progress)
            return callback(number, progress) if callback is not None else None

        scales = [pairs[number].scales[level] for number in running]
        earlier = [pairs[n].before(s) for n, s in zip(running, scales, strict=True)]
        first_step = min(pairs[number].num_steps for number in running)
        watch = Watch(report, first_step, snapshot, keep_scale if keep else None)
        for number, result in zip(running, run_scale(running, scales, earlier, watch), strict=True):
            pairs[number].results.append(result)
        level += 1
        snapshot = None
    return [pair.join() for pair in pairs]
