"""The optimization loop: compiled chunks of steps, with one host synchronization after each.

The same code runs one pair or a batch of pairs, whose arrays have a leading axis.
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
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from neuart_jax.config.errors import InputError
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.profiling import count_evaluations, traced
from neuart_jax.engine.result import BatchCallback, Progress
from neuart_jax.engine.sharding import fetch
from neuart_jax.engine.state import CheckpointFn, RunState, ScaleResult
from neuart_jax.engine.step import (
    NUM_RECENT,
    LoopState,
    Numbers,
    Status,
    find_average,
    make_evaluate_fn,
    make_init_fn,
    make_tick_fn,
)
from neuart_jax.objective.term import Objective, Targets
from neuart_jax.optimizers.base import Optimizer

_ANNOUNCEMENT = "Compiling for images of this size, once, which can take a minute."


class Loop(NamedTuple):
    """The compiled functions of a run.

    If `batched`, all arrays except the network's parameters have a leading axis of pairs.

    Attributes:
      init: (initial image, params, targets) -> state before the first evaluation.
      chunk: (state, params, targets, numbers, total number of steps, int32[]) -> state after that
        many steps, or at the run's end, or when its buffer of losses is full. The first evaluation,
        of the initial image, is not a step. The given state is donated.
      resize: (initial image, optimizer state at another size) -> optimizer state.
      render: optimized parameters of a pair -> image; None if the image itself is optimized.
      batched: whether there is a batch of pairs.
      num_devices: number of this machine's devices over which the pairs are sharded.
    """

    init: Callable[[Array, Any, Targets], LoopState]
    chunk: Callable[[LoopState, Any, Targets, Numbers, Array], LoopState]
    resize: Callable[[Array, Any], Any]
    render: Callable[[Any], Array] | None
    batched: bool
    num_devices: int

    def pack(self, trees: Sequence[Any]) -> Any:
        """Stack the arrays of all pairs, sharded over the devices.

        The last pair is repeated so that every device has the same number of pairs.
        """
        if not self.batched:
            return trees[0]
        return self.share(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees))

    def share(self, tree: Any) -> Any:
        """Shard stacked arrays over the devices, padded as by `pack`."""
        if not self.batched:
            return tree
        filled = jax.tree.map(lambda array: _fill(array, self.num_devices), tree)
        return self._put(filled, PartitionSpec("pairs"))

    def copy(self, tree: Any) -> Any:
        """Replicate arrays on all devices."""
        return self._put(tree, PartitionSpec())

    def unpack(self, tree: Any, num_pairs: int) -> list[Any]:
        """Split stacked arrays into those of the pairs: the inverse of `pack`."""
        if not self.batched:
            return [tree]
        return [jax.tree.map(operator.itemgetter(pair), tree) for pair in range(num_pairs)]

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.num_devices == 1:
            return tree
        return jax.device_put(tree, NamedSharding(_mesh(self.num_devices), spec))


def _mesh(num_devices: int) -> Mesh:
    return Mesh(np.asarray(jax.local_devices()[:num_devices]), ("pairs",))


def _fill(array: Any, num_devices: int) -> Array:
    missing = -len(array) % num_devices
    array = jnp.asarray(array)
    return jnp.concatenate([array, *[array[-1:]] * missing]) if missing else array


def compile_loop(
    objective: Objective,
    optimizer: Optimizer,
    *,
    averages: bool = False,
    render: Callable[[Any], Array] | None = None,
    key: str = "",
    batched: bool = False,
    num_devices: int = 1,
) -> Loop:
    """Build the compiled functions of a run; they compile at the first call for each image shape.

    In a batch, every evaluation is one call for all pairs. Each pair has its own line search,
    number of steps and end: no pair waits for another, except that those that have ended wait for
    the rest.

    Args:
      objective: objective of one pair, (image, params, targets) -> (loss, terms).
      optimizer: optimizer of the pixels.
      averages: whether to keep a moving average of the iterates, which is then the result; see
        `step.find_average`.
      render: parameters -> image, if the objective is a function of parameters.
      key: cache key of all these arguments; see `compile.compile_fn`. If empty, programs aren't
        cached.
      batched: whether there is a batch of pairs.
      num_devices: number of this machine's devices over which a batch is sharded. They don't
        communicate within a chunk.
    """
    evaluate = make_evaluate_fn(objective)
    init = make_init_fn(evaluate, optimizer, averages=averages)
    resize = optimizer.carry
    if batched:
        pair_axes = (0, None, 0)  # The network's parameters are shared.
        evaluate, init = jax.vmap(evaluate, pair_axes), jax.vmap(init, pair_axes)
        resize = jax.vmap(resize)
    tick = make_tick_fn(evaluate, optimizer, batched=batched)

    def chunk(
        state: LoopState, params: Any, targets: Targets, numbers: Numbers, until: Array
    ) -> LoopState:
        def goes_on(carry: tuple[LoopState, Array]) -> Array:
            state, num_ticks = carry
            wanted = (state.num_steps < until) | (state.num_evaluations == 0)
            has_room = num_ticks < NUM_RECENT
            return jnp.any((state.status == Status.RUNNING) & wanted) & has_room

        def go_on(carry: tuple[LoopState, Array]) -> tuple[LoopState, Array]:
            state, num_ticks = carry
            return tick(state, params, targets, numbers), num_ticks + 1

        return lax.while_loop(goes_on, go_on, (state, jnp.int32(0)))[0]

    if num_devices > 1:
        key = ""  # Only programs for a single device can be exported.
        # With jit alone, the loop's condition would be synchronized over all devices at every step.
        pairs, whole = PartitionSpec("pairs"), PartitionSpec()
        shard = functools.partial(
            jax.shard_map, mesh=_mesh(num_devices), out_specs=pairs, check_vma=False
        )
        init = shard(init, in_specs=(pairs, whole, pairs))
        chunk = shard(chunk, in_specs=(pairs, whole, pairs, whole, whole))

    def compile_part(fn: Callable[..., Any], part: str, **options: Any) -> Any:
        return compile_fn(fn, key=key and f"{part} {batched=} {key}", **options)

    return Loop(
        compile_part(init, "init"),
        compile_part(chunk, "chunk", donate=(0,), announcement=_ANNOUNCEMENT),
        compile_part(resize, "resize"),
        None if render is None else compile_fn(render),
        batched,
        num_devices,
    )


NextStop = Callable[[int], int]
"""Number of steps made -> the next number of steps at which a chunk must end."""


def make_next_stop(*, every: int, at: Sequence[int] = (), first_step: int = 0) -> NextStop:
    """Make a rule that says where chunks must end.

    Args:
      every: stop at multiples of this number of steps; 0 doesn't.
      at: additional numbers of steps to stop at.
      first_step: number of steps made before this run, which `every` and `at` include but the
        rule's arguments and results don't.
    """

    def next_stop(done: int) -> int:
        made = done + first_step
        stops = [step for step in at if step > made]
        if every:
            stops.append((made // every + 1) * every)
        return min(stops, default=sys.maxsize) - first_step

    return next_stop


class _Figures(NamedTuple):
    """The part of a state that the host reads after a chunk; see `LoopState` for the fields."""

    status: Any
    num_steps: Any
    num_evaluations: Any
    terms: Any
    best_loss: Any
    recent_losses: Any


def run_loop(
    loop: Loop,
    images: Sequence[Any],
    params: Any,
    targets: Sequence[Targets],
    numbers: Numbers,
    *,
    run: RunState,
    members: Sequence[int],
    chunk_steps: int = 5,
    next_stop: NextStop | None = None,
    size: tuple[int, int] | None = None,
    callback: BatchCallback | None = None,
    carried: Sequence[Any] | None = None,
    keep_state: bool = False,
    checkpoint: CheckpointFn | None = None,
) -> list[ScaleResult]:
    """Run one scale of some pairs, or resume it where it was interrupted.

    Args:
      loop: compiled functions, from `compile_loop`.
      images: initial image of every pair, float32[height, width, 3], or its parameters; these
        arrays are not donated.
      params: the network's parameters.
      targets: targets of every pair.
      numbers: data of the run; see `step.Numbers`.
      run: state of the run so far, which is updated; if it has `arrays`, the scale is resumed
        from them.
      members: indices of these pairs in the run.
      chunk_steps: steps per compiled call, between which nothing is transferred to the host.
      next_stop: rule for where chunks must end; see `make_next_stop`. In a batch, the slowest pair
        counts; others may be some steps ahead.
      size: (height, width) of the images, if they are parametrized.
      callback: called with a pair's index among `images` and its `Progress` at this scale after
        every chunk; returning True ends that pair.
      carried: every pair's optimizer state at another size, from `ScaleResult.opt_state`.
      keep_state: whether the results include the optimizer's states.
      checkpoint: called after every chunk's reports.

    Returns:
      The result of every pair at this scale.
    """
    num_pairs, pairs = len(images), [run.pairs[member] for member in members]
    size = size or images[0].shape[:2]
    # Cached programs only accept arrays.
    given = jax.tree.map(_to_array, numbers)
    params, packed_targets = loop.copy(params), loop.pack(targets)

    def begin(images: Any, carried: Any = None) -> LoopState:
        """Return the state after the first evaluation, at the given images."""
        # Copies, since a state is donated: the caller's images must survive, and one buffer can't
        # be donated twice.
        state = loop.init(jax.tree.map(jnp.array, images), params, packed_targets)
        state = state._replace(best_image=jax.tree.map(jnp.array, state.best_image))
        if carried is not None:
            opt_state = loop.resize(state.image, carried)
            state = state._replace(opt_state=loop.share(opt_state))
        count_evaluations(num_pairs)
        return loop.chunk(state, params, packed_targets, given, jnp.int32(0))

    images = jax.tree.map(lambda array: jnp.asarray(array, dtype=jnp.float32), list(images))
    start = loop.pack(images)
    restored, run.arrays = run.arrays, None
    if restored is not None:
        like = jax.eval_shape(loop.init, start, params, packed_targets)
        leaves = [jnp.array(leaf) for leaf in restored]  # Copies, as they are donated.
        state = loop.share(jax.tree.unflatten(jax.tree.structure(like), leaves))
    else:
        run.begin_scale()
        state = begin(start, None if carried is None else loop.pack(carried))

    def fetch_figures() -> list[_Figures]:
        fields = {name: getattr(state, name) for name in _Figures._fields}
        figures = loop.unpack(fetch(_Figures(**fields)), num_pairs)  # Waits for the device.
        for pair, now in zip(pairs, figures, strict=True):
            pair.add_losses(int(now.num_steps), now.recent_losses)
        return figures

    def show(image: Any) -> Any:
        return image if loop.render is None else loop.render(image)

    def fetch_image(image: Any, number: int) -> np.ndarray:
        if any(array.is_deleted() for array in jax.tree.leaves(image)):
            raise InputError(
                "the image of an earlier report was requested",
                expected="a call of Progress.image() within the callback",
                remedy="keep the array that it returns there",
            )
        own = jax.tree.map(operator.itemgetter(number), image) if loop.batched else image
        return fetch(show(own))

    def fetch_run() -> RunState:
        # A pair that was stopped on request is still running in this state, and can be resumed.
        own = jax.tree.map(lambda leaf: leaf[:num_pairs], state) if loop.batched else state
        return run.copy([np.asarray(leaf) for leaf in fetch(jax.tree.leaves(own))])

    def report(number: int, now: _Figures) -> Status:
        """Report a pair to the callback; return its status, which the callback may change."""
        progress = Progress(
            num_steps=int(now.num_steps),
            num_evaluations=int(now.num_evaluations),
            losses={name: float(value) for name, value in now.terms.items()},
            best_loss=float(now.best_loss),
            seconds=run.seconds,
            total_steps=numbers.stop.num_steps,
            size=size,
            status=Status(int(now.status)),
            image=functools.partial(fetch_image, state.image, number),
            seconds_to_first_step=run.seconds_to_first_step,
        )
        wants_end = callback is not None and callback(number, progress)
        return Status.STOPPED if wants_end and not progress.status else progress.status

    figures = fetch_figures()
    if restored is None:
        statuses = [report(*each) for each in enumerate(figures)]
    else:
        statuses = [Status(int(now.status)) for now in figures]
    while Status.RUNNING in statuses:
        running = [not status for status in statuses]
        done = min(int(now.num_steps) for now, runs in zip(figures, running, strict=True) if runs)
        until = done + chunk_steps
        if next_stop is not None:
            until = min(until, next_stop(done))
        if loop.batched:
            # Padding pairs stop at the first step.
            idle = [Status.STOPPED] * (len(state.status) - num_pairs)
            state = state._replace(status=jnp.int32([*statuses, *idle]))
        began, before = time.perf_counter(), figures
        if not run.seconds_to_first_step:
            # A separate chunk without report, to measure the time of the first step.
            state = loop.chunk(state, params, packed_targets, given, jnp.int32(1))
            fetch_figures()
            run.note_first_step()
        while True:
            state = traced(loop.chunk, state, params, packed_targets, given, jnp.int32(until))
            figures = fetch_figures()
            # The chunk may have ended early because the buffer of losses was full.
            if all(now.num_steps >= until or now.status != Status.RUNNING for now in figures):
                break
        changes = zip(figures, before, strict=True)
        made = sum(int(now.num_evaluations - then.num_evaluations) for now, then in changes)
        count_evaluations(made)
        run.paces.append((time.perf_counter() - began) / max(made, 1))
        # Pairs that have ended were reported before.
        statuses = [
            report(number, now) if runs else status
            for number, (now, status, runs) in enumerate(
                zip(figures, statuses, running, strict=True)
            )
        ]
        if checkpoint is not None:
            checkpoint(fetch_run)

    averages = state.average is not None
    found = find_average(state, decay=numbers.decay) if averages else state.best_image
    best_images = jnp.clip(found, 0, 1) if loop.render is None else found
    opt_states = loop.unpack(state.opt_state, num_pairs) if keep_state else [None] * num_pairs
    # Free the state before the next: with L-BFGS's memory it is as large as many images.
    state = found = None
    # The losses at the results, by the first evaluation of a new state: no further compilation.
    ends = loop.unpack(fetch((best_images, begin(best_images).terms)), num_pairs)
    parameters: list[Any] = [None] * num_pairs
    if loop.render is not None:
        parameters = [found for found, _ in ends]
        ends = [(np.clip(fetch(loop.render(found)), 0, 1), terms) for found, terms in ends]
    return [
        ScaleResult(
            image=image,
            losses={name: float(value) for name, value in terms.items()},
            status=status,
            num_steps=int(now.num_steps),
            num_evaluations=int(now.num_evaluations),
            step_losses=np.asarray(pair.step_losses, np.float32),
            seconds_per_evaluation=float(np.median(run.paces[1:] or run.paces or [0])),
            opt_state=opt_state,
            parameters=own,
        )
        for (image, terms), status, now, pair, opt_state, own in zip(
            ends, statuses, figures, pairs, opt_states, parameters, strict=True
        )
    ]


def _to_array(number: Any) -> np.ndarray:
    # Arrays of a custom optimizer keep their dtype.
    plain = {int: np.int32, float: np.float32}
    return np.asarray(number, plain.get(type(number)))
