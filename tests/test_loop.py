"""The compiled loop against a Python loop, and every way in which a run can end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loops import make_run_fn
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax.engine.loop import make_next_stop
from neuart_jax.engine.step import (
    Numbers,
    Status,
    StopRule,
    make_evaluate_fn,
    make_init_fn,
    make_tick_fn,
)
from neuart_jax.optimizers import make_adam, make_lbfgs, make_lbfgs_fixed

START = np.random.default_rng(0).random((3, 4, 3)).astype(np.float32)
TARGET = jnp.asarray(np.random.default_rng(1).random((3, 4, 3)), jnp.float32)
GOLDEN_LOSSES = [14.638147, 12.705704, 11.056448, 9.868598]
STEEPNESS = np.linspace(1, 5, START.size).reshape(START.shape)
OPTIMIZERS = {
    "adam": make_adam(0.05),
    "lbfgs": make_lbfgs(history=4),
    "lbfgs_preconditioned": make_lbfgs(history=4, precondition=True),
    "lbfgs_fixed": make_lbfgs_fixed(0.5, history=4),
}


def objective(image, params, targets):
    """Not quadratic, so that every step of L-BFGS counts."""
    fit = jnp.sum((image - targets) ** 2)
    bend = jnp.sum(jnp.sin(3 * image) ** 4)
    return fit + 0.5 * bend, {"total": fit + 0.5 * bend, "fit": fit, "bend": bend}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("chunk_steps", [1, 4, 7])
def test_chunks_equal_a_python_loop(name, chunk_steps):
    optimizer, stop = OPTIMIZERS[name], StopRule(7)
    run = make_run_fn(objective, optimizer, stop, chunk_steps=chunk_steps)
    result = run(START, None, TARGET)

    evaluate = make_evaluate_fn(objective)
    tick = jax.jit(make_tick_fn(evaluate, optimizer, batched=False))
    state = make_init_fn(evaluate, optimizer)(jnp.asarray(START), None, TARGET)
    numbers = Numbers(stop, optimizer.numbers)
    state = tick(state, None, TARGET, numbers)
    losses = [float(state.evaluation.loss)]
    while state.status == Status.RUNNING:
        made = int(state.num_steps)
        state = tick(state, None, TARGET, numbers)
        if state.num_steps > made:
            losses.append(float(state.evaluation.loss))
    assert_allclose(result.step_losses, losses, rtol=1e-5)
    assert_allclose(result.image, np.clip(state.best_image, 0, 1), atol=1e-5)
    assert result.num_evaluations == int(state.num_evaluations)


def test_golden_three_steps():
    """Three steps of Adam, computed once by this code after it agreed with the paper's formulas.

    Legitimate reasons to update the numbers: another default of Adam's, another objective here.
    """
    result = make_run_fn(objective, make_adam(0.05), StopRule(3))(START, None, TARGET)
    assert_allclose(result.step_losses, GOLDEN_LOSSES, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reported_terms_are_those_of_the_reported_image(name):
    seen = []
    run = make_run_fn(objective, OPTIMIZERS[name], StopRule(9), chunk_steps=4)
    run(START, None, TARGET, callback=lambda p: seen.append((p.losses, p.image())))
    for losses, image in seen:
        expected = objective(jnp.asarray(image), None, TARGET)[1]
        for term, value in losses.items():
            assert value == pytest.approx(float(expected[term]), rel=1e-5)


def test_chunks_end_at_multiples_of_the_boundary_and_at_the_end():
    seen = []
    run = make_run_fn(objective, make_adam(0.05), StopRule(11), chunk_steps=4)
    run(
        START,
        None,
        TARGET,
        next_stop=make_next_stop(every=3),
        callback=lambda p: seen.append(p.num_steps),
    )
    assert seen == [0, 3, 6, 9, 11]


def test_one_compilation_serves_all_pairs_of_a_shape():
    traces = []

    def counted(image, params, targets):
        traces.append(image.shape)
        return objective(image, params, targets)

    run = make_run_fn(counted, make_adam(0.05), StopRule(10), chunk_steps=4)
    run(START, None, TARGET)
    first = len(traces)
    run(START + 0.1, None, TARGET * 0.5, next_stop=make_next_stop(every=3))
    assert len(traces) == first
    run(START[:2], None, TARGET[:2])
    assert len(traces) == 2 * first


def test_the_start_is_not_consumed():
    start = jnp.asarray(START)
    make_run_fn(objective, make_adam(0.05), StopRule(3))(start, None, TARGET)
    assert_array_equal(start, START)  # A donated buffer would raise here.


def test_the_best_image_is_kept_when_later_ones_are_worse():
    run = make_run_fn(objective, make_adam(2.0), StopRule(12), chunk_steps=5)
    seen = []
    result = run(
        START,
        None,
        TARGET,
        next_stop=make_next_stop(every=1),
        callback=lambda p: seen.append((p.losses["total"], p.image())),
    )
    best_loss, best_image = min(seen, key=lambda pair: pair[0])
    assert best_loss < seen[-1][0]
    assert_array_equal(result.image, best_image)
    assert result.losses["total"] == pytest.approx(best_loss, rel=1e-6)


def test_result_is_clipped_and_its_losses_belong_to_what_is_returned():
    outside = jnp.full((3, 4, 3), 1.5)
    result = make_run_fn(objective, make_lbfgs(history=4), StopRule(20))(START, None, outside)
    assert result.image.max() == 1
    expected = objective(jnp.asarray(result.image), None, outside)[1]
    assert result.losses["total"] == pytest.approx(float(expected["total"]), rel=1e-6)


def test_a_plateau_ends_the_run_when_asked():
    stop = StopRule(500, patience=6, tolerance=1e-3)
    result = make_run_fn(objective, make_lbfgs(history=4), stop)(START, None, TARGET)
    assert result.status == Status.PLATEAU
    assert 6 < result.num_steps < 100
    losses = result.step_losses
    # No gain of the tolerance within the last six steps, against the best before them.
    assert losses[-1] >= losses[-7] * (1 - 1e-3)


def test_no_plateau_without_being_asked():
    optimizer = make_adam(0.05)
    result = make_run_fn(objective, optimizer, StopRule(60))(START, None, TARGET)
    assert (result.status, result.num_steps) == (Status.COMPLETED, 60)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1e9, 1e12, 1e15])
@pytest.mark.parametrize("name", ["lbfgs", "lbfgs_preconditioned"])
def test_lbfgs_moves_at_any_scale_of_the_loss(name, scale):
    def scaled(image, params, targets):
        loss = scale * objective(image, params, targets)[0]
        return loss, {"total": loss}

    result = make_run_fn(scaled, OPTIMIZERS[name], StopRule(12))(START, None, TARGET)
    plain = make_run_fn(objective, OPTIMIZERS[name], StopRule(12))(START, None, TARGET)
    # The first step's length aside, which is at most 1.
    assert result.step_losses[-1] / scale == pytest.approx(plain.step_losses[-1], rel=0.05)


@pytest.mark.parametrize("name", ["lbfgs", "lbfgs_preconditioned"])
def test_a_search_that_finds_nothing_is_no_step(name):
    """A loss whose gradient points the wrong way from some value on, as one lost to rounding."""

    def deceiving(image, params, targets):
        loss, _ = objective(image, params, targets)
        turned = jax.lax.stop_gradient(jnp.where(loss < 8.9, -1.0, 1.0))
        loss = turned * loss + jax.lax.stop_gradient((1 - turned) * loss)
        return loss, {"total": loss}

    result = make_run_fn(deceiving, OPTIMIZERS[name], StopRule(60))(START, None, TARGET)
    assert result.status == Status.STUCK
    assert 0 < result.num_steps < 60
    assert np.all(np.diff(result.step_losses) < 0)  # None that didn't move.
    assert result.losses["total"] < result.step_losses[0]


@pytest.mark.parametrize("broken", ["loss", "gradient"])
@pytest.mark.parametrize("name", ["adam", "lbfgs", "lbfgs_fixed"])
def test_a_non_finite_objective_ends_the_run_with_the_last_good_image(name, broken):
    """Falls towards an edge behind which there is no number."""

    def cliff(image, params, targets):
        level = jnp.mean(image)
        if broken == "loss":
            loss = jnp.where(level > 0.3, level, jnp.nan)
        else:
            # Finite itself, but its slope has no bound.
            loss = level - 0.3 + jnp.sqrt(jnp.maximum(level - 0.3, 0))
        return loss, {"total": loss}

    optimizer = make_lbfgs_fixed(1.0, history=4) if name == "lbfgs_fixed" else OPTIMIZERS[name]
    result = make_run_fn(cliff, optimizer, StopRule(60))(np.full((2, 2, 3), 0.6), None, None)
    assert result.status in (Status.NON_FINITE, Status.COMPLETED)
    if name == "adam":
        assert result.status == Status.NON_FINITE
        assert result.num_steps < 60
    assert np.all(np.isfinite(result.image))
    assert np.isfinite(result.losses["total"])
    assert result.image.mean() < 0.6


def test_a_line_search_turns_back_where_there_are_no_numbers():
    """The minimum lies before the edge, the first trial behind it."""
    tried = []

    def cliff(image, params, targets):
        level = jnp.mean(image)
        jax.debug.callback(lambda level: tried.append(float(level)), level)
        loss = jnp.where(level > 0.4, jnp.sum((image - 0.405) ** 2), jnp.nan)
        return loss, {"total": loss}

    run = make_run_fn(cliff, OPTIMIZERS["lbfgs"], StopRule(5))
    result = run(np.full((3, 4, 3), 0.5, np.float32), None, None)
    jax.effects_barrier()
    assert min(tried) < 0.4
    assert (result.status, result.num_steps) == (Status.COMPLETED, 5)
    assert len(tried) == result.num_evaluations + 1
    assert_allclose(result.image, 0.405, atol=1e-5)


def test_a_non_finite_start_is_returned_as_it_came():
    def broken(image, params, targets):
        loss = jnp.sum(image) * jnp.nan
        return loss, {"total": loss}

    result = make_run_fn(broken, make_adam(0.1), StopRule(5))(START, None, None)
    assert (result.status, result.num_steps) == (Status.NON_FINITE, 0)
    assert_array_equal(result.image, START)


def test_the_callback_can_stop_the_run():
    run = make_run_fn(objective, make_adam(0.05), StopRule(50), chunk_steps=5)
    result = run(START, None, TARGET, callback=lambda p: p.num_steps >= 10)
    assert (result.status, result.num_steps) == (Status.STOPPED, 10)
    assert len(result.step_losses) == 11


def test_the_same_run_twice_gives_the_same_bits():
    run = make_run_fn(objective, make_lbfgs(history=4), StopRule(9), chunk_steps=4)
    once, again = (run(START, None, TARGET) for _ in range(2))
    assert_array_equal(once.image, again.image)
    # The host's chunks don't change what is computed either.
    assert_array_equal(
        run(START, None, TARGET, next_stop=make_next_stop(every=2)).image, once.image
    )


@pytest.mark.parametrize("status", Status)
def test_every_status_says_what_happened(status):
    assert status.message.endswith(".")


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_the_average_is_that_of_the_images_after_every_step(name):
    """Weighted by 0.8 to the power of their age, and divided by the sum of the weights."""
    images, num_steps = [], 6
    run = make_run_fn(objective, OPTIMIZERS[name], StopRule(num_steps), chunk_steps=1, decay=0.8)
    result = run(START, None, TARGET, callback=lambda p: images.append(np.array(p.image())))
    weights = 0.8 ** np.arange(num_steps)[::-1]
    expected = np.tensordot(weights / weights.sum(), np.stack(images[1:]), axes=1)
    assert_allclose(result.image, np.clip(expected, 0, 1), atol=1e-5)
    # The losses are those of the picture that is returned.
    assert result.losses["total"] == pytest.approx(
        float(objective(jnp.asarray(result.image), None, TARGET)[0]), rel=1e-5
    )
    plain = make_run_fn(objective, OPTIMIZERS[name], StopRule(num_steps))(START, None, TARGET)
    assert_allclose(result.step_losses, plain.step_losses, rtol=1e-6)
    assert np.max(np.abs(plain.image - result.image)) > 1e-3


def test_a_run_that_makes_no_step_has_its_start_as_average():
    stop_at_once = make_run_fn(objective, OPTIMIZERS["adam"], StopRule(3), decay=0.9)
    result = stop_at_once(START, None, TARGET, callback=lambda progress: True)
    assert_allclose(result.image, START, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_carried_at_the_same_size_goes_on_where_it_was(name):
    """Two runs of four steps are one of eight, but for the evaluation at the second's start."""

    def bowl(image, params, targets):
        loss = jnp.sum(STEEPNESS * (image - targets) ** 2) + jnp.sum((image - targets) ** 4)
        return loss, {"total": loss}

    # Small steps, so that the last image is the best.
    optimizer = make_adam(0.01) if name == "adam" else OPTIMIZERS[name]
    start, target = 0.4 + 0.2 * START, 0.4 + 0.2 * TARGET  # Nothing leaves [0, 1].
    halves = make_run_fn(bowl, optimizer, StopRule(4))
    first = halves(start, None, target, keep_state=True)
    second = halves(first.image, None, target, carried=first.opt_state)
    whole = make_run_fn(bowl, optimizer, StopRule(8))(start, None, target)
    assert_allclose(second.step_losses[1:], whole.step_losses[5:], rtol=0.01)
    fresh = halves(first.image, None, target)
    assert np.max(np.abs(fresh.step_losses / second.step_losses - 1)) > 0.02
    assert first.opt_state is not None
    assert second.opt_state is None
