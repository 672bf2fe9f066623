"""A resumable line search, which handles one trial per call.

Its state is a few numbers: the caller evaluates the objective at a trial, passes in the result, and
learns whether the trial is accepted or which step length to try next. So many searches can run side
by side in batched evaluations without waiting for each other.
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

SUFFICIENT_DECREASE = 1e-4
"""c_1 of Nocedal & Wright 2006, equation (3.7a), with the value given on page 62."""
CURVATURE = 0.9
"""c_2 of equation (3.7b), with the value given for quasi-Newton directions."""
MAX_TRIALS = 20
"""Largest number of trials per search, as in Optax's and SciPy's L-BFGS."""


class Point(NamedTuple):
    """The objective along the line, phi(step) = f(image + step * direction).

    Attributes:
      step: float[].
      value: phi(step), float[].
      slope: phi'(step), float[].
    """

    step: Array
    value: Array
    slope: Array


class Search(NamedTuple):
    """State of a search.

    Attributes:
      start: the starting point, with step 0.
      low: the lowest point so far with a sufficient decrease; `start` at first.
      high: the other end of the interval that contains a minimum; its step is infinite while steps
        are still growing and no interval is known.
      step: step of the next trial, float[].
      num_trials: number of trials made, int32[].
      found_finite: whether any trial was finite, bool[].
      gave_up: whether the next trial is accepted unconditionally, bool[].
    """

    start: Point
    low: Point
    high: Point
    step: Array
    num_trials: Array
    found_finite: Array
    gave_up: Array


class Verdict(NamedTuple):
    """The outcome of a trial.

    Attributes:
      accepted: whether the trial is accepted, bool[].
      failed: whether the search ended because no trial was finite, bool[].
      stuck: whether the search ended because no trial was lower than the start, bool[].
      search: state to continue with otherwise.
    """

    accepted: Array
    failed: Array
    stuck: Array
    search: Search


def start_search(*, value: Array, slope: Array) -> Search:
    """Begin a search with the full step.

    Args:
      value: objective at the image, float[].
      slope: its derivative along the direction, float[]; negative.
    """
    zero = jnp.zeros_like(value)
    start = Point(zero, value, slope)
    infinite = jnp.full_like(value, jnp.inf)
    return Search(
        start=start,
        low=start,
        high=Point(infinite, infinite, zero),
        step=jnp.ones_like(value),
        num_trials=jnp.int32(0),
        found_finite=jnp.bool_(False),
        gave_up=jnp.bool_(False),
    )


def judge_trial(search: Search, *, value: Array, slope: Array, finite: Array) -> Verdict:
    """Accept the trial at `search.step`, or choose the next one.

    A trial is accepted if it satisfies the strong Wolfe conditions, Nocedal & Wright 2006, equation
    (3.7). After `MAX_TRIALS`, the lowest point with a sufficient decrease is tried again and
    accepted; if there is none, the search is stuck.

    Source: Nocedal & Wright 2006, Algorithms 3.5 and 3.6.
    Differs from source: both algorithms are one rule here, with an interval that is unbounded at
    first. A trial that satisfies the conditions is accepted even if the one before was lower. If
    values differ only by rounding, slopes decide (Hager & Zhang 2005, equation (4.1)).

    Args:
      search: state before the trial.
      value: objective at the trial, float[].
      slope: derivative along the direction at the trial, float[].
      finite: whether value, slope and all elements of the gradient are finite, bool[].
    """
    start, low, high = search.start, search.low, search.high
    trial = Point(search.step, jnp.where(finite, value, jnp.inf), jnp.where(finite, slope, 0))

    wanted = start.value + SUFFICIENT_DECREASE * trial.step * start.slope
    # Eight units of rounding: 1e-6 in float32, the constant of Hager & Zhang and of Optax.
    same = trial.value <= start.value + 8 * jnp.finfo(value.dtype).eps * jnp.abs(start.value)
    falls = same & (trial.slope <= (2 * SUFFICIENT_DECREASE - 1) * start.slope)
    decreases = finite & ((trial.value <= wanted) | falls)
    is_flat = jnp.abs(trial.slope) <= -CURVATURE * start.slope

    num_trials = search.num_trials + 1
    found_finite = search.found_finite | finite
    exhausted = num_trials >= MAX_TRIALS
    accepted = finite & (search.gave_up | (decreases & is_flat))

    # A minimum lies between the two ends: low decreases towards high, which is higher or increases.
    lower = decreases & (trial.value < low.value)
    turns = jnp.where(high.step > low.step, trial.slope >= 0, trial.slope <= 0)
    new_low = optax.tree.where(lower, trial, low)
    is_over = exhausted & ~search.gave_up & ~accepted
    failed = jnp.where(search.gave_up, ~finite, is_over & ~found_finite)
    stuck = is_over & found_finite & (new_low.step == 0)
    new_high = optax.tree.where(lower, optax.tree.where(turns, low, high), trial)
    step = jnp.where(
        jnp.isfinite(new_high.step), _interpolate(new_low, new_high), _extrapolate(low, trial)
    )
    return Verdict(
        accepted=accepted,
        failed=failed,
        stuck=stuck,
        search=Search(
            start=start,
            low=new_low,
            high=new_high,
            step=jnp.where(exhausted, new_low.step, step),
            num_trials=num_trials,
            found_finite=found_finite,
            gave_up=exhausted,
        ),
    )


def _minimum_of_cubic(a: Point, b: Point) -> Array:
    """Return the minimum of the cubic through two points and their slopes; non-finite if none.

    Source: Nocedal & Wright 2006, equation (3.59).
    """
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    d2 = jnp.sign(b.step - a.step) * jnp.sqrt(d1**2 - a.slope * b.slope)
    fraction = (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
    return b.step - (b.step - a.step) * fraction


def _interpolate(low: Point, high: Point) -> Array:
    # At least a tenth of the interval from either end, so that it shrinks at every trial.
    left, right = jnp.minimum(low.step, high.step), jnp.maximum(low.step, high.step)
    step, margin = _minimum_of_cubic(low, high), 0.1 * (right - left)
    inside = jnp.clip(step, left + margin, right - margin)
    return jnp.where(jnp.isfinite(step), inside, (left + right) / 2)


def _extrapolate(last: Point, trial: Point) -> Array:
    # Steps grow by at least a factor of 2, so that a minimum is reached, and at most of 10.
    step = _minimum_of_cubic(last, trial)
    least, most = 2 * trial.step, 10 * trial.step
    ahead = jnp.isfinite(step) & (step > trial.step)
    return jnp.where(ahead, jnp.clip(step, least, most), least)
