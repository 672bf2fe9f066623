"""Pace of progress films: the steps to show, their durations, and fades between them.

An image changes most in its first steps. With evenly spaced steps, these rush by, and most of the
film hardly moves.
"""

from collections.abc import Sequence
from fractions import Fraction

_HUNDREDTH = Fraction(1, 100)
"""A hundredth of a second, the unit of time in GIF files."""

_SHORTEST, _LONGEST = 4 * _HUNDREDTH, 25 * _HUNDREDTH
"""Bounds on the durations of steps, in seconds: 25 and 4 steps per second."""

HOLD = Fraction(2)
"""Duration of the result, the last image, in seconds."""

_OPENING, _OPENING_SHARE = Fraction(1), 4
"""Longest duration of the photograph, the first image, in seconds; in short films, it is this part
of the time without the result."""


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


def find_opening(seconds: Fraction | float) -> Fraction:
    """Return the duration of the photograph, with which a film begins.

    Args:
      seconds: duration of the whole film, in seconds.
    """
    return min(_OPENING, _whole((Fraction(str(seconds)) - HOLD) / _OPENING_SHARE))


def most_frames(seconds: Fraction | float) -> int:
    """Return the largest number of steps that a film shows, with the start, 0.

    Args:
      seconds: duration of the whole film, in seconds.
    """
    return max(2, int((Fraction(str(seconds)) - find_opening(seconds) - HOLD) / _SHORTEST))


def find_durations(num_steps: int, *, seconds: Fraction | float) -> list[Fraction]:
    """Return the durations of the images of a film: the photograph, the steps, and the result.

    Args:
      num_steps: number of the steps, with the start.
      seconds: largest duration of the whole film, in seconds; films of few steps are shorter.

    Returns:
      Durations in seconds, in whole hundredths, of `num_steps` + 2 images; `HOLD` for the last.
    """
    opening = find_opening(seconds)
    each = (Fraction(str(seconds)) - opening - HOLD) / max(num_steps, 1)
    return [opening, *[min(_LONGEST, max(_SHORTEST, _whole(each)))] * num_steps, HOLD]


def _whole(seconds: Fraction) -> Fraction:
    return seconds // _HUNDREDTH * _HUNDREDTH


def plan_fade(duration: Fraction, fade: Fraction | float) -> list[tuple[float, Fraction]]:
    """Split the time of an image into that before, and the pictures of, a fade into the next image.

    Pictures follow one another no faster than 25 per second, so that images that are shown for
    less than two of them are followed by a cut.

    Args:
      duration: duration of the image, in seconds.
      fade: longest duration of the fade, at the end of that time, in seconds; 0 for a cut.

    Returns:
      The share of the next image in each picture, and the duration of the picture in seconds. The
      first share is 0; the sum of the durations is that of the image.
    """
    length = min(duration, Fraction(str(fade)))
    count = int(length / _SHORTEST)
    if count < 2:
        return [(0.0, duration)]
    each = length / count
    return [(0.0, duration - length + each), *((k / count, each) for k in range(1, count))]


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
