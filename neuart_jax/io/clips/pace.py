"""How a run's steps become a film of its progress: which are shown, and for how long.

A picture changes most in its first steps. Shown evenly, they rush by, and most of the film stands
still.
"""

from collections.abc import Sequence
from fractions import Fraction

_HUNDREDTH = Fraction(1, 100)
"""Of a second: the tick of a GIF's clock."""

_SHORTEST, _LONGEST = 4 * _HUNDREDTH, 25 * _HUNDREDTH
"""For which a frame is shown that isn't the last: 25 a second, and 4."""

HOLD = Fraction(2)
"""Seconds for which the last frame is shown."""


def choose_steps(num_steps: int, *, most: int) -> tuple[int, ...]:
    """Choose the steps to show: all of the first ones, then ever fewer.

    The k-th of K is step N (k / K)^2, so that the time between two of them grows evenly.

    Args:
      num_steps: N, of the whole run.
      most: how many to choose at most, at least 2.

    Returns:
      Ascending steps, the start 0 and the last among them; fewer than `most` where the first would
      come several times.
    """
    if num_steps < 1 or most < 2:
        raise ValueError(f"{most} of {num_steps} steps were asked for, expected at least 2 of 1")
    if num_steps < most:
        return tuple(range(num_steps + 1))
    chosen = [round(num_steps * (k / (most - 1)) ** 2) for k in range(most)]
    # Each later than the one before, as far as there is room for all that follow.
    for k in range(1, most):
        chosen[k] = max(chosen[k], chosen[k - 1] + 1)
    return tuple(chosen)


def most_frames(seconds: Fraction | float) -> int:
    """Return how many frames a film of some length has at most, the one that is held included.

    Args:
      seconds: of the whole film.
    """
    return max(2, int((Fraction(str(seconds)) - HOLD) / _SHORTEST) + 1)


def find_durations(num_frames: int, *, seconds: Fraction | float) -> list[Fraction]:
    """Find how long each frame is shown.

    Args:
      num_frames: at least 1.
      seconds: of the whole film, at the most; one of few frames is shorter.

    Returns:
      Seconds for each frame, in whole hundredths; `HOLD` for the last.
    """
    if num_frames < 2:
        return [HOLD] * num_frames
    each = (Fraction(str(seconds)) - HOLD) / (num_frames - 1)
    each = min(_LONGEST, max(_SHORTEST, each // _HUNDREDTH * _HUNDREDTH))
    return [each] * (num_frames - 1) + [HOLD]


def round_times(durations: Sequence[Fraction], tick: Fraction) -> list[int]:
    """Round durations to ticks of a clock so that errors don't add up.

    Args:
      durations: in seconds.
      tick: in seconds.

    Returns:
      Ticks of each, at least 1.
    """
    ticks, end, told = [], Fraction(0), 0
    for duration in durations:
        end += duration
        ticks.append(max(1, round(end / tick) - told))
        told += ticks[-1]
    return ticks
