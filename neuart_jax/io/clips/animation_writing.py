"""Write sequences of images as an animated GIF, WebP or PNG, or as a film."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.film_writing import FILM_EXTENSIONS, FilmPlan, check_film, writing_film
from neuart_jax.io.clips.frames import find_time_base
from neuart_jax.io.clips.pace import plan_fade, round_times
from neuart_jax.io.decoding import quantize
from neuart_jax.io.files import PathLike, brief_cause, write_atomically
from neuart_jax.io.images import metadata_options, resize_image

# Pillow's names of the formats, and its options for them. All animations loop endlessly.
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    ".gif": ("GIF", {"loop": 0, "optimize": False}),
    ".webp": ("WEBP", {"loop": 0, "quality": 90, "method": 4}),
    ".apng": ("PNG", {"loop": 0, "default_image": False}),
    ".png": ("PNG", {"loop": 0, "default_image": False}),
}
_COLORS_OF_GIF = 256
_LARGEST_SIDES = {".webp": 16383, ".gif": 65535}

ANIMATION_EXTENSIONS = (*_KINDS, *FILM_EXTENSIONS)
"""File extensions of the animations and films that can be written."""


def check_animation(path: PathLike, *, height: int, width: int) -> None:
    """Check that an animation can be written.

    Args:
      path: path of the animation.
      height: height of its images, in pixels.
      width: width of its images, in pixels.

    Raises:
      InputError: the extension is unknown, there is no encoder, or the format can't hold images of
        this size.
    """
    extension = Path(path).suffix.lower()
    if extension not in ANIMATION_EXTENSIONS:
        raise InputError(
            f"{path} has the extension {extension!r}",
            expected=f"one of {', '.join(ANIMATION_EXTENSIONS)}",
            remedy="end the name in .webp if in doubt",
        )
    if extension in FILM_EXTENSIONS:
        check_film(path, _plan_film(height, width, [Fraction(1, 25)]))
    elif max(height, width) > (largest := _LARGEST_SIDES.get(extension, max(height, width))):
        raise InputError(
            f"{path} would have {width}x{height} pixels",
            expected=f"at most {largest} a side, which is all that such a file holds",
            remedy="take a smaller size",
        )


def save_animation(
    path: PathLike,
    pictures: Iterable[npt.ArrayLike],
    durations: Sequence[Fraction],
    *,
    size: int | None = None,
    fade: float = 0,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write images as an endlessly looping animation, or as a film.

    Films are written with one image in memory at a time. For animations, Pillow needs all images in
    memory, with 8 bits and scaled to `size`.

    Args:
      path: path of the file; see `ANIMATION_EXTENSIONS`.
      pictures: float32[height, width, 3], sRGB in [0, 1], of one aspect ratio; all are scaled to
        the size of the first.
      durations: duration of every image, in seconds.
      size: largest length of the longer side, in pixels.
      fade: longest time over which each image fades into the next, in seconds; 0 for cuts.
      metadata: strings to store in the file, as `images.save_image` does; in GIF files, they are
        JSON in a comment. Read back by `images.load_metadata`, or `film_reading.load_film_metadata`
        for films.

    Raises:
      InputError: the file can't be written.
      ValueError: there are no images, or their number isn't that of the durations.
    """
    scaled = _scale(pictures, size)
    first = next(scaled, None)
    if first is None:
        raise ValueError("there are no images")
    height, width, _ = first.shape
    check_animation(path, height=height, width=width)
    frames = _fade(itertools.chain([first], scaled), durations, fade)
    durations = [
        *(seconds for duration in durations[:-1] for _, seconds in plan_fade(duration, fade)),
        *durations[-1:],
    ]
    if Path(path).suffix.lower() in FILM_EXTENSIONS:
        plan = _plan_film(height, width, durations)
        _save_film(path, frames, plan._replace(metadata=metadata or {}))
    else:
        stills = [_to_pillow(path, image) for image, _ in frames]
        _save_with_pillow(path, stills, durations, metadata or {})


def _fade(
    images: Iterable[npt.NDArray[np.float32]], durations: Sequence[Fraction], fade: float
) -> Iterator[tuple[npt.NDArray[np.float32], Fraction]]:
    """Yield the pictures of images that fade into one another, with their durations.

    Images are mixed in sRGB, not in linear light: the eye sees about equal steps in sRGB, so that a
    fade goes on evenly. In linear light, an even mixture of black and white is 188 of 255, and a
    dark image would be gone long before its fade is over.
    """
    before: tuple[npt.NDArray[np.float32], Fraction] | None = None
    for image, duration in zip(images, durations, strict=True):
        if before is not None:
            earlier, time = before
            for share, seconds in plan_fade(time, fade):
                yield earlier + np.float32(share) * (image - earlier), seconds
        before = image, duration
    if before is not None:
        yield before


def _save_film(
    path: PathLike, frames: Iterable[tuple[npt.NDArray[np.float32], Fraction]], plan: FilmPlan
) -> None:
    time = Fraction(0)
    with writing_film(path, plan) as film:
        for image, duration in frames:
            film.add(image, time, duration)
            time += duration


def _save_with_pillow(
    path: PathLike,
    pictures: Sequence[Image.Image],
    durations: Sequence[Fraction],
    metadata: Mapping[str, str],
) -> None:
    extension = Path(path).suffix.lower()
    kind, options = _KINDS[extension]
    # GIF counts in hundredths of a second; Pillow writes the others in thousandths.
    tick = 10 if extension == ".gif" else 1
    times = [tick * n for n in round_times(durations, Fraction(tick, 1000))]
    with write_atomically(path) as file:
        try:
            pictures[0].save(
                file,
                kind,
                save_all=True,
                append_images=pictures[1:],
                duration=times,
                **options,
                **metadata_options(kind, metadata),
            )
        except ValueError as error:
            raise InputError(
                f"{path} can't be written ({brief_cause(error)})",
                expected="images that such a file holds",
                remedy="take a smaller size, or another kind of file",
            ) from error


def _to_pillow(path: PathLike, image: npt.NDArray[np.float32]) -> Image.Image:
    picture = Image.fromarray(quantize(image, np.uint8))
    if Path(path).suffix.lower() != ".gif":
        return picture
    # A palette for every image, and error diffusion, without which skies show bands.
    palette = picture.quantize(_COLORS_OF_GIF)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _scale(
    pictures: Iterable[npt.ArrayLike], size: int | None
) -> Iterator[npt.NDArray[np.float32]]:
    shape: tuple[int, int] | None = None
    for picture in pictures:
        image = np.asarray(picture, np.float32)
        if shape is None:
            height, width, _ = image.shape
            factor = min(1.0, (size or max(height, width)) / max(height, width))
            shape = max(1, round(height * factor)), max(1, round(width * factor))
        yield image if image.shape[:2] == shape else resize_image(image, *shape)


def _plan_film(height: int, width: int, durations: Sequence[Fraction]) -> FilmPlan:
    return FilmPlan(
        height, width, find_time_base(durations), Fraction(len(durations)) / sum(durations)
    )
