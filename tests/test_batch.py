"""Many pairs at once: each runs as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loops import make_batch_run_fn, make_run_fn
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax.engine.step import Status, StopRule
from neuart_jax.optimizers import make_adam, make_lbfgs, make_lbfgs_fixed

STARTS = np.random.default_rng(0).random((3, 3, 4, 3)).astype(np.float32)
TARGETS = jnp.asarray(np.random.default_rng(1).random((3, 3, 4, 3)), jnp.float32)
OPTIMIZERS = {
    "adam": make_adam(0.05),
    "lbfgs": make_lbfgs(history=4),
    "lbfgs_preconditioned": make_lbfgs(history=4, precondition=True),
    "lbfgs_fixed": make_lbfgs_fixed(0.5, history=4),
}


def objective(image, params, targets):
    """Bent differently for every pair, so that their line searches differ in length."""
    fit = jnp.sum((image - targets) ** 2)
    bend = params * jnp.mean(targets) * jnp.sum(jnp.sin(9 * image) ** 4)
    return fit + bend, {"total": fit + bend, "fit": fit, "bend": bend}


def assert_same_run(one, alone, *, rtol=1e-4, atol=1e-4):
    assert (one.status, one.num_steps) == (alone.status, alone.num_steps)
    assert one.num_evaluations == alone.num_evaluations
    assert_allclose(one.step_losses, alone.step_losses, rtol=rtol)
    assert_allclose(one.image, alone.image, atol=atol)
    assert one.losses == pytest.approx(alone.losses, rel=rtol)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_batch_equals_its_single_runs(name):
    """To a few units of rounding, since batched sums are ordered differently."""
    stop = StopRule(9)
    batch = make_batch_run_fn(objective, OPTIMIZERS[name], stop, chunk_steps=4)
    single = make_run_fn(objective, OPTIMIZERS[name], stop, chunk_steps=4)
    params = jnp.float32(3.0)
    together = batch(STARTS, params, TARGETS)
    alone = [single(s, params, t) for s, t in zip(STARTS, TARGETS, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert_same_run(one, other)
    if name == "lbfgs":  # Else the test would say nothing about pairs that search differently.
        assert len({result.num_evaluations for result in alone}) > 1


def test_a_batch_is_evaluated_as_often_as_its_slowest_pair():
    calls = []

    def counted(image, params, targets):
        jax.debug.callback(lambda: calls.append(1))
        return objective(image, params, targets)

    batch = make_batch_run_fn(counted, make_lbfgs(history=4), StopRule(9), chunk_steps=2)
    results = batch(STARTS, jnp.float32(3.0), TARGETS)
    jax.effects_barrier()
    # One call is all three pairs; the last one judges the final images.
    assert len(calls) == max(result.num_evaluations for result in results) + 1


def test_one_compilation_serves_all_chunks():
    traces = []

    def counted(image, params, targets):
        traces.append(image.shape)
        return objective(image, params, targets)

    batch = make_batch_run_fn(counted, make_lbfgs(history=4), StopRule(9), chunk_steps=2)
    batch(STARTS, jnp.float32(3.0), TARGETS)
    # One for the start and the end, one for all between, whatever the optimizer does.
    assert traces == [(3, 4, 3)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_pair_without_numbers_leaves_the_others_alone(name):
    """One pair is broken from the start, one falls towards an edge without numbers behind it."""

    def cliff(image, params, targets):
        loss, _ = objective(image, params, targets["picture"])
        loss = loss + targets["slope"] * jnp.mean(image)
        loss = jnp.where(jnp.mean(image) > targets["edge"], loss, jnp.nan)
        return loss, {"total": loss}

    targets = {
        "picture": TARGETS,
        "slope": jnp.array([0.0, 0.0, 1e3]),
        "edge": jnp.array([-np.inf, np.inf, 0.4]),
    }
    stop = StopRule(9)
    batch = make_batch_run_fn(cliff, OPTIMIZERS[name], stop, chunk_steps=4)
    healthy, broken, falling = batch(STARTS, jnp.float32(3.0), targets)
    single = make_run_fn(cliff, OPTIMIZERS[name], stop, chunk_steps=4)
    alone = single(STARTS[0], jnp.float32(3.0), jax.tree.map(lambda x: x[0], targets))
    assert_same_run(healthy, alone)
    assert (broken.status, broken.num_steps) == (Status.NON_FINITE, 0)
    assert_array_equal(broken.image, STARTS[1])
    assert np.all(np.isfinite(falling.image))
    assert np.all(np.isfinite(falling.step_losses))
    assert falling.num_steps > 0
    assert falling.losses["total"] < falling.step_losses[0]


def test_the_callback_stops_one_pair_and_sees_each_until_its_end():
    seen = {0: [], 1: [], 2: []}

    def callback(pair, progress):
        seen[pair].append((progress.num_steps, progress.status))
        expected = objective(jnp.asarray(progress.image()), 0.0, TARGETS[pair])[1]["fit"]
        assert progress.losses["fit"] == pytest.approx(float(expected), rel=1e-5)
        return pair == 1 and progress.num_steps >= 4

    batch = make_batch_run_fn(objective, make_adam(0.05), StopRule(9), chunk_steps=4)
    results = batch(STARTS, jnp.float32(0.0), TARGETS, callback=callback)
    assert [r.status for r in results] == [Status.COMPLETED, Status.STOPPED, Status.COMPLETED]
    assert [r.num_steps for r in results] == [9, 4, 9]
    assert [len(r.step_losses) for r in results] == [10, 5, 10]
    assert [step for step, _ in seen[0]] == [0, 4, 8, 9]
    assert [step for step, _ in seen[1]] == [0, 4]
    assert [status for _, status in seen[2]] == [Status.RUNNING] * 3 + [Status.COMPLETED]
