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
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from neuart_jax.config.errors import InputError
from neuart_jax.engine.compile import compile_fn
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

_ANNOUNCEMENT = "Compiling for pictures of this size, once, which can take a minute."


class Loop(NamedTuple):
    """The compiled functions of a run.

    Where `batched`, all arrays but the network's parameters have a leading axis of pairs.

    Attributes:
      init: (the start, params, targets) -> the state, where nothing has been evaluated.
      chunk: (state, params, targets, numbers, number of steps) -> the state after so many steps
        in all, int32[], after its end, or after as many evaluations as it can hold losses. The
        first evaluation, that of the start, is no step. The state that is given is used up.
      resize: (the start, the optimizer's state at another size) -> the optimizer's state.
      render: (what is optimized for one pair) -> its image; None where that is the image itself.
      batched: whether there are several pairs at once.
      num_devices: of this machine, among which the pairs are shared out.
    """

    init: Callable[[Array, Any, Targets], LoopState]
    chunk: Callable[[LoopState, Any, Targets, Numbers, Array], LoopState]
    resize: Callable[[Array, Any], Any]
    render: Callable[[Any], Array] | None
    batched: bool
    num_devices: int

    def pack(self, trees: Sequence[Any]) -> Any:
        """Put pairs' arrays together, on the devices that are to compute with them.

        The last pair is repeated until every device has as many.
        """
        if not self.batched:
            return trees[0]
        return self.share(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees))

    def share(self, tree: Any) -> Any:
        """Share arrays of all pairs out among the devices, filled up as by `pack`."""
        if not self.batched:
            return tree
        filled = jax.tree.map(lambda array: _fill(array, self.num_devices), tree)
        return self._put(filled, PartitionSpec("pairs"))

    def copy(self, tree: Any) -> Any:
        """Put arrays that all pairs need on every device."""
        return self._put(tree, PartitionSpec())

    def unpack(self, tree: Any, num_pairs: int) -> list[Any]:
        """Undo `pack`."""
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
    """Compile a run, when its functions are first called; once per shape of the image.

    Of a batch every evaluation is one call. Each pair has a line search, a number of steps and an
    end of its own: none waits for another, but for those that run on when it has ended.

    Args:
      objective: of one pair, (image, params, targets) -> (loss, terms).
      optimizer: how pixels are moved.
      averages: whether an average over the images is kept, which is the result then; see
        `step.find_average`.
      render: parameters of an image -> the image, where the objective is one of parameters.
      key: names what all these depend on, so that programs can be cached; see
        `compile.compile_fn`. Empty caches none.
      batched: whether there are several pairs at once.
      num_devices: of this machine, among which a batch is shared out. They don't wait for each
        other within a chunk: nothing is exchanged.
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
        key = ""  # Exported programs are those of one device.
        # Under jit alone the loop's condition would be exchanged among all devices at every step.
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


class _Figures(NamedTuple):
    """What the host reads of a state after a chunk; fields as in `LoopState`."""

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
    """Run one scale of some pairs, or go on with it where it was cut.

    Args:
      loop: see `compile_loop`.
      images: each pair's start, float32[height, width, 3], or parameters of it; these arrays
        survive.
      params: the network's arrays.
      targets: of each pair.
      numbers: of the run, see `step.Numbers`.
      run: what is known of the run so far, and gets to know of this scale; where it has `arrays`,
        the scale goes on from there.
      members: which of the run's pairs these are.
      chunk_steps: steps per compiled call; nothing comes back to the host in between.
      next_stop: a chunk ends there at the latest; see `make_next_stop`. Of a batch, when the
        slowest pair is there; others may be some steps ahead.
      size: (height, width) of the images, where they are parametrized.
      callback: sees each pair's `Progress` at this scale after every chunk, by its place among
        `images`; returning True ends that pair.
      carried: each pair's optimizer state at another size, from `ScaleResult.opt_state`.
      keep_state: whether the optimizer's states are part of the results.
      checkpoint: called after every chunk's reports.

    Returns:
      What each pair has at the end.
    """
    num_pairs, pairs = len(images), [run.pairs[member] for member in members]
    size = size or images[0].shape[:2]
    # Arrays, since a cached program takes nothing else.
    given = jax.tree.map(_to_array, numbers)
    params, packed_targets = loop.copy(params), loop.pack(targets)

    def begin(images: Any, carried: Any = None) -> LoopState:
        """Return the state once the objective is known at some images."""
        # Copies, since a state is donated: the caller's images must survive, and one buffer can't
        # be donated twice.
        state = loop.init(jax.tree.map(jnp.array, images), params, packed_targets)
        state = state._replace(best_image=jax.tree.map(jnp.array, state.best_image))
        if carried is not None:
            opt_state = loop.resize(state.image, carried)
            state = state._replace(opt_state=loop.share(opt_state))
        return loop.chunk(state, params, packed_targets, given, jnp.int32(0))

    images = jax.tree.map(lambda array: jnp.asarray(array, dtype=jnp.float32), list(images))
    start = loop.pack(images)
    restored, run.arrays = run.arrays, None
    if restored is not None:
        like = jax.eval_shape(loop.init, start, params, packed_targets)
        leaves = [jnp.array(leaf) for leaf in restored]  # Copies, like the start.
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
                "the image of an earlier report was asked for",
                expected="a call of Progress.image() within the callback",
                remedy="keep what it returns there",
            )
        own = jax.tree.map(operator.itemgetter(number), image) if loop.batched else image
        return fetch(show(own))

    def fetch_run() -> RunState:
        # A pair that was asked to stop is still running in there, and goes on when restored.
        own = jax.tree.map(lambda leaf: leaf[:num_pairs], state) if loop.batched else state
        return run.copy([np.asarray(leaf) for leaf in fetch(jax.tree.leaves(own))])

    def report(number: int, now: _Figures) -> Status:
        """Tell the callback of a pair; return its status, which that may change."""
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
            # Those that only fill up the devices stop with the first step.
            idle = [Status.STOPPED] * (len(state.status) - num_pairs)
            state = state._replace(status=jnp.int32([*statuses, *idle]))
        began, before = time.perf_counter(), figures
        if not run.seconds_to_first_step:
            # A chunk of its own that nobody sees, to tell when it was there.
            state = loop.chunk(state, params, packed_targets, given, jnp.int32(1))
            fetch_figures()
            run.note_first_step()
        while True:
            state = loop.chunk(state, params, packed_targets, given, jnp.int32(until))
            figures = fetch_figures()
            # It may have ended because it holds no more losses.
            if all(now.num_steps >= until or now.status != Status.RUNNING for now in figures):
                break
        changes = zip(figures, before, strict=True)
        made = sum(int(now.num_evaluations - then.num_evaluations) for now, then in changes)
        run.paces.append((time.perf_counter() - began) / max(made, 1))
        # Those that have ended were reported then.
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
    # Before there is another: with L-BFGS' memory it is as large as many images.
    state = found = None
    # The first evaluation of a run that ends there: no further compilation.
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
    # What a user's own optimizer brings as an array keeps its type.
    plain = {int: np.int32, float: np.float32}
    return np.asarray(number, plain.get(type(number)))
