"""Pace of progress films: the steps to show and their durations.

An image changes most in its first steps. With evenly spaced steps, these rush by, and most of the
film hardly moves.
"""

from collections.abc import Sequence
from fractions import Fraction

_HUNDREDTH = Fraction(1, 100)
"""A hundredth of a second, the unit of time in GIF files."""

_SHORTEST, _LONGEST = 4 * _HUNDREDTH, 25 * _HUNDREDTH
"""Bounds on the durations, in seconds, of all frames but the last: 25 and 4 frames per second."""

HOLD = Fraction(2)
"""Duration of the last frame, in seconds."""


def choose_steps(num_steps: int, *, most: int) -> tuple[int, ...]:
    """Choose the steps to show: every one of the first steps, then ever fewer.

    The k-th of K frames shows step N (k / K)^2, so that the interval between steps grows linearly.

    Args:
      num_steps: N, number of steps of the whole run.
      most: largest number of steps to choose, at least 2.

    Returns:
      Ascending steps, including the start, 0, and the last step; fewer than `most` if the run has
      fewer.
    """
    if num_steps < 1 or most < 2:
        raise ValueError(f"{most} of {num_steps} steps were asked for, expected at least 2 of 1")
    if num_steps < most:
        return tuple(range(num_steps + 1))
    chosen = [round(num_steps * (k / (most - 1)) ** 2) for k in range(most)]
    # Strictly ascending: rounding makes several of the first steps equal.
    for k in range(1, most):
        chosen[k] = max(chosen[k], chosen[k - 1] + 1)
    return tuple(chosen)


def most_frames(seconds: Fraction | float) -> int:
    """Return the largest number of frames of a film, including the last one, which is held.

    Args:
      seconds: duration of the whole film, in seconds.
    """
    return max(2, int((Fraction(str(seconds)) - HOLD) / _SHORTEST) + 1)


def find_durations(num_frames: int, *, seconds: Fraction | float) -> list[Fraction]:
    """Return the duration of every frame.

    Args:
      num_frames: number of frames, at least 1.
      seconds: largest duration of the whole film, in seconds; films of few frames are shorter.

    Returns:
      Durations in seconds, in whole hundredths; `HOLD` for the last frame.
    """
    if num_frames < 2:
        return [HOLD] * num_frames
    each = (Fraction(str(seconds)) - HOLD) / (num_frames - 1)
    each = min(_LONGEST, max(_SHORTEST, each // _HUNDREDTH * _HUNDREDTH))
    return [each] * (num_frames - 1) + [HOLD]


def round_times(durations: Sequence[Fraction], tick: Fraction) -> list[int]:
    """Round durations to ticks of a clock without accumulating errors.

    Args:
      durations: durations in seconds.
      tick: length of a tick, in seconds.

    Returns:
      Number of ticks of every duration, at least 1.
    """
    ticks, end, told = [], Fraction(0), 0
    for duration in durations:
        end += duration
        ticks.append(max(1, round(end / tick) - told))
        told += ticks[-1]
    return ticks
