"""Searches along lines whose values and slopes are known in float64, against the book's text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuart_jax.optimizers.line_search import MAX_TRIALS, judge_trial, start_search

LINES = {
    # name: (value, slope) over the step length; every slope at 0 is negative.
    "step just right": (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
    "step too long": (lambda t: (1000 * t - 1) ** 2, lambda t: 2000 * (1000 * t - 1)),
    "step too short": (lambda t: (t / 5000 - 1) ** 2, lambda t: (t / 5000 - 1) / 2500),
    "wavy": (
        lambda t: -t + 0.02 * np.sin(40 * t) + t**2,
        lambda t: -1 + 0.8 * np.cos(40 * t) + 2 * t,
    ),
    # Moré & Thuente 1994, equations (5.1) and (5.2), whose minima are far from and near to 0.
    "more-thuente 1": (
        lambda t: -100 * t / ((100 * t) ** 2 + 2),
        lambda t: 100 * ((100 * t) ** 2 - 2) / ((100 * t) ** 2 + 2) ** 2,
    ),
    "more-thuente 2": (
        lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
        lambda t: 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3,
    ),
    "concave at first": (lambda t: np.cos(t / 30 + 0.1), lambda t: -np.sin(t / 30 + 0.1) / 30),
    "wall": (
        lambda t: -t if t < 1e-3 else np.nan,
        lambda t: -1.0 if t < 1e-3 else np.nan,
    ),
}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def search_along(value_fn, slope_fn, *, gradient_is_finite=lambda t: True):
    """Search by the state machine; return the steps tried and the last verdict."""
    search = start_search(value=jnp.float64(value_fn(0.0)), slope=jnp.float64(slope_fn(0.0)))
    judge, steps = jax.jit(judge_trial), []
    while True:
        step = float(search.step)
        value, slope = value_fn(step), slope_fn(step)
        steps.append(step)
        finite = bool(np.isfinite(value) and np.isfinite(slope)) and gradient_is_finite(step)
        verdict = judge(
            search, value=jnp.float64(value), slope=jnp.float64(slope), finite=jnp.bool_(finite)
        )
        if verdict.accepted or verdict.failed or verdict.stuck:
            return steps, verdict
        search = verdict.search


@pytest.mark.parametrize("name", [name for name in LINES if name != "wall"])
def test_the_accepted_step_fulfils_the_strong_wolfe_conditions(name):
    value, slope = LINES[name]
    steps, verdict = search_along(value, slope)
    assert verdict.accepted
    # Nocedal & Wright 2006, equation (3.7).
    assert value(steps[-1]) <= value(0.0) + 1e-4 * steps[-1] * slope(0.0)
    assert abs(slope(steps[-1])) <= 0.9 * abs(slope(0.0))
    assert len(steps) <= 10


def test_a_good_first_step_is_taken_at_once():
    steps, _ = search_along(*LINES["step just right"])
    assert steps == [1.0]


def test_behind_a_wall_without_numbers_the_step_shrinks():
    """No step on this side of it is flat enough, so the lowest is taken, evaluated once more."""
    steps, verdict = search_along(*LINES["wall"])
    assert verdict.accepted
    assert 0 < steps[-1] < 1e-3
    assert steps[-1] == max(step for step in steps if step < 1e-3)
    assert len(steps) == MAX_TRIALS + 1


def test_a_gradient_that_is_not_finite_shrinks_the_step_too():
    value, slope = LINES["step just right"]
    steps, verdict = search_along(value, slope, gradient_is_finite=lambda t: t < 0.2)
    assert verdict.accepted
    assert steps == [1.0, 0.5, 0.25, 0.125]


def test_without_any_finite_trial_the_search_fails():
    steps, verdict = search_along(lambda t: 0.0 if t == 0 else np.inf, lambda t: -1.0)
    assert verdict.failed
    assert not verdict.accepted
    assert len(steps) == MAX_TRIALS


def test_a_line_that_only_rises_is_no_step():
    # The slope is a lie, as one lost to rounding would be.
    steps, verdict = search_along(lambda t: 1 + t, lambda t: -1.0 if t == 0 else 1.0)
    assert verdict.stuck and not verdict.accepted and not verdict.failed
    assert min(steps) > 0 and len(steps) == MAX_TRIALS


def test_values_that_differ_by_rounding_are_judged_by_their_slopes():
    # Near a minimum of 1: the gain is smaller than what the value can show.
    steps, verdict = search_along(lambda t: 1.0 + 1e-16 * t, lambda t: 1e-16 * (t / 1.5 - 1))
    assert verdict.accepted
    assert steps == [1.0]
