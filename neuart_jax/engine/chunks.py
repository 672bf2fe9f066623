"""What of a run is compiled: its start, and chunks of steps that the host doesn't see."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.step import (
    NUM_RECENT,
    Numbers,
    Status,
    TransferState,
    make_evaluate_fn,
    make_init_fn,
    make_tick_fn,
)
from neuart_jax.objective.term import Objective, Targets
from neuart_jax.optimizers.base import Optimizer

_ANNOUNCEMENT = "Compiling for pictures of this size, once, which can take a minute."


class Programs(NamedTuple):
    """The compiled functions of a run.

    With `batched` all arrays but the network's parameters have a leading axis of pairs.

    Attributes:
      init: (the start, params, targets) -> the state, where nothing has been evaluated.
      chunk: (state, params, targets, numbers, number of steps) -> the state after so many steps
        in all, int32[], after its end, or after as many evaluations as it can hold losses. The
        first evaluation, that of the start, is no step. The state that is given is used up.
      carry: (the start, the optimizer's state at another size) -> the optimizer's state.
      share: (arrays of pairs) -> the same, shared out among the devices.
      copy: (arrays that all pairs need) -> the same, on every device.
    """

    init: Callable[[Array, Any, Targets], TransferState]
    chunk: Callable[[TransferState, Any, Targets, Numbers, Array], TransferState]
    carry: Callable[[Array, Any], Any]
    share: Callable[[Any], Any] = lambda arrays: arrays
    copy: Callable[[Any], Any] = lambda arrays: arrays


def compile_programs(
    objective: Objective,
    optimizer: Optimizer,
    *,
    averages: bool,
    key: str,
    batched: bool,
    num_devices: int,
) -> Programs:
    """Compile a run, when its functions are first called; arguments as of `loop.make_batch_run_fn`.

    Args:
      objective: of one pair.
      optimizer: how pixels are moved.
      averages: whether an average over the images is kept.
      key: names what all these depend on; empty caches no program.
      batched: whether there are many pairs at once.
      num_devices: of this machine, among which the pairs are shared out.
    """
    evaluate = make_evaluate_fn(objective)
    init = make_init_fn(evaluate, optimizer, averages=averages)
    carry = optimizer.carry
    if batched:
        pair_axes = (0, None, 0)  # The network's parameters are shared.
        evaluate, init = jax.vmap(evaluate, pair_axes), jax.vmap(init, pair_axes)
        carry = jax.vmap(carry)
    tick = make_tick_fn(evaluate, optimizer, batched=batched)

    def chunk(
        state: TransferState, params: Any, targets: Targets, numbers: Numbers, until: Array
    ) -> TransferState:
        def goes_on(carry: tuple[TransferState, Array]) -> Array:
            state, num_ticks = carry
            wanted = (state.num_steps < until) | (state.num_evaluations == 0)
            has_room = num_ticks < NUM_RECENT
            return jnp.any((state.status == Status.RUNNING) & wanted) & has_room

        def go_on(carry: tuple[TransferState, Array]) -> tuple[TransferState, Array]:
            state, num_ticks = carry
            return tick(state, params, targets, numbers), num_ticks + 1

        return lax.while_loop(goes_on, go_on, (state, jnp.int32(0)))[0]

    placing: dict[str, Any] = {}
    if num_devices > 1:
        # Under jit alone the loop's condition would be exchanged among all devices at every step.
        mesh = Mesh(np.asarray(jax.local_devices()[:num_devices]), ("pairs",))
        pairs, whole = PartitionSpec("pairs"), PartitionSpec()
        init = jax.shard_map(
            init, mesh=mesh, in_specs=(pairs, whole, pairs), out_specs=pairs, check_vma=False
        )
        chunk = jax.shard_map(
            chunk,
            mesh=mesh,
            in_specs=(pairs, whole, pairs, whole, whole),
            out_specs=pairs,
            check_vma=False,
        )
        placing = {
            name: functools.partial(jax.device_put, device=NamedSharding(mesh, spec))
            for name, spec in (("share", pairs), ("copy", whole))
        }
    # Programs for several devices aren't cached.
    key = key if num_devices == 1 else ""

    def compile_part(fn: Callable[..., Any], part: str, **options: Any) -> Any:
        return compile_fn(fn, key=key and f"{part} {batched=} {key}", **options)

    return Programs(
        compile_part(init, "init"),
        compile_part(chunk, "chunk", donate=(0,), announcement=_ANNOUNCEMENT),
        compile_part(carry, "carry"),
        **placing,
    )
