"""Clips as folders of images, with one file per frame."""

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
    """Read images once to check that all are readable and of one size.

    Args:
      files: files of the images, in order.
      frame_rate: number of images per second.

    Raises:
      InputError: an image can't be read, or its size isn't that of the first.
    """
    height, width, _ = load_image(files[0]).image.shape
    for file in files[1:]:
        shape = load_image(file).image.shape
        if shape[:2] != (height, width):
            raise InputError(
                f"{file} has {shape[1]}x{shape[0]} pixels, and {files[0]} has {width}x{height}",
                expected="images of one size",
                remedy="scale them to one size, or take those of other sizes out",
            )
    _tell_gaps(files)
    times = tuple(number / frame_rate for number in range(len(files)))
    return Survey(height, width, times, len(files) / frame_rate, 1 / frame_rate)


def read_files(files: Sequence[Path], numbers: Sequence[int]) -> Iterator[Still]:
    """Yield the images with some numbers."""
    for number in numbers:
        picture = load_image(files[number])
        yield Still(picture.image, picture.alpha)


class FrameFolder:
    """A folder of numbered PNG files, to which frames are added in order, each atomically.

    Args:
      folder: path of an existing folder.
      first: number of the frame that is added first, from 0.
    """

    def __init__(self, folder: Path, *, first: int = 0) -> None:
        self._folder, self._number = folder, first

    def add(self, image: npt.ArrayLike, alpha: npt.ArrayLike | None = None) -> Path:
        """Write the next frame and return its path.

        Args:
          image: float32[height, width, 3], sRGB in [0, 1].
          alpha: opacity, float32[height, width] in [0, 1], stored with the colors.

        Raises:
          InputError: the frame can't be written.
        """
        self._number += 1
        path = self._folder / f"frame_{self._number:06d}.png"
        save_image(path, image, alpha=alpha)
        return path


def _tell_gaps(files: Sequence[Path]) -> None:
    """Warn of gaps in the numbers of files whose names are otherwise equal."""
    found = [re.fullmatch(r"(.*?)(\d+)(\D*)", file.name) for file in files]
    if not all(found) or len({(match[1], match[3]) for match in found if match}) > 1:
        return
    numbers = [int(match[2]) for match in found if match]
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if missing > 0:
        first = next(a for a, b in zip(numbers, numbers[1:], strict=False) if b > a + 1) + 1
        logger.warning(
            "%s: %d frame numbers between %d and %d are missing, beginning with %d.",
            files[0].parent,
            missing,
            numbers[0],
            numbers[-1],
            first,
        )
