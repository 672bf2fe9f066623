"""A line search that can be put down after every trial and taken up again.

It is a state of a few numbers: whoever evaluates the objective tells it what a trial gave, and
learns whether that trial is the next step or which step length to try instead. Many searches run
side by side like this, one batched evaluation after another, and none waits for the others.
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

SUFFICIENT_DECREASE = 1e-4
"""c_1 of Nocedal & Wright 2006, equation (3.7a), with the value they name on page 62."""
CURVATURE = 0.9
"""c_2 of equation (3.7b), with the value they name for quasi-Newton directions."""
MAX_TRIALS = 20
"""Trials per search; the same as Optax' and SciPy's L-BFGS."""


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
    """A search under way.

    Attributes:
      start: where it began, with the step 0.
      low: the lowest point so far that decreases the objective sufficiently; `start` at first.
      high: the other end of the interval that holds a minimum; its step is infinite until there
        is one, while steps still grow.
      step: the next trial, float[].
      num_trials: trials made, int32[].
      found_finite: whether any of them was finite, bool[].
      gave_up: whether the next trial is accepted, whatever it gives, bool[].
    """

    start: Point
    low: Point
    high: Point
    step: Array
    num_trials: Array
    found_finite: Array
    gave_up: Array


class Verdict(NamedTuple):
    """What became of a trial.

    Attributes:
      accepted: it is the next step, bool[].
      failed: the search ends with nothing, since no trial was finite, bool[].
      stuck: the search ends with nothing, since no trial was lower than the start, bool[].
      search: how to go on if it is none of these.
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
    """Accept the trial at `search.step`, or name the next one.

    A trial is accepted if it fulfils the strong Wolfe conditions, Nocedal & Wright 2006, equation
    (3.7). After `MAX_TRIALS` the lowest point with a sufficient decrease is tried again and
    accepted; without one the search is stuck.

    Source: Nocedal & Wright 2006, Algorithms 3.5 and 3.6.
    Differs from source: both are one rule here, with an interval that has no end at first.
    A trial that fulfils the conditions is accepted even if the one before it was lower. Where
    values differ by rounding only, slopes decide (Hager & Zhang 2005, equation (4.1)).

    Args:
      search: before the trial.
      value: objective there, float[].
      slope: its derivative along the direction, float[].
      finite: whether both are, and every element of the gradient, bool[].
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

    # A minimum lies between the two ends: low falls towards high, which is higher or rises.
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
    """Minimize the cubic through two points with their slopes; not finite if it has no minimum.

    Source: Nocedal & Wright 2006, equation (3.59).
    """
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    d2 = jnp.sign(b.step - a.step) * jnp.sqrt(d1**2 - a.slope * b.slope)
    fraction = (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
    return b.step - (b.step - a.step) * fraction


def _interpolate(low: Point, high: Point) -> Array:
    # A tenth of the interval is kept from either end, so that it shrinks at every trial.
    left, right = jnp.minimum(low.step, high.step), jnp.maximum(low.step, high.step)
    step, margin = _minimum_of_cubic(low, high), 0.1 * (right - left)
    inside = jnp.clip(step, left + margin, right - margin)
    return jnp.where(jnp.isfinite(step), inside, (left + right) / 2)


def _extrapolate(last: Point, trial: Point) -> Array:
    # Steps grow by a factor of 2 at least, so that a minimum is reached, and of 10 at most.
    step = _minimum_of_cubic(last, trial)
    least, most = 2 * trial.step, 10 * trial.step
    ahead = jnp.isfinite(step) & (step > trial.step)
    return jnp.where(ahead, jnp.clip(step, least, most), least)
