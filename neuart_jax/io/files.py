"""Whole files or none.

A file written here has its name only once it is complete and on the disk, so that neither an error
nor a crash leaves half of one behind. Failures are told as `InputError`.
"""

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from neuart_jax.config.errors import InputError

PathLike = str | os.PathLike[str]
"""What a file may be named by."""

# The first kind is that of earlier versions.
_LEFTOVER = re.compile(r"\.(?:neuart_jax-)?[0-9a-f]{16}\.tmp", re.ASCII)


def user_cache(name: str) -> Path:
    """Return where this program keeps, for this user, what it can get again."""
    return Path(platformdirs.user_cache_dir("neuart_jax")) / name


def make_folder(path: Path) -> None:
    """Make the folder that --output names, and those above it.

    Raises:
      InputError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    # A name with a null character is a ValueError.
    except (OSError, ValueError) as error:
        raise InputError(
            f"--output={path} can't be made ({brief_cause(error)})",
            expected="a folder that can be written",
            remedy="give another --output",
        ) from error


@contextlib.contextmanager
def write_atomically(path: PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that takes its name only once it is complete and on the disk.

    When the block fails, nothing is left behind and a file that had the name before still stands.

    Args:
      path: the file to make or to replace; a link is followed.

    Yields:
      The open file, under another name in the same folder.

    Raises:
      InputError: for any OSError; other errors of the block pass unchanged.
    """
    # open() and not tempfile, whose files are private to their owner whatever the umask.
    with _renaming(path) as temporary, open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def name_atomically(path: PathLike) -> Iterator[str]:
    """Do what `write_atomically` does, for a writer that opens its files by name.

    Args:
      path: the file to make or to replace; a link is followed.

    Yields:
      The name to write it under, which is no file yet.

    Raises:
      InputError: for any OSError; other errors of the block pass unchanged.
    """
    with _renaming(path) as temporary:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def _renaming(path: PathLike) -> Iterator[str]:
    """Yield a name beside a file's, whose file gets that name at the end."""
    target = os.path.realpath(path)
    temporary = temporary_beside(target)
    try:
        yield temporary
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({brief_cause(error)})",
            expected="a name in an existing folder with room and permission to write",
            remedy="make the folder, free some space or choose another name",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def temporary_beside(path: PathLike) -> str:
    """Return a new name in a file's folder that is this program's, and nobody's file yet."""
    return os.path.join(os.path.dirname(path), f".neuart_jax-{secrets.token_hex(8)}.tmp")


def remove_leftovers(folder: Path, *, seconds: float) -> None:
    """Remove files that a killed process of this program has left half-written.

    Args:
      folder: where to look; what is below it stays.
      seconds: since a file was last written; 0 where no other process writes.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if _LEFTOVER.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime >= seconds:
                        os.unlink(entry.path)


class Room:
    """Space on a disk, and a name's worth of its table, kept free for a file to come.

    Args:
      folder: in which the file will be.
      num_bytes: that it will have, at the most.

    Raises:
      OSError: there is none.
    """

    def __init__(self, folder: Path, num_bytes: int) -> None:
        self._path = temporary_beside(folder / "room")
        try:
            with open(self._path, "xb") as file:
                _fill(file, num_bytes)
        except OSError:
            self.give()
            raise

    def give(self) -> None:
        """Give it to the file that it was kept for."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _fill(file: BinaryIO, num_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
        return
    for start in range(0, num_bytes, 1 << 20):
        file.write(bytes(min(1 << 20, num_bytes - start)))


def brief_cause(error: BaseException) -> str:
    """Return an error's cause in a few words, fit for brackets inside a sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")[:160]


def dump_json(document: Any, *, indent: int | None = None) -> str:
    """Write JSON that every reader takes: numbers that are not finite become null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: clean(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(clean(document), indent=indent, allow_nan=False)
