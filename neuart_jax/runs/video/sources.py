"""The source frames of a clip, read and scaled ahead of time, with their motion."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from neuart_jax.io.clips.frames import Clip, Still
from neuart_jax.io.decoding import Float32
from neuart_jax.io.images import show_over_black
from neuart_jax.runs.video.motion import Motion
from neuart_jax.runs.video.prepare import PreparedClip

_T = TypeVar("_T")

# Number of frames that are read at once if frames are read in reverse order.
_CHUNK = 24


class Other(NamedTuple):
    """A frame that another frame is compared with; fields as in `Source`."""

    image: Float32
    paint: Float32 | None


class Source(NamedTuple):
    """A frame to paint.

    Attributes:
      number: number of the frame, from 0.
      image: frame at the size of painting, float32[height, width, 3], sRGB in [0, 1].
      alpha: opacity, float32[height, width]; None for an opaque frame.
      paint: paint mask of the frame, float32[height', width', 3]; None if they don't move.
      memberships: soft masks of the clip's regions, float32[height, width, regions]; None if
        content masks don't move.
      others: frames that this frame is compared with, by number.
      motions: motion to each of these frames, by number, computed by threads.
    """

    number: int
    image: Float32
    alpha: Float32 | None
    paint: Float32 | None
    memberships: Float32 | None
    others: Mapping[int, Other]
    motions: Mapping[int, "Future[Motion]"]


def follow(
    prepared: PreparedClip,
    *,
    frames: range,
    first: int,
    backward: bool = False,
    distances: Sequence[int],
    readers: ThreadPoolExecutor,
    finders: ThreadPoolExecutor,
) -> Iterator[Source]:
    """Yield some frames in order or in reverse order, with their motion to preceding frames.

    While a frame is being painted, the next one is read and its motion found.

    Args:
      prepared: prepared clip.
      frames: numbers of consecutive frames; no others are read.
      first: number of the first frame to yield; all others in its direction follow.
      backward: whether to yield frames in reverse order.
      distances: distances to the frames that each frame is compared with, in frames.
      readers: executor with one thread, which reads frames.
      finders: executor that finds motion.
    """
    step, farthest = (-1, max(distances)) if backward else (1, max(distances))
    before = min(frames[-1], first + farthest) if backward else max(frames[0], first - farthest)
    read = _read_backward if backward else _read

    def read_along(masks: Clip | None) -> Iterator[Still | None]:
        return itertools.repeat(None) if masks is None else read(masks, before)

    def sources() -> Iterator[Source]:
        recent: deque[tuple[int, Other]] = deque(maxlen=farthest + 1)
        number = before
        stills = read(prepared.clip, before)
        paints, masks = read_along(prepared.paint), read_along(prepared.mask)
        for still, white, mask in zip(stills, paints, masks, strict=False):
            if number not in frames:
                return
            paint = None if white is None else show_over_black(*white)
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
                memberships = None if mask is None else prepared.read_mask(mask, number)
                yield Source(number, image, alpha, paint, memberships, others, motions)
            number += step

    return _look_ahead(sources(), readers)


def _read(clip: Clip, first: int) -> Iterator[Still]:
    for frame in clip.frames(first=first):
        yield Still(frame.image, frame.alpha)


def _read_backward(clip: Clip, first: int) -> Iterator[Still]:
    for end in range(first + 1, 0, -_CHUNK):
        yield from reversed(list(clip.stills(range(max(0, end - _CHUNK), end))))


def _look_ahead(items: Iterator[_T], readers: ThreadPoolExecutor) -> Iterator[_T]:
    """Yield items, computing the next one in the meantime."""
    following = readers.submit(next, items, None)
    while (item := following.result()) is not None:
        following = readers.submit(next, items, None)
        yield item
