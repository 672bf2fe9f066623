"""The loop: compiled chunks of steps, one host synchronization after each.

One pair or a batch of them run through the same code; a batch's arrays have a leading axis.
"""

import functools
import operator
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from neuart_jax.engine.account import Account
from neuart_jax.engine.chunks import compile_programs
from neuart_jax.engine.result import BatchCallback, Callback, Keep, Progress, Result, Snapshot
from neuart_jax.engine.sharding import fetch
from neuart_jax.engine.step import (
    Numbers,
    Status,
    StopRule,
    TransferState,
    find_average,
)
from neuart_jax.objective.term import Objective, Targets
from neuart_jax.optimizers.base import Optimizer

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
    stop: StopRule = StopRule(0),
    *,
    chunk_steps: int = 5,
    decay: float = 0.0,
    key: str = "",
) -> RunFn:
    """Build a run that compiles once per image shape and serves any number of pairs in turn.

    When it ends, the optimizer's numbers and how often it reports are data: they can be given anew
    with each call.

    Args:
      objective: (image, params, targets) -> (loss, terms).
      optimizer: see `base.Optimizer`.
      stop: when to end, unless a call says so.
      chunk_steps: steps per compiled call, unless a call says so; nothing comes back to the host in
        between.
      decay: of a running mean of the images, which is the result then; see `step.find_average`.
        0 keeps none, whatever a call's numbers say; else a call may bring another one.
      key: names what all these depend on, so that programs can be cached; see
        `compile.compile_fn`.

    Returns:
      ``run(image, params, targets, *, numbers=None, chunk_steps=None, next_stop=None,
      callback=None, carried=None, keep_state=False, restored=None, keep=None) -> Result``, where
      `image` is the start, float32[height, width, 3], `numbers` are `step.Numbers`, and a chunk
      ends at `next_stop(steps made)` at the latest; see `make_next_stop`. `carried` is the
      optimizer's state at another size, from the `Result` of a run with `keep_state`. `keep` is a
      `Keep`, and with a `Snapshot` from it as `restored` a run goes on where that was taken.
    """
    run_pairs = _make_run_pairs(
        objective,
        optimizer,
        stop,
        chunk_steps=chunk_steps,
        decay=decay,
        key=key,
        batched=False,
    )

    def run(
        image: Array,
        params: Any,
        targets: Targets,
        *,
        callback: Callback | None = None,
        carried: Any = None,
        **options: Any,
    ) -> Result:
        [result] = run_pairs(
            image,
            params,
            targets,
            callback=None if callback is None else lambda _, progress: callback(progress),
            carried=None if carried is None else [carried],
            **options,
        )
        return result

    return run


def make_batch_run_fn(
    objective: Objective,
    optimizer: Optimizer,
    stop: StopRule = StopRule(0),
    *,
    chunk_steps: int = 5,
    decay: float = 0.0,
    key: str = "",
    num_devices: int = 1,
) -> BatchRunFn:
    """Build a run of many pairs at once, each as if it ran alone; arguments as of `make_run_fn`.

    Every evaluation is one batched call. Each pair has a line search, a number of steps and an end
    of its own: none waits for another, but for those that run on when it has ended.

    Args:
      objective: of one pair; see `make_run_fn`, also for the next five.
      optimizer: how pixels are moved.
      stop: when to end, unless a call says so.
      chunk_steps: steps per compiled call, unless a call says so.
      decay: of a running mean of the images; 0 keeps none.
      key: names what all these depend on, so that programs can be cached; empty caches none.
      num_devices: of this machine, among which the pairs are shared out. They don't wait for each
        other within a chunk: nothing is exchanged.

    Returns:
      What `make_run_fn` returns, but for a list of results: `images` and all arrays of `targets`
      have a leading axis of pairs, and `carried` is a list with a state for each. A chunk ends
      when the slowest pair is at its boundary; others may be some steps ahead. The
      callback is a `BatchCallback`; `seconds` are those of the whole batch, and
      `seconds_per_evaluation` are shared out among the pairs.
    """
    return _make_run_pairs(
        objective,
        optimizer,
        stop,
        chunk_steps=chunk_steps,
        decay=decay,
        key=key,
        batched=True,
        num_devices=num_devices,
    )


