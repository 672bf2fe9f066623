"""The loop: compiled chunks of steps, one host synchronization after each."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from neuart_jax.compiling import compile_fn
from neuart_jax.objective import Objective, Targets
from neuart_jax.optimizers import Optimizer
from neuart_jax.step import (
    Status,
    StopRule,
    TransferState,
    make_init_fn,
    make_step_fn,
)


class Progress(NamedTuple):
    """What leaves the loop after every chunk.

    Attributes:
      num_steps: updates made so far.
      num_evaluations: calls of the objective so far.
      losses: name to value of the loss terms at the current image, "total" among them.
      best_loss: smallest total so far.
      seconds: wall-clock time since the run began, compilation included.
      total_steps: updates at the most, of the whole run.
      size: (height, width) of the image that the losses belong to, in pixels.
      status: `Status.RUNNING` while more is to come.
      image: current image, float32[height, width, 3]; fetched from the device when called, which
        has to be within the callback.
    """

    num_steps: int
    num_evaluations: int
    losses: dict[str, float]
    best_loss: float
    seconds: float
    total_steps: int
    size: tuple[int, int]
    status: Status
    image: Callable[[], np.ndarray]

    def figures(self) -> dict[str, Any]:
        """Return all numbers as one flat record, ready for JSON."""
        return {
            "step": self.num_steps,
            "evaluations": self.num_evaluations,
            "seconds": round(self.seconds, 3),
            "height": self.size[0],
            "width": self.size[1],
            "best": self.best_loss,
            **self.losses,
        }


Callback = Callable[[Progress], bool | None]
"""Called after every chunk; returning True stops the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a run gives.

    Attributes:
      image: the image with the smallest loss seen, float32[height, width, 3], clipped to [0, 1].
      losses: name to value of the loss terms at that image, as clipped.
      status: why the run ended.
      num_steps: updates made.
      num_evaluations: calls of the objective, the one for `losses` not counted.
      step_losses: total loss at the start and after every step, float32[num_steps + 1]; the
        objective of a coarser scale is another one.
      history: the figures of every report, in order; see `Progress.figures`.
      seconds: wall-clock time of the whole run.
      seconds_to_first_step: wall-clock time until the first chunk was done, mostly compilation.
      seconds_per_evaluation: at full size, the median over the chunks after the first; of the
        first where it is the only one.
    """

    image: np.ndarray
    losses: dict[str, float]
    status: Status
    num_steps: int
    num_evaluations: int
    step_losses: np.ndarray
    history: tuple[dict[str, Any], ...]
    seconds: float
    seconds_to_first_step: float
    seconds_per_evaluation: float


NextStop = Callable[[int], int]
"""Steps made -> the next number of steps after which something is to be seen."""


def make_next_stop(*, every: int, at: Sequence[int] = (), first_step: int = 0) -> NextStop:
    """Make a rule for where chunks have to end.

    Args:
      every: stop at its multiples; 0 does not.
      at: stop after these numbers of steps, too.
      first_step: steps made before this run; `every` and `at` count them, the rule doesn't.
    """

    def next_stop(done: int) -> int:
        made = done + first_step
        stops = [step for step in at if step > made]
        if every:
            stops.append((made // every + 1) * every)
        return min(stops, default=sys.maxsize) - first_step

    return next_stop


RunFn = Callable[..., Result]


def make_run_fn(
    objective: Objective, optimizer: Optimizer, stop: StopRule, *, chunk_steps: int = 5
) -> RunFn:
    """Build a run that compiles once per image shape and serves any number of pairs.

    Args:
      objective: (image, params, targets) -> (loss, terms).
      optimizer: see `optimizers.Optimizer`.
      stop: when to end.
      chunk_steps: steps per compiled call; nothing comes back to the host in between.

    Returns:
      ``run(image, params, targets, *, next_stop=None, callback=None) -> Result``, where `image` is
      the start, float32[height, width, 3], and a chunk ends at `next_stop(steps made)` at the
      latest; see `make_next_stop`.
    """
    step = make_step_fn(objective, optimizer, stop)
    init = compile_fn(make_init_fn(objective, optimizer))

    def chunk(
        state: TransferState, params: Any, targets: Targets, until: Array
    ) -> tuple[TransferState, Array]:
        def body(state: TransferState, _: None) -> tuple[TransferState, Array]:
            active = (state.status == Status.RUNNING) & (state.num_steps < until)
            is_last = (state.num_steps + 1 >= until) | (state.num_steps + 1 >= stop.num_steps)
            state = lax.cond(
                active, lambda s: step(s, params, targets, is_last), lambda s: s, state
            )
            return state, state.evaluation.loss

        return lax.scan(body, state, length=chunk_steps)

    run_chunk = compile_fn(chunk, donate_argnames="state")

    def run(
        image: Array,
        params: Any,
        targets: Targets,
        *,
        next_stop: NextStop | None = None,
        callback: Callback | None = None,
    ) -> Result:
        began = time.perf_counter()
        # A copy, since the state is donated and the caller's image must survive.
        state = init(jnp.array(image, dtype=jnp.float32), params, targets)
        # best_image and image are one buffer here, which can't be donated twice.
        state = state._replace(best_image=jnp.copy(state.best_image))
        step_losses = [np.asarray(state.evaluation.loss)[None]]
        history: list[dict[str, Any]] = []
        paces: list[float] = []
        first = 0.0
        done, evaluations = 0, 1
        status = Status(int(state.status))
        while True:
            progress = Progress(
                num_steps=done,
                num_evaluations=evaluations,
                losses={name: float(value) for name, value in state.terms.items()},
                best_loss=float(state.best_loss),
                seconds=time.perf_counter() - began,
                total_steps=stop.num_steps,
                size=state.image.shape[:2],
                status=status,
                image=functools.partial(np.asarray, state.image),
            )
            history.append(progress.figures())
            if callback is not None and callback(progress) and status == Status.RUNNING:
                status = Status.STOPPED
            if status != Status.RUNNING:
                break
            until = done + chunk_steps
            if next_stop is not None:
                until = min(until, next_stop(done))
            chunk_began = time.perf_counter()
            state, losses = run_chunk(state, params, targets, jnp.int32(until))
            now = int(state.num_steps)  # Waits for the device.
            step_losses.append(np.asarray(losses)[: now - done])
            made = int(state.num_evaluations) - evaluations
            paces.append((time.perf_counter() - chunk_began) / max(made, 1))
            first = first or time.perf_counter() - began
            done, evaluations = now, evaluations + made
            status = Status(int(state.status))

        image = jnp.clip(state.best_image, 0, 1)
        # The program that made the first state also judges the last image: no third compilation.
        terms = init(image, params, targets).terms
        return Result(
            image=np.asarray(image),
            losses={name: float(value) for name, value in terms.items()},
            status=status,
            num_steps=done,
            num_evaluations=evaluations,
            step_losses=np.concatenate(step_losses),
            history=tuple(history),
            seconds=time.perf_counter() - began,
            seconds_to_first_step=first,
            seconds_per_evaluation=float(np.median(paces[1:] or paces or [0.0])),
        )

    return run
