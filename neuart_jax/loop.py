"""The loop: compiled chunks of steps, one host synchronization after each.

One pair or a batch of them run through the same code; a batch's arrays have a leading axis.
"""

import dataclasses
import functools
import operator
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from neuart_jax.compiling import compile_fn
from neuart_jax.objective import Objective, Targets
from neuart_jax.optimizers import Optimizer, Point
from neuart_jax.step import (
    Status,
    StopRule,
    TransferState,
    find_average,
    make_evaluate_fn,
    make_init_fn,
    make_tick_fn,
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

BatchCallback = Callable[[int, Progress], bool | None]
"""The same for a batch, with the number of the pair; returning True stops that pair."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a run gives.

    Attributes:
      image: the image with the smallest loss seen, or the mean over the images where one was asked
        for, float32[height, width, 3], clipped to [0, 1].
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
      layer_weights: term to layer to its weight, balanced if that was asked for, at full size.
      opt_state: the optimizer's last state, where it was to be kept.
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
    layer_weights: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    opt_state: Any = dataclasses.field(default=None, repr=False)


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
BatchRunFn = Callable[..., list[Result]]


def make_run_fn(
    objective: Objective,
    optimizer: Optimizer,
    stop: StopRule,
    *,
    chunk_steps: int = 5,
    decay: float = 0.0,
) -> RunFn:
    """Build a run that compiles once per image shape and serves any number of pairs in turn.

    Args:
      objective: (image, params, targets) -> (loss, terms).
      optimizer: see `optimizers.Optimizer`.
      stop: when to end.
      chunk_steps: steps per compiled call; nothing comes back to the host in between.
      decay: of a running mean of the images, which is the result then; see `step.find_average`.
        0 keeps none.

    Returns:
      ``run(image, params, targets, *, next_stop=None, callback=None, carried=None,
      keep_state=False) -> Result``, where `image` is the start, float32[height, width, 3], and a
      chunk ends at `next_stop(steps made)` at the latest; see `make_next_stop`. `carried` is the
      optimizer's state at another size, from the `Result` of a run with `keep_state`.
    """
    run_pairs = _make_run_pairs(
        objective, optimizer, stop, chunk_steps=chunk_steps, decay=decay, batched=False
    )

    def run(
        image: Array,
        params: Any,
        targets: Targets,
        *,
        next_stop: NextStop | None = None,
        callback: Callback | None = None,
        carried: Any = None,
        keep_state: bool = False,
    ) -> Result:
        report = None if callback is None else lambda _, progress: callback(progress)
        return run_pairs(
            image,
            params,
            targets,
            next_stop=next_stop,
            callback=report,
            carried=None if carried is None else [carried],
            keep_state=keep_state,
        )[0]

    return run


def make_batch_run_fn(
    objective: Objective,
    optimizer: Optimizer,
    stop: StopRule,
    *,
    chunk_steps: int = 5,
    decay: float = 0.0,
) -> BatchRunFn:
    """Build a run of many pairs at once, each as if it ran alone; arguments as of `make_run_fn`.

    Every evaluation is one batched call. Each pair has a line search, a number of steps and an end
    of its own: none waits for another, but for those that run on when it has ended.

    Returns:
      ``run(images, params, targets, *, next_stop=None, callback=None, carried=None,
      keep_state=False) -> list[Result]``, where `images` and all arrays of `targets` have a leading
      axis of pairs, and `carried` is a list with a state for each. A chunk ends when the
      slowest pair is at its boundary; others may be some steps ahead. The callback is a
      `BatchCallback`; `seconds` are those of the whole batch, and `seconds_per_evaluation` are
      shared out among the pairs.
    """
    return _make_run_pairs(
        objective, optimizer, stop, chunk_steps=chunk_steps, decay=decay, batched=True
    )


class _Figures(NamedTuple):
    """What the host reads of a state after a chunk; fields as in `TransferState`."""

    status: Any
    num_steps: Any
    num_evaluations: Any
    terms: Any
    best_loss: Any


def _make_run_pairs(
    objective: Objective,
    optimizer: Optimizer,
    stop: StopRule,
    *,
    chunk_steps: int,
    decay: float,
    batched: bool,
) -> BatchRunFn:
    evaluate = make_evaluate_fn(objective)
    init = make_init_fn(evaluate, optimizer, stop, decay=decay)
    carry = optimizer.carry
    if batched:
        pair_axes = (0, None, 0)  # The network's parameters are shared.
        evaluate, init = jax.vmap(evaluate, pair_axes), jax.vmap(init, pair_axes)
        carry = jax.vmap(carry)
    tick = make_tick_fn(evaluate, optimizer, stop, decay=decay, batched=batched)

    def chunk(state: TransferState, params: Any, targets: Targets, until: Array) -> TransferState:
        def goes_on(state: TransferState) -> Array:
            return jnp.any((state.status == Status.RUNNING) & (state.num_steps < until))

        return lax.while_loop(goes_on, lambda state: tick(state, params, targets), state)

    run_init, run_chunk = compile_fn(init), compile_fn(chunk, donate_argnames="state")
    run_carry = compile_fn(carry)

    def pairs_of(tree: Any, num_pairs: int) -> list[Any]:
        if not batched:
            return [tree]
        return [jax.tree.map(operator.itemgetter(pair), tree) for pair in range(num_pairs)]

    def run(
        images: Array,
        params: Any,
        targets: Targets,
        *,
        next_stop: NextStop | None = None,
        callback: BatchCallback | None = None,
        carried: Sequence[Any] | None = None,
        keep_state: bool = False,
    ) -> list[Result]:
        began = time.perf_counter()
        # A copy, since the state is donated and the caller's image must survive.
        state = run_init(jnp.array(images, dtype=jnp.float32), params, targets)
        # best_image and image are one buffer here, which can't be donated twice.
        state = state._replace(best_image=jnp.copy(state.best_image))
        num_pairs = len(state.image) if batched else 1
        if carried is not None:
            old = jax.tree.map(lambda *a: jnp.stack(a), *carried) if batched else carried[0]
            start = Point(state.image, state.evaluation)
            state = state._replace(opt_state=run_carry(start, old))

        def fetch_figures(state: TransferState) -> list[_Figures]:
            fields = {name: getattr(state, name) for name in _Figures._fields}
            return pairs_of(jax.device_get(_Figures(**fields)), num_pairs)  # Waits for the device.

        def fetch_image(state: TransferState, pair: int) -> np.ndarray:
            return np.asarray(state.image[pair] if batched else state.image)

        figures = fetch_figures(state)
        histories: list[list[dict[str, Any]]] = [[] for _ in figures]
        statuses = [Status.RUNNING for _ in figures]
        paces: list[float] = []
        first = 0.0
        while True:
            for pair, now in enumerate(figures):
                if statuses[pair] != Status.RUNNING:
                    continue  # It has ended, and was reported then.
                statuses[pair] = Status(int(now.status))
                progress = Progress(
                    num_steps=int(now.num_steps),
                    num_evaluations=int(now.num_evaluations),
                    losses={name: float(value) for name, value in now.terms.items()},
                    best_loss=float(now.best_loss),
                    seconds=time.perf_counter() - began,
                    total_steps=stop.num_steps,
                    size=state.image.shape[-3:-1],
                    status=statuses[pair],
                    image=functools.partial(fetch_image, state, pair),
                )
                histories[pair].append(progress.figures())
                wants_end = callback is not None and callback(pair, progress)
                if wants_end and statuses[pair] == Status.RUNNING:
                    statuses[pair] = Status.STOPPED
            running = [f for f, s in zip(figures, statuses, strict=True) if s == Status.RUNNING]
            if not running:
                break
            state = state._replace(status=jnp.int32(statuses if batched else statuses[0]))
            done = min(int(now.num_steps) for now in running)
            until = done + chunk_steps
            if next_stop is not None:
                until = min(until, next_stop(done))
            chunk_began = time.perf_counter()
            state = run_chunk(state, params, targets, jnp.int32(until))
            before, figures = figures, fetch_figures(state)
            made = sum(
                int(now.num_evaluations - then.num_evaluations)
                for now, then in zip(figures, before, strict=True)
            )
            paces.append((time.perf_counter() - chunk_began) / max(made, 1))
            first = first or time.perf_counter() - began

        found = find_average(state, decay=decay) if decay else state.best_image
        best_images = jnp.clip(found, 0, 1)
        # The program that made the first state also judges the last image: no third compilation.
        last_terms = run_init(best_images, params, targets).terms
        ends = jax.device_get((best_images, last_terms, state.step_losses))
        opt_states = pairs_of(state.opt_state, num_pairs) if keep_state else [None] * num_pairs
        seconds = time.perf_counter() - began
        return [
            Result(
                image=image,
                losses={name: float(value) for name, value in terms.items()},
                status=status,
                num_steps=int(now.num_steps),
                num_evaluations=int(now.num_evaluations),
                step_losses=step_losses[: int(now.num_steps) + 1],
                history=tuple(history),
                seconds=seconds,
                seconds_to_first_step=first,
                seconds_per_evaluation=float(np.median(paces[1:] or paces or [0.0])),
                opt_state=opt_state,
            )
            for (image, terms, step_losses), status, now, history, opt_state in zip(
                pairs_of(ends, num_pairs), statuses, figures, histories, opt_states, strict=True
            )
        ]

    return run