class _Figures(NamedTuple):
    """What the host reads of a state after a chunk; fields as in `TransferState`."""

    status: Any
    num_steps: Any
    num_evaluations: Any
    terms: Any
    best_loss: Any
    recent_losses: Any


def _make_run_pairs(
    objective: Objective,
    optimizer: Optimizer,
    stop: StopRule,
    *,
    chunk_steps: int,
    decay: float,
    key: str,
    batched: bool,
    num_devices: int = 1,
) -> BatchRunFn:
    programs = compile_programs(
        objective,
        optimizer,
        averages=decay > 0,
        key=key,
        batched=batched,
        num_devices=num_devices,
    )
    own_numbers, own_chunk_steps = Numbers(stop, optimizer.numbers, decay), chunk_steps

    def pairs_of(tree: Any, num_pairs: int) -> list[Any]:
        if not batched:
            return [tree]
        return [jax.tree.map(operator.itemgetter(pair), tree) for pair in range(num_pairs)]

    def fill(tree: Any) -> Any:
        """Repeat the last pair until every device has as many."""
        return jax.tree.map(lambda array: _fill(array, num_devices), tree) if batched else tree

    def run(
        images: Array,
        params: Any,
        targets: Targets,
        *,
        numbers: Numbers | None = None,
        chunk_steps: int | None = None,
        next_stop: NextStop | None = None,
        callback: BatchCallback | None = None,
        carried: Sequence[Any] | None = None,
        keep_state: bool = False,
        restored: Snapshot | None = None,
        keep: Keep | None = None,
    ) -> list[Result]:
        num_pairs = len(images) if batched else 1
        numbers = own_numbers if numbers is None else numbers
        chunk_steps = chunk_steps or own_chunk_steps
        # Arrays, since a cached program takes nothing else.
        given = jax.tree.map(_to_array, numbers)
        account = Account(num_pairs, restored)
        params, targets = programs.copy(params), programs.share(fill(targets))

        def begin(images: Array, carried: Any = None) -> TransferState:
            """Return the state once the objective is known at some images."""
            # Copies, since a state is donated: the caller's images must survive, and one buffer
            # can't be donated twice.
            state = programs.init(programs.share(jnp.array(images)), params, targets)
            state = state._replace(best_image=jnp.array(state.best_image))
            if carried is not None:
                opt_state = programs.carry(state.image, programs.share(carried))
                state = state._replace(opt_state=programs.share(opt_state))
            return programs.chunk(state, params, targets, given, jnp.int32(0))

        start = fill(jnp.asarray(images, dtype=jnp.float32))
        if restored is not None:
            like = jax.eval_shape(programs.init, start, params, targets)
            arrays = [jnp.array(leaf) for leaf in restored.arrays]  # Copies, like the start.
            state = programs.share(fill(jax.tree.unflatten(jax.tree.structure(like), arrays)))
        elif carried is not None:
            old = jax.tree.map(lambda *a: jnp.stack(a), *carried) if batched else carried[0]
            state = begin(start, fill(old))
        else:
            state = begin(start)

        def fetch_figures() -> list[_Figures]:
            fields = {name: getattr(state, name) for name in _Figures._fields}
            return pairs_of(fetch(_Figures(**fields)), num_pairs)  # Waits for the device.

        def fetch_image(state: TransferState, pair: int) -> np.ndarray:
            return fetch(state.image[pair] if batched else state.image)

        def report() -> None:
            for pair, now in enumerate(figures):
                if account.statuses[pair] != Status.RUNNING:
                    continue  # It has ended, and was reported then.
                account.statuses[pair] = Status(int(now.status))
                progress = Progress(
                    num_steps=int(now.num_steps),
                    num_evaluations=int(now.num_evaluations),
                    losses={name: float(value) for name, value in now.terms.items()},
                    best_loss=float(now.best_loss),
                    seconds=account.seconds,
                    total_steps=numbers.stop.num_steps,
                    size=state.image.shape[-3:-1],
                    status=account.statuses[pair],
                    image=functools.partial(fetch_image, state, pair),
                    seconds_to_first_step=account.seconds_to_first_step,
                )
                account.histories[pair].append(progress.figures())
                wants_end = callback is not None and callback(pair, progress)
                if wants_end and account.statuses[pair] == Status.RUNNING:
                    account.statuses[pair] = Status.STOPPED

        def snapshot() -> Snapshot:
            # A pair that was asked to stop is still running in there, and goes on when restored.
            own = jax.tree.map(lambda leaf: leaf[:num_pairs], state) if batched else state
            return account.snapshot(own)

        figures = fetch_figures()
        if restored is None:
            account.add_losses(figures)
            report()
        else:
            account.statuses = [Status(int(now.status)) for now in figures]
        while Status.RUNNING in account.statuses:
            pairs = zip(figures, account.statuses, strict=True)
            done = min(int(now.num_steps) for now, status in pairs if status == Status.RUNNING)
            until = done + chunk_steps
            if next_stop is not None:
                until = min(until, next_stop(done))
            if batched:
                # Those that only fill up the devices stop with the first step.
                idle = [Status.STOPPED] * (len(state.status) - num_pairs)
                state = state._replace(status=jnp.int32([*account.statuses, *idle]))
            chunk_began = time.perf_counter()
            if not account.seconds_to_first_step:
                # A chunk of its own that nobody sees, to tell when it was there.
                state = programs.chunk(state, params, targets, given, jnp.int32(1))
                account.add_losses(fetch_figures())
                account.note_first_step()
            before = figures
            while True:
                state = programs.chunk(state, params, targets, given, jnp.int32(until))
                figures = fetch_figures()
                account.add_losses(figures)
                # It may have ended because it holds no more losses.
                if all(now.num_steps >= until or now.status != Status.RUNNING for now in figures):
                    break
            account.add_chunk(
                sum(
                    int(now.num_evaluations - then.num_evaluations)
                    for now, then in zip(figures, before, strict=True)
                ),
                time.perf_counter() - chunk_began,
            )
            report()
            if keep is not None:
                keep(snapshot)

        averages = state.average is not None
        found = find_average(state, decay=numbers.decay) if averages else state.best_image
        best_images = jnp.clip(found, 0, 1)
        opt_states = pairs_of(state.opt_state, num_pairs) if keep_state else [None] * num_pairs
        # Before there is another: with L-BFGS' memory it is as large as many pictures.
        state = found = None
        # The first evaluation of a run that ends there: no further compilation.
        ends = fetch((best_images, begin(best_images).terms))
        return [
            Result(
                image=image,
                losses={name: float(value) for name, value in terms.items()},
                status=status,
                num_steps=int(now.num_steps),
                num_evaluations=int(now.num_evaluations),
                step_losses=np.asarray(step_losses, np.float32),
                history=tuple(history),
                seconds=account.seconds,
                seconds_to_first_step=account.seconds_to_first_step,
                seconds_per_evaluation=float(np.median(account.paces[1:] or account.paces or [0])),
                opt_state=opt_state,
            )
            for (image, terms), status, now, step_losses, history, opt_state in zip(
                pairs_of(ends, num_pairs),
                account.statuses,
                figures,
                account.step_losses,
                account.histories,
                opt_states,
                strict=True,
            )
        ]

    return run


def _to_array(number: Any) -> np.ndarray:
    # What a user's own optimizer brings as an array keeps its type.
    plain = {int: np.int32, float: np.float32}
    return np.asarray(number, plain.get(type(number)))


def _fill(array: Any, num_devices: int) -> Array:
    missing = -len(array) % num_devices
    array = jnp.asarray(array)
    return jnp.concatenate([array, *[array[-1:]] * missing]) if missing else array
