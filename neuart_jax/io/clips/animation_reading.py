"""Read the frames of animated GIF, WebP, PNG and AVIF files with Pillow."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from PIL import ImageFile

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.frames import Still, Survey, find_time_base, make_times
from neuart_jax.io.decoding import decode_frame, open_lazily, reading
from neuart_jax.io.files import brief_cause
from neuart_jax.io.paths import read_whole

_MOST_BYTES = 4 << 30
# Browsers show frames of up to 10 ms for 100 ms.
_TOO_SHORT, _INSTEAD = 10, 100
# Durations in PNG are fractions of two 16-bit integers, which Pillow converts to a float.
_MOST_PARTS = 65535


def survey_animation(path: Path) -> Survey:
    """Decode an animation once to find the times of its frames, and to check that all are readable.

    Raises:
      InputError: the file is damaged or truncated.
    """
    durations = []
    data = _read(path)
    with reading(path, data), open_lazily(data) as image:
        width, height = image.size
        for number in _numbers(image):
            image.seek(number)
            image.load()
            durations.append(_duration(image))
    times, end = make_times(durations)
    return Survey(height, width, times, end, find_time_base((*times, end)))


def read_animation(path: Path, numbers: Sequence[int]) -> Iterator[Still]:
    """Yield some frames of an animation.

    Args:
      path: path of an animation that was surveyed.
      numbers: numbers of the frames, ascending.
    """
    data = _read(path)
    with reading(path, data), open_lazily(data) as image:
        shown = _numbers(image)
        for number in numbers:
            if number >= len(shown):
                return
            image.seek(shown[number])
            color, alpha = decode_frame(image, name=path)
            if alpha is not None:
                color = color * alpha[..., None] + (1 - alpha[..., None])
            yield Still(color, alpha)


def count_frames(path: Path) -> int:
    """Return the number of frames of an animation; 1 for a still image.

    Raises:
      InputError: the file is damaged.
    """
    data = _read(path)
    with reading(path, data), open_lazily(data) as image:
        return len(_numbers(image))


def _read(path: Path) -> bytes:
    try:
        return read_whole(path, most=_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} can't be read ({brief_cause(error)})",
            expected="an animation",
            remedy="check the name and its permissions",
        ) from error


def _numbers(image: ImageFile.ImageFile) -> range:
    # The default image, for programs without support for animations, isn't a frame.
    first = 1 if getattr(image, "default_image", False) else 0
    return range(first, getattr(image, "n_frames", 1))


def _duration(image: ImageFile.ImageFile) -> Fraction:
    milliseconds = image.info.get("duration", 0)
    if milliseconds <= _TOO_SHORT:
        milliseconds = _INSTEAD
    return Fraction(milliseconds).limit_denominator(_MOST_PARTS) / 1000
