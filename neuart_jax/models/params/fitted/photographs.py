"""Sets of photographs to measure a network on: those at hand without a download, or a folder's."""

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
"""Pixels, at most, of every photograph in a set."""

BUNDLED = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""Color photographs of everyday things that lie in scikit-image's wheel.

Its other images are gray, drawn, microscopic or astronomical, or have to be downloaded.
"""

BUNDLED_SET = "bundled"
"""What a set of photographs may be called, besides by the name of a folder."""

EXTENSIONS = tuple(f".{kind}" for kind in "avif bmp gif jp2 jpeg jpg png ppm tif tiff webp".split())
"""What `folder_photographs` takes for an image: the usual names of what `decoding` reads."""


def bundled_photographs() -> Iterator[Float32]:
    """Read the photographs that scikit-image brings along; never asks the network.

    Yields:
      float32[height, width, 3], sRGB in [0, 1], at most `LONGEST_SIDE` pixels, in a fixed order.

    Raises:
      InputError: an installation without them.
    """
    for name in BUNDLED:
        with importlib.resources.as_file(
            importlib.resources.files("skimage") / "data" / name
        ) as path:
            yield load_image(path, size=LONGEST_SIDE).image


def folder_photographs(folder: PathLike) -> Iterator[Float32]:
    """Read the images that lie in a folder, one at a time, in the order of their names.

    Files without an extension of an image are passed over, and so are folders within it.

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
            f"{folder} has no pictures",
            expected="a folder with photographs, named " + ", ".join(EXTENSIONS),
            remedy="check the name",
        )
    for path in paths:
        yield load_image(path, size=LONGEST_SIDE).image


def find_photographs(name: str) -> Iterator[Float32]:
    """Read the set that a setting names: `BUNDLED_SET`, or a folder.

    Raises:
      InputError: see `bundled_photographs` and `folder_photographs`.
    """
    if name == BUNDLED_SET:
        return bundled_photographs()
    return folder_photographs(check_place(name, name="--normalize_weights"))


def image_set_identity(images: Iterable[npt.NDArray[Any]]) -> str:
    """Return a short name for the pixels of a set of images, whatever their order.

    Returns:
      16 hexadecimal digits of a SHA-256.
    """
    digests = []
    for image in images:
        pixels = np.ascontiguousarray(image, "<f4")
        digests.append(hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]
