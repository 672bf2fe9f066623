"""Which pictures go together: from files and folders, or from a table."""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from neuart_jax.errors import InputError
from neuart_jax.files import brief_cause
from neuart_jax.sections import ImagesConfig
from neuart_jax.settings import nearest

Pairing = Literal["zip", "cross"]

# What a folder's other files (notes, hidden ones) don't end in; a file named outright may be of
# any kind that can be read.
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")


class Pair(NamedTuple):
    """Two pictures.

    Attributes:
      name: made of both, different from all other pairs', fit for a folder.
      content: the file that gives the content.
      style: the file that gives the style.
    """

    name: str
    content: str
    style: str


def find_pairs(images: ImagesConfig, *, table: str = "", pairing: str = "zip") -> list[Pair]:
    """Return the pairs that a command line names: those of a table if there is one.

    Args:
      images: `content` and `style` are files or folders; see `make_pairs`.
      table: see `read_pairs`.
      pairing: "zip" or "cross".

    Raises:
      InputError: both or none are given, or what is given can't be used.
    """
    if not table:
        return make_pairs(images.content, images.style, pairing=pairing)
    if images.content or images.style:
        raise InputError(
            "--pairs is given, and --content or --style as well",
            expected="one way of naming the pairs",
            remedy="leave one out",
        )
    return read_pairs(table)


def make_pairs(contents: str, styles: Sequence[str], *, pairing: str) -> list[Pair]:
    """Pair pictures with each other.

    Args:
      contents: a picture, or a folder of pictures.
      styles: pictures, or folders of pictures.
      pairing: "zip" takes the first with the first, the second with the second; "cross" takes
        every content with every style. Folders are read in the order of their files' names.

    Raises:
      InputError: a name is missing, a folder has no picture, or the numbers don't fit.
    """
    if pairing not in get_args(Pairing):
        raise InputError(
            f"--pairing={pairing} is not known",
            expected="zip or cross",
            remedy=f"did you mean {nearest(pairing, get_args(Pairing))}",
        )
    for name, value in (("content", contents), ("style", styles)):
        if not value:
            raise InputError(
                f"--{name} is missing",
                expected="pictures or folders of pictures, --content=PATH --style=PATH",
                remedy=f"add --{name}=PATH, or give a table with --pairs=FILE.csv",
            )
    content_files = _files_of(contents)
    style_files = [file for path in styles for file in _files_of(path)]
    if pairing == "cross":
        return _name((content, style) for content in content_files for style in style_files)
    if len(content_files) != len(style_files):
        raise InputError(
            f"--content has {len(content_files)} pictures and --style has {len(style_files)}",
            expected="as many of both for --pairing=zip",
            remedy="use --pairing=cross for all combinations, or --pairs=FILE.csv",
        )
    return _name(zip(content_files, style_files, strict=True))


def read_pairs(path: str) -> list[Pair]:
    """Read pairs from a CSV file with the columns content and style.

    Names are meant from the table's folder on.

    Raises:
      InputError: the file can't be read, a column is missing, or a row lacks a name.
    """
    expected = "a CSV file with the columns content and style"
    source = Path(path).expanduser()
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"--pairs={path} can't be read ({brief_cause(error)})",
            expected=expected,
            remedy="check the name and what is in it",
        ) from error
    files = []
    for number, row in enumerate(rows, 1):
        names = [(row.get(column) or "").strip() for column in ("content", "style")]
        if not all(names):
            raise InputError(
                f"row {number} of --pairs={path} lacks a content or a style",
                expected=expected,
                remedy="complete the row, or the head of the table",
            )
        content, style = (str(source.parent / Path(name).expanduser()) for name in names)
        files.append((content, style))
    if not files:
        raise InputError(f"--pairs={path} has no row", expected=expected, remedy="add some")
    return _name(files)


def folder_name(text: str) -> str:
    """Turn any text into a name that every file system takes, of at most 80 letters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[:80] or "unnamed"


def _files_of(path: str) -> list[str]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [str(folder)]
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({brief_cause(error)})",
            expected="a folder with pictures",
            remedy="check the permissions",
        ) from error
    files = [n for n in names if n.lower().endswith(_EXTENSIONS) and not n.startswith(".")]
    if not files:
        raise InputError(
            f"{path} holds no picture",
            expected=f"files that end in {', '.join(_EXTENSIONS)}",
            remedy="give another folder",
        )
    return [str(folder / name) for name in files]


def _name(files: Iterable[tuple[str, str]]) -> list[Pair]:
    pairs: list[Pair] = []
    taken: set[str] = set()
    for content, style in files:
        stem = folder_name(f"{Path(content).stem[:40]}__{Path(style).stem[:40]}")
        name, number = stem, 1
        # Where case doesn't count, two folders would be one.
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        pairs.append(Pair(name, content, style))
    return pairs
