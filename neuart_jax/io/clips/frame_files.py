"""Clips that are folders of pictures, one file a frame."""

import logging
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy.typing as npt

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.frames import Still, Survey
from neuart_jax.io.images import load_image, save_image

logger = logging.getLogger(__name__)


def survey_files(files: Sequence[Path], *, frame_rate: Fraction) -> Survey:
    """Read pictures once to learn whether all are sound and of one size.

    Args:
      files: in their order.
      frame_rate: pictures a second.

    Raises:
      InputError: one can't be read, or has another size than the first.
    """
    height, width, _ = load_image(files[0]).image.shape
    for file in files[1:]:
        shape = load_image(file).image.shape
        if shape[:2] != (height, width):
            raise InputError(
                f"{file} has {shape[1]}x{shape[0]} pixels, and {files[0]} has {width}x{height}",
                expected="pictures of one size",
                remedy="scale them to one size, or take those of other sizes out",
            )
    _tell_gaps(files)
    times = tuple(number / frame_rate for number in range(len(files)))
    return Survey(height, width, times, len(files) / frame_rate, 1 / frame_rate)


def read_files(files: Sequence[Path], numbers: Sequence[int]) -> Iterator[Still]:
    """Yield the pictures of some numbers."""
    for number in numbers:
        picture = load_image(files[number])
        yield Still(picture.image, picture.alpha)


class FrameFolder:
    """Numbered PNG files, to which frames are added in their order, each whole or not at all.

    Args:
      folder: that exists.
      first: number of the frame that is added first, from 0 on.
    """

    def __init__(self, folder: Path, *, first: int = 0) -> None:
        self._folder, self._number = folder, first

    def add(self, image: npt.ArrayLike, alpha: npt.ArrayLike | None = None) -> Path:
        """Write the next frame and return its file.

        Args:
          image: float32[height, width, 3], sRGB in [0, 1].
          alpha: float32[height, width] in [0, 1], stored beside the colors.

        Raises:
          InputError: it can't be written.
        """
        self._number += 1
        path = self._folder / f"frame_{self._number:06d}.png"
        save_image(path, image, alpha=alpha)
        return path


def _tell_gaps(files: Sequence[Path]) -> None:
    """Warn of numbers that are missing between those of files named alike."""
    found = [re.fullmatch(r"(.*?)(\d+)(\D*)", file.name) for file in files]
    if not all(found) or len({(match[1], match[3]) for match in found if match}) > 1:
        return
    numbers = [int(match[2]) for match in found if match]
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if missing > 0:
        first = next(a for a, b in zip(numbers, numbers[1:], strict=False) if b > a + 1) + 1
        logger.warning(
            "%s: %d of the numbers from %d to %d are missing, the first of them %d.",
            files[0].parent,
            missing,
            numbers[0],
            numbers[-1],
            first,
        )
