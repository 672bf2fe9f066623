"""Recognize and open clips: films, animations and folders of frames."""

import functools
import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.animation_reading import count_frames, read_animation, survey_animation
from neuart_jax.io.clips.film_reading import read_film, survey_film
from neuart_jax.io.clips.frame_files import read_files, survey_files
from neuart_jax.io.clips.frames import Clip, Part, choose_frames
from neuart_jax.io.decoding import FILM_START, readable_extensions
from neuart_jax.io.files import PathLike, brief_cause
from neuart_jax.io.image_lists import list_named_images
from neuart_jax.io.paths import check_place

_ANIMATION_START = r"GIF8|\x89PNG|RIFF....WEBP|....ftypavi[fs]"
_FRAMES_A_SECOND = 25


def is_clip(path: PathLike) -> bool:
    """Return whether a file is a film or an animation of several frames.

    False for folders, which may hold frames or unrelated images, and for unreadable files, which
    are reported when they are read.
    """
    try:
        start = _read_start(Path(path))
        if re.match(FILM_START, start, re.DOTALL | re.IGNORECASE):
            return True
        return bool(re.match(_ANIMATION_START, start, re.DOTALL)) and count_frames(Path(path)) > 1
    except (OSError, ValueError):
        return False


def holds_frames(folder: Path) -> bool:
    """Return whether the names of a folder's images are equal except for their last numbers.

    The images' sizes are only checked by `open_clip`.
    """
    extensions = readable_extensions()
    try:
        found = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return False
    names = [name for name in found if Path(name).suffix.lower() in extensions]
    kinds = {re.sub(r"[0-9]+(?=[^0-9]*$)", "#", name) for name in names}
    return len(names) > 1 and len(kinds) == 1 and "#" in kinds.pop()


def open_clip(
    source: PathLike | Sequence[PathLike],
    *,
    start: float | Fraction = 0,
    end: float | Fraction | None = None,
    every: int = 1,
    frame_rate: float | str | Fraction | None = None,
) -> Clip:
    """Open a clip and read it once, so that errors in it are found in advance.

    Films (MP4, MOV, MKV, WebM and other FFmpeg formats) need the extra `video`. Animations (GIF,
    WebP, PNG, AVIF) and folders of images, ordered by the numbers in their names, don't.

    Args:
      source: path of a film, an animation or a folder of images, or paths of images in order.
      start: start of the clip, in seconds after the first frame.
      end: end of the clip, in seconds after the first frame; None for the end of the file.
      every: stride; 2 selects every second frame, each shown for twice as long.
      frame_rate: frames per second of images, which have no times, such as 24 or "30000/1001";
        None for 25.

    Raises:
      InputError: the source can't be read, is damaged or truncated, has no video stream or fewer
        than 2 frames, is HDR, or changes its size.
    """
    part = Part(start, end, every)
    if not isinstance(source, str | Path) and isinstance(source, Sequence):
        files = [Path(file) for file in source]
        return _open_files(files, f"{len(files)} images", frame_rate, part)
    place = check_place(str(source), name="clip")
    if place.is_dir():
        listed = [Path(file) for file in list_named_images(str(source), name="clip")]
        return _open_files(listed, str(source), frame_rate, part)
    try:
        first_bytes = _read_start(place)
    except OSError as error:
        raise InputError(
            f"{source} can't be read ({brief_cause(error)})",
            expected="a film, an animation, or a folder of frames",
            remedy="check the name and its permissions",
        ) from error
    if re.match(_ANIMATION_START, first_bytes, re.DOTALL):
        survey, read = survey_animation(place), functools.partial(read_animation, place)
    else:
        survey, read = survey_film(place), functools.partial(read_film, place)
    return choose_frames(survey, read, name=str(source), files=[place], part=part)


def _open_files(
    files: list[Path], name: str, frame_rate: float | str | Fraction | None, part: Part
) -> Clip:
    try:
        rate = Fraction(str(_FRAMES_A_SECOND if frame_rate is None else frame_rate))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise InputError(
            f"frame_rate={frame_rate} came for {name}",
            expected="frames per second above 0, such as 25 or 30000/1001",
            remedy=f"leave it out for {_FRAMES_A_SECOND}",
        )
    if not files:
        raise InputError(
            f"{name} came as a clip", expected="at least 2 images", remedy="name its frames"
        )
    survey = survey_files(files, frame_rate=rate)
    read = functools.partial(read_files, files)
    return choose_frames(survey, read, name=name, files=files, part=part)


def _read_start(path: Path) -> str:
    if not path.is_file():
        raise OSError("it is no file")
    with open(path, "rb") as file:
        return file.read(1024).decode("latin-1")
