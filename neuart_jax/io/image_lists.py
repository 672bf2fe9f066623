"""Expansion of folders, patterns and comma-separated names to lists of image files.

No image is opened here.
"""

import glob
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from neuart_jax.config.errors import InputError
from neuart_jax.io.decoding import HEIC_EXTENSIONS, readable_extensions
from neuart_jax.io.files import brief_cause
from neuart_jax.io.paths import check_place

logger = logging.getLogger(__name__)

_MOST_TOLD = 5


def list_named_images(text: str, *, name: str, beside: Path = Path()) -> list[str]:
    """Return the image files that a text names, sorted by name.

    An existing file stands for itself, even if its name contains a comma or a bracket. A folder
    stands for the images in it, and files skipped there are logged; a pattern for the files that
    match it; and several of these may be separated by commas.

    Args:
      text: file, folder, pattern, or several of them separated by commas.
      name: name of the input in messages, such as ``"--style"``.
      beside: folder that relative names refer to.

    Raises:
      InputError: a folder has no image, a pattern matches no file, or only some of the
        comma-separated names exist.
    """
    place = beside / check_place(text, name=name)
    if place.is_dir():
        return _list_folder(place, shown=text)
    if os.path.lexists(place):
        return [str(place)]
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and all(parts):
        return _list_parts(text, parts, name=name, beside=beside)
    return _match_pattern(place, shown=text) if glob.has_magic(str(place)) else [str(place)]


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that orders numbers by value: frame_2 comes before frame_10."""
    pieces = re.split(r"(\d+)", name.casefold())
    # Numbers are at odd indices, so numbers are compared with numbers and text with text.
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name


def sort_naturally(names: Iterable[str]) -> list[str]:
    """Sort names, with numbers in them ordered by value."""
    return sorted(names, key=natural_order)


def _list_parts(text: str, parts: list[str], *, name: str, beside: Path) -> list[str]:
    found = []
    for part in parts:
        place = beside / check_place(part, name=name)
        if not os.path.lexists(place) and not glob.has_magic(str(place)):
            raise InputError(
                f"{text} names no file, and neither does {part}",
                expected="names of existing files, separated by commas",
                remedy="check the names, or repeat the flag: --style=A --style=B",
            )
        found += list_named_images(part, name=name, beside=beside)
    return found


def _match_pattern(place: Path, *, shown: str) -> list[str]:
    # Brackets in the name of an existing folder are taken literally.
    above = next(parent for parent in place.parents if parent.is_dir() or parent == parent.parent)
    rest = place.relative_to(above)
    matches = glob.glob(os.path.join(glob.escape(str(above)), str(rest)), recursive=True)
    found = sort_naturally(str(Path(match)) for match in matches if os.path.isfile(match))
    if not found:
        raise InputError(
            f"{shown} matches no file",
            expected="a pattern such as photos/*.jpg, in quotation marks",
            remedy="check the folder and the extension",
        )
    return found


def _list_folder(place: Path, *, shown: str) -> list[str]:
    try:
        names = sort_naturally(n for n in os.listdir(place) if not n.startswith("."))
    except OSError as error:
        raise InputError(
            f"{shown} can't be read ({brief_cause(error)})",
            expected="a folder with images",
            remedy="check the permissions",
        ) from error
    extensions = readable_extensions()
    taken = [n for n in names if Path(n).suffix.lower() in extensions and (place / n).is_file()]
    passed_over = [n for n in names if n not in set(taken)]
    told = _tell_passed_over(passed_over)
    if not taken:
        raise InputError(
            f"{shown} holds no image" + (f" that can be read, only {told}" if told else ""),
            expected=f"files that end in {', '.join(sorted(extensions))}",
            remedy="give another folder",
        )
    if told:
        logger.info("%s: skipped %s.", shown, told)
    return [str(place / name) for name in taken]


def _tell_passed_over(names: list[str]) -> str:
    if not names:
        return ""
    more = len(names) - _MOST_TOLD
    listed = ", ".join(names[:_MOST_TOLD]) + (f" and {more} more" if more > 0 else "")
    if any(Path(name).suffix.lower() in HEIC_EXTENSIONS for name in names):
        return listed + ' (HEIC is read with the extra: pip install "neuart_jax[heic]")'
    return listed
