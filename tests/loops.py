"""The loop alone, for tests of it with small objectives."""

import jax

from neuart_jax.engine.loop import compile_loop, run_loop
from neuart_jax.engine.state import RunState
from neuart_jax.engine.step import Numbers, StopRule


def make_run_fn(objective, optimizer, stop=StopRule(0), *, chunk_steps=5, decay=0.0):
    """Return a run of one pair: (image, params, targets, **options of `run_loop`) -> its result."""
    loop = compile_loop(objective, optimizer, averages=decay > 0)
    numbers = Numbers(stop, optimizer.numbers, decay)

    def run(image, params, targets, *, callback=None, carried=None, **options):
        given = {"numbers": numbers, "chunk_steps": chunk_steps, **options}
        [result] = run_loop(
            loop,
            [image],
            params,
            [targets],
            run=RunState.begin(1),
            members=[0],
            callback=None if callback is None else lambda _, progress: callback(progress),
            carried=None if carried is None else [carried],
            **given,
        )
        return result

    return run


def make_batch_run_fn(objective, optimizer, stop=StopRule(0), *, chunk_steps=5):
    """Return a run of several pairs, whose arrays have a leading axis."""
    loop = compile_loop(objective, optimizer, batched=True)
    numbers = Numbers(stop, optimizer.numbers)

    def run(images, params, targets, **options):
        members = range(len(images))
        return run_loop(
            loop,
            list(images),
            params,
            [jax.tree.map(lambda leaf, n=n: leaf[n], targets) for n in members],
            numbers,
            run=RunState.begin(len(images)),
            members=members,
            chunk_steps=chunk_steps,
            **options,
        )

    return run
