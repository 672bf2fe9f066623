"""Coarse to fine: the same run at growing sizes, each starting from the one before.

Large strokes are found at small sizes, where an evaluation costs a fraction; the full size only
adds the fine ones. Gatys et al. 2017, arXiv 1611.07865, section 6; jcjohnson/neural-style's
multi-resolution recipe.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from neuart_jax.images import resize_image
from neuart_jax.loop import Callback, Progress, Result
from neuart_jax.step import Status

SMALLEST_SIDE = 96
"""Pixels below which a coarser scale isn't worth having: deep layers see a few positions only."""


class Scale(NamedTuple):
    """One size of a run.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style, reduced by the same factor.
      num_steps: updates at this size at the most.
    """

    content_image: Array
    style_images: tuple[Array, ...]
    num_steps: int


RunScale = Callable[[Scale, Array | None, int, Callback], Result]
"""(scale, the coarser scale's image at this size or None, steps made before it, callback) ->
its result."""


def make_scales(
    content_image: Array,
    style_images: tuple[Array, ...],
    *,
    count: int,
    num_steps: int,
    coarse_steps: int,
) -> list[Scale]:
    """Halve all pictures again and again, coarsest first.

    Args:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style, sRGB in [0, 1].
      count: how many sizes, at the most; those with a side below `SMALLEST_SIDE` are left out.
      num_steps: updates at full size.
      coarse_steps: updates at every other size.
    """
    scales = [Scale(content_image, style_images, num_steps)]
    for halvings in range(1, count):
        content, *styles = (_reduce(i, 2**halvings) for i in (content_image, *style_images))
        if min(side for i in (content, *styles) for side in i.shape[:2]) < SMALLEST_SIDE:
            break
        scales.append(Scale(content, tuple(styles), coarse_steps))
    return scales[::-1]


def _reduce(image: Array, factor: int) -> Array:
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    return jnp.asarray(resize_image(np.asarray(image), height, width))


def run_scales(scales: list[Scale], run_scale: RunScale, *, callback: Callback | None) -> Result:
    """Run one scale after the other and join what they give.

    A run that is stopped or fails at a coarse scale ends there: its picture is enlarged, its
    losses are those of the coarse one.

    Args:
      scales: coarsest first.
      run_scale: runs one of them.
      callback: sees steps, evaluations and seconds counted over all scales, and images at full
        size.

    Returns:
      The last scale's result, with counts, seconds and histories of all.
    """
    height, width = scales[-1].content_image.shape[:2]
    total_steps = sum(scale.num_steps for scale in scales)
    results: list[Result] = []
    history: list[dict[str, Any]] = []

    began = time.perf_counter()
    seconds_to_first_step = 0.0

    def at_full_size(fetch: Callable[[], np.ndarray]) -> np.ndarray:
        image = fetch()
        if image.shape[:2] == (height, width):
            return image
        return resize_image(image, height, width)

    def report(progress: Progress) -> bool | None:
        nonlocal seconds_to_first_step
        seconds = time.perf_counter() - began
        if not seconds_to_first_step and progress.num_steps:
            seconds_to_first_step = seconds
        ended = progress.status != Status.RUNNING
        is_last = len(results) == len(scales) - 1
        progress = progress._replace(
            num_steps=progress.num_steps + sum(r.num_steps for r in results),
            num_evaluations=progress.num_evaluations + sum(r.num_evaluations for r in results),
            seconds=seconds,
            total_steps=total_steps,
            image=functools.partial(at_full_size, progress.image),
            status=progress.status if is_last or not ended else Status.RUNNING,
        )
        history.append(progress.figures())
        return callback(progress) if callback is not None else None

    for scale in scales:
        start = None
        if results:
            shape = scale.content_image.shape[:2]
            start = jnp.asarray(resize_image(results[-1].image, *shape))
        first_step = sum(r.num_steps for r in results)
        results.append(run_scale(scale, start, first_step, report))
        if results[-1].status in (Status.STOPPED, Status.NON_FINITE):
            break
    last = results[-1]
    return dataclasses.replace(
        last,
        image=at_full_size(lambda: last.image),
        num_steps=sum(r.num_steps for r in results),
        num_evaluations=sum(r.num_evaluations for r in results),
        step_losses=np.concatenate(
            [results[0].step_losses, *(r.step_losses[1:] for r in results[1:])]
        ),
        history=tuple(history),
        seconds=time.perf_counter() - began,
        seconds_to_first_step=seconds_to_first_step,
    )
