"""Clips, independent of their file format: frames with the times at which they are shown.

Times are exact fractions of a second, as in the file, so that a film made from a clip keeps its
times at any frame rate, constant or variable.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.errors import InputError, counted
from neuart_jax.io.decoding import Float32

logger = logging.getLogger(__name__)


class Still(NamedTuple):
    """One image of a clip.

    Attributes:
      image: float32[height, width, 3], sRGB in [0, 1], upright, composited over white.
      alpha: opacity, float32[height, width] in [0, 1]; None if every pixel is opaque.
    """

    image: Float32
    alpha: Float32 | None = None


class Frame(NamedTuple):
    """An image with its time and duration.

    Attributes:
      image: as in `Still`.
      alpha: as in `Still`.
      time: seconds since the first frame of the clip.
      duration: seconds until the next frame, or until the end of the clip.
    """

    image: Float32
    alpha: Float32 | None
    time: Fraction
    duration: Fraction


class Sound(NamedTuple):
    """The location of a clip's sound.

    Attributes:
      path: path of the file.
      start: time of the clip's first frame, in seconds on the file's clock.
      end: time of the clip's end, on the same clock; None if the clip ends with its file.
      is_whole_start: whether the clip begins with its file, so that earlier sound, an encoder's
        priming, belongs to it.
    """

    path: Path
    start: Fraction
    end: Fraction | None
    is_whole_start: bool


class Part(NamedTuple):
    """A selection of a file's frames.

    Attributes:
      start: start of the selection, in seconds after the first frame.
      end: end of the selection, in seconds after the first frame; None for the end of the file.
      every: stride; 2 selects every second frame, each shown for twice as long.
    """

    start: float | Fraction = 0
    end: float | Fraction | None = None
    every: int = 1


class Survey(NamedTuple):
    """Properties of a file, found by reading it once in advance.

    Attributes:
      height: height of all frames, upright, in pixels.
      width: width of all frames, upright, in pixels.
      times: times of all frames, in seconds on the file's clock, ascending.
      end: end of the last frame, on the same clock.
      time_base: unit of time, in seconds, of which all times are multiples.
      has_sound: whether the file has sound that can be copied.
    """

    height: int
    width: int
    times: tuple[Fraction, ...]
    end: Fraction
    time_base: Fraction
    has_sound: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Selected frames of one or several files, read lazily, one at a time.

    Attributes:
      name: name of the clip in messages.
      height: height of all frames, in pixels.
      width: width of all frames, in pixels.
      times: times of all selected frames, in seconds since the first of them.
      end: end of the last frame, in seconds since the first.
      time_base: unit of time, in seconds, of which all times are multiples.
      sound: location of the clip's sound; None without sound.
      files: files that the clip is read from.
    """

    name: str
    height: int
    width: int
    times: tuple[Fraction, ...]
    end: Fraction
    time_base: Fraction
    sound: Sound | None
    files: tuple[Path, ...]
    _chosen: tuple[int, ...]
    _read: Callable[[Sequence[int]], Iterator[Still]]

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.times)

    @property
    def frame_rate(self) -> Fraction:
        """Mean number of frames per second."""
        return self.num_frames / self.end

    def stills(self, numbers: Sequence[int]) -> Iterator[Still]:
        """Read some frames.

        Args:
          numbers: numbers of the frames, ascending.
        """
        return self._read([self._chosen[number] for number in numbers])

    def frames(self, *, first: int = 0) -> Iterator[Frame]:
        """Read the frames in order, with one of them in memory at a time.

        Args:
          first: number of the first frame to read.

        Raises:
          InputError: the file has changed since it was surveyed, or can't be read any more.
        """
        number = first
        ends = (*self.times[1:], self.end)
        for still in self._read(self._chosen[first:]):
            time = self.times[number]
            if still.image.shape[:2] != (self.height, self.width):
                break
            yield Frame(still.image, still.alpha, time, ends[number] - time)
            number += 1
        if number < self.num_frames:
            raise InputError(
                f"{self.name} has changed since it was opened: frame {number + 1} of "
                f"{self.num_frames} isn't what it was",
                expected="the same file until the end",
                remedy="leave it where it is, and start again",
            )


