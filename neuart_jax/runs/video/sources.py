"""The frames of a clip on their way to being painted: read, scaled and followed ahead of time."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from neuart_jax.io.clips.frames import Clip, Still
from neuart_jax.io.decoding import Float32
from neuart_jax.runs.video.motion import Motion
from neuart_jax.runs.video.prepare import PreparedClip

_T = TypeVar("_T")

# Frames that are read at once where they are wanted from the last to the first.
_CHUNK = 24


class Other(NamedTuple):
    """A frame that another one is compared with; fields as in `Source`."""

    image: Float32
    paint: Float32 | None


class Source(NamedTuple):
    """A frame that is to be painted.

    Attributes:
      number: of the frame, from 0 on.
      image: as it is painted, float32[height, width, 3], sRGB in [0, 1].
      alpha: float32[height, width], or None.
      paint: the frame's own paint mask, float32[height', width', 3]; None where masks don't move.
      others: the frames that it is compared with, by their numbers.
      motions: the same numbers to what is known from there, which threads are finding.
    """

    number: int
    image: Float32
    alpha: Float32 | None
    paint: Float32 | None
    others: Mapping[int, Other]
    motions: Mapping[int, "Future[Motion]"]


def follow(
    prepared: PreparedClip,
    *,
    first: int,
    backward: bool = False,
    distances: Sequence[int],
    readers: ThreadPoolExecutor,
    finders: ThreadPoolExecutor,
) -> Iterator[Source]:
    """Yield frames in their order, or against it, with the motion from those that came before.

    One frame is read, and its motion found, while the one before it is being painted.

    Args:
      prepared: the clip.
      first: number of the frame to begin with.
      backward: whether they go from later to earlier ones.
      distances: how many frames away those are that each is compared with.
      readers: of one thread.
      finders: that find motion.
    """
    step, farthest = (-1, max(distances)) if backward else (1, max(distances))
    count = prepared.clip.num_frames
    before = min(count - 1, first + farthest) if backward else max(0, first - farthest)
    read = _read_backward if backward else _read
    masks: Iterator[Still | None] = itertools.repeat(None)
    if prepared.paint is not None:
        masks = read(prepared.paint, before)

    def sources() -> Iterator[Source]:
        recent: deque[tuple[int, Other]] = deque(maxlen=farthest + 1)
        number = before
        for still, mask in zip(read(prepared.clip, before), masks, strict=False):
            paint = None if mask is None else mask.image
            image = prepared.scale(still.image)
            alpha = None if still.alpha is None else prepared.scale(still.alpha)
            wanted = {number - step * distance for distance in distances}
            others = {other: seen for other, seen in recent if other in wanted}
            recent.append((number, Other(image, paint)))
            if (number - first) * step >= 0:
                motions = {
                    other: finders.submit(prepared.motion.find, number, other, image, seen.image)
                    for other, seen in others.items()
                }
                yield Source(number, image, alpha, paint, others, motions)
            number += step

    return _look_ahead(sources(), readers)


def _read(clip: Clip, first: int) -> Iterator[Still]:
    for frame in clip.frames(first=first):
        yield Still(frame.image, frame.alpha)


def _read_backward(clip: Clip, first: int) -> Iterator[Still]:
    for end in range(first + 1, 0, -_CHUNK):
        yield from reversed(list(clip.stills(range(max(0, end - _CHUNK), end))))


def _look_ahead(items: Iterator[_T], readers: ThreadPoolExecutor) -> Iterator[_T]:
    """Yield items while the next one is being made."""
    following = readers.submit(next, items, None)
    while (item := following.result()) is not None:
        following = readers.submit(next, items, None)
        yield item
