"""What a clip is, whatever file it comes from: frames, each with the time at which it is shown.

Times are fractions of a second, exact as the file has them, so that a film made of a clip keeps
them whatever its frame rate, or if it has none that is constant.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.errors import InputError
from neuart_jax.io.decoding import Float32

logger = logging.getLogger(__name__)


class Still(NamedTuple):
    """One picture of a clip.

    Attributes:
      image: float32[height, width, 3], sRGB in [0, 1], upright, over white where it is transparent.
      alpha: float32[height, width] in [0, 1], or None when every pixel is opaque.
    """

    image: Float32
    alpha: Float32 | None = None


class Frame(NamedTuple):
    """A picture and when it is shown.

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
    """Where a clip's sound is.

    Attributes:
      path: the file.
      start: seconds on the file's own clock at which the clip's first frame is shown.
      end: the same of the clip's end; None where the clip ends with its file.
      is_whole_start: whether the clip begins with its file, so that what of the sound comes before
        belongs to it: an encoder's run-up.
    """

    path: Path
    start: Fraction
    end: Fraction | None
    is_whole_start: bool


class Part(NamedTuple):
    """Which frames of a file are wanted.

    Attributes:
      start: seconds after the first frame from which on they are.
      end: seconds after the first frame up to which they are; None is the end of the file.
      every: 2 takes every second frame, and shows each for twice as long.
    """

    start: float | Fraction = 0
    end: float | Fraction | None = None
    every: int = 1


class Survey(NamedTuple):
    """What was found by going through a file once, before anything is done with it.

    Attributes:
      height: of all frames, upright, in pixels.
      width: the same.
      times: of all frames, on the file's own clock, in seconds, ascending.
      end: when the last frame ends, on that clock.
      time_base: seconds of which all times are multiples.
      has_sound: whether there is any that can be copied.
    """

    height: int
    width: int
    times: tuple[Fraction, ...]
    end: Fraction
    time_base: Fraction
    has_sound: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames of a file, or of several, that are read one by one whenever they are asked for.

    Attributes:
      name: what messages call it.
      height: of all frames, in pixels.
      width: the same.
      times: of all chosen frames, in seconds since the first of them.
      end: when the last one ends, in seconds since the first.
      time_base: seconds of which all times are multiples.
      sound: where its sound is, if it has any.
      files: those that it is read from.
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
        """Return how many frames there are."""
        return len(self.times)

    @property
    def frame_rate(self) -> Fraction:
        """Return frames per second, on average."""
        return self.num_frames / self.end

    def stills(self, numbers: Sequence[int]) -> Iterator[Still]:
        """Read some frames.

        Args:
          numbers: of the frames, ascending.
        """
        return self._read([self._chosen[number] for number in numbers])

    def frames(self, *, first: int = 0) -> Iterator[Frame]:
        """Read the frames in their order, with no more than one of them in memory.

        Args:
          first: number of the frame to begin with.

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
    """Make a clip of a part of what was surveyed.

    Args:
      survey: of the whole.
      read: yields the frames of some numbers, which are ascending, each as often as it is named.
      name: what messages call it.
      files: those that it is read from; the sound is in the first.
      part: of the frames that make the clip.

    Raises:
      InputError: that is no part of it, or has a single frame.
    """
    seconds = float(survey.end - survey.times[0])
    _check_part(name, seconds, part)
    # A number such as 0.1 means that decimal, and not the double that lies next to it.
    begin = survey.times[0] + _exact(part.start)
    stop = survey.end if part.end is None else min(survey.end, survey.times[0] + _exact(part.end))
    chosen = tuple(i for i, time in enumerate(survey.times) if begin <= time < stop)[:: part.every]
    if len(chosen) < 2:
        has_part = len(chosen) < len(survey.times)
        raise InputError(
            f"{name} has {len(chosen) or 'no'} frame{'' if len(chosen) == 1 else 's'}"
            + (f" in the part that was chosen, of {len(survey.times)}" if has_part else ""),
            expected="a clip of at least 2 frames",
            remedy="change the start, the end or the step"
            if has_part
            else "give it as a picture, saved as PNG",
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
    """Return when frames begin that are shown one after the other, and when the last one ends."""
    *times, end = itertools.accumulate(durations, initial=Fraction(0))
    return tuple(times), end


def find_time_base(times: Sequence[Fraction]) -> Fraction:
    """Return the longest time of which all times are multiples, in seconds."""
    denominator = math.lcm(*(time.denominator for time in times))
    return Fraction(1, denominator)


def _common_base(base: Fraction, end: Fraction) -> Fraction:
    """Return a time base that has the end of a part, too, unless it were finer than a clock's."""
    both = Fraction(
        math.gcd(base.numerator * end.denominator, end.numerator * base.denominator),
        base.denominator * end.denominator,
    )
    return both if both.denominator <= _FINEST_CLOCK else base


# Ticks a second. More don't fit beside an hour into the 32 bits that some files have.
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
            f"the part from {float(start):g}{to} seconds came of {name}",
            expected=f"a start before the end, within its {seconds:.3f} seconds",
            remedy="change the start or the end",
        )