def choose_frames(
    survey: Survey,
    read: Callable[[Sequence[int]], Iterator[Still]],
    *,
    name: str,
    files: Sequence[Path],
    part: Part = Part(),
) -> Clip:
    """Make a clip of a part of a surveyed file.

    Args:
      survey: survey of the whole file.
      read: reads the frames with some ascending numbers, each as often as its number is given.
      name: name of the clip in messages.
      files: files that the clip is read from; the first has the sound.
      part: frames to select.

    Raises:
      InputError: the part lies outside the file, or has fewer than 2 frames.
    """
    seconds = float(survey.end - survey.times[0])
    _check_part(name, seconds, part)
    # A number such as 0.1 stands for the exact decimal, not for the nearest double.
    begin = survey.times[0] + _exact(part.start)
    stop = survey.end if part.end is None else min(survey.end, survey.times[0] + _exact(part.end))
    chosen = tuple(i for i, time in enumerate(survey.times) if begin <= time < stop)[:: part.every]
    if len(chosen) < 2:
        has_part = len(chosen) < len(survey.times)
        raise InputError(
            f"{name} has {counted(len(chosen), 'frame')}"
            + (f" in the chosen part, of {len(survey.times)} in all" if has_part else ""),
            expected="a clip of at least 2 frames",
            remedy="change --start, --end or --every"
            if has_part
            else "give it as an image, saved as PNG",
        )
    first = survey.times[chosen[0]]
    sound = None
    if survey.has_sound:
        sound = Sound(files[0], first, None if stop == survey.end else stop, chosen[0] == 0)
    return Clip(
        name=name,
        height=survey.height,
        width=survey.width,
        times=tuple(survey.times[i] - first for i in chosen),
        end=stop - first,
        time_base=_common_base(survey.time_base, stop - first),
        sound=sound,
        files=tuple(files),
        _chosen=chosen,
        _read=read,
    )


def make_times(durations: Sequence[Fraction]) -> tuple[tuple[Fraction, ...], Fraction]:
    """Convert the durations of consecutive frames to their start times and the end of the last."""
    *times, end = itertools.accumulate(durations, initial=Fraction(0))
    return tuple(times), end


def find_time_base(times: Sequence[Fraction]) -> Fraction:
    """Return a unit of time, in seconds, of which all times are multiples."""
    denominator = math.lcm(*(time.denominator for time in times))
    return Fraction(1, denominator)


def _common_base(base: Fraction, end: Fraction) -> Fraction:
    """Return a time base of which a part's end is a multiple, too, unless it were too fine."""
    both = Fraction(
        math.gcd(base.numerator * end.denominator, end.numerator * base.denominator),
        base.denominator * end.denominator,
    )
    return both if both.denominator <= _FINEST_CLOCK else base


# Ticks per second. With more, an hour doesn't fit into the 32 bits of some files' times.
_FINEST_CLOCK = 1_000_000


def _exact(seconds: float | Fraction) -> Fraction:
    return seconds if isinstance(seconds, Fraction) else Fraction(str(seconds))


def _check_part(name: str, seconds: float, part: Part) -> None:
    start, end, every = part
    if every < 1:
        raise InputError(
            f"every={every} came for {name}",
            expected="1 for all frames, 2 for every second one, and so on",
            remedy="leave it out to take all",
        )
    last = math.inf if end is None else end
    if not (0 <= start < last and (end is None or math.isfinite(end)) and start < seconds):
        to = "" if end is None else f" to {float(end):g}"
        raise InputError(
            f"the part from {float(start):g}{to} seconds can't be taken from {name}",
            expected=f"a start before the end, within its {seconds:.3f} seconds",
            remedy="change --start or --end",
        )
