"""Sets of photographs to normalize a network over: bundled with scikit-image, or in a folder."""

import hashlib
import importlib.resources
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import PathLike, brief_cause
from neuart_jax.io.images import load_image
from neuart_jax.io.paths import check_place

Float32 = npt.NDArray[np.float32]

LONGEST_SIDE = 512
"""Longest side, in pixels, to which the photographs of a set are reduced."""

BUNDLED = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""Color photographs of everyday things in scikit-image's wheel.

Its other images are gray, drawn, microscopic or astronomical, or must be downloaded.
"""

BUNDLED_SET = "bundled"
"""Name of the set of photographs bundled with scikit-image; other sets are folders."""

EXTENSIONS = tuple(f".{kind}" for kind in "avif bmp gif jp2 jpeg jpg png ppm tif tiff webp".split())
"""Extensions of the files that `folder_photographs` reads: the usual ones of `decoding`."""


def bundled_photographs() -> Iterator[Float32]:
    """Yield the photographs bundled with scikit-image, without any network access.

    Yields:
      float32[height, width, 3], sRGB in [0, 1], at most `LONGEST_SIDE` pixels, in a fixed order.

    Raises:
      InputError: the installation lacks the photographs.
    """
    for name in BUNDLED:
        with importlib.resources.as_file(
            importlib.resources.files("skimage") / "data" / name
        ) as path:
            yield load_image(path, size=LONGEST_SIDE).image


def folder_photographs(folder: PathLike) -> Iterator[Float32]:
    """Yield the images in a folder, one at a time, sorted by name.

    Subfolders and files without an image's extension are skipped.

    Yields:
      float32[height, width, 3], sRGB in [0, 1], at most `LONGEST_SIDE` pixels.

    Raises:
      InputError: the folder can't be read or has no image, or one of them is damaged.
    """
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} can't be read ({brief_cause(error)})",
            expected="a folder with photographs",
            remedy="check the name and its permissions",
        ) from error
    paths = [Path(folder) / name for name in names if name.lower().endswith(EXTENSIONS)]
    paths = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    if not paths:
        raise InputError(
            f"{folder} has no images",
            expected="a folder with photographs, named " + ", ".join(EXTENSIONS),
            remedy="check the name",
        )
    for path in paths:
        yield load_image(path, size=LONGEST_SIDE).image


def find_photographs(name: str) -> Iterator[Float32]:
    """Yield the images of the set named by a setting: `BUNDLED_SET`, or a folder.

    Raises:
      InputError: see `bundled_photographs` and `folder_photographs`.
    """
    if name == BUNDLED_SET:
        return bundled_photographs()
    return folder_photographs(check_place(name, name="--normalize_weights"))


def image_set_identity(images: Iterable[npt.NDArray[Any]]) -> str:
    """Return a short hash of the pixels of a set of images, independent of their order.

    Returns:
      16 hexadecimal digits of a SHA-256.
    """
    digests = []
    for image in images:
        pixels = np.ascontiguousarray(image, "<f4")
        digests.append(hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]
