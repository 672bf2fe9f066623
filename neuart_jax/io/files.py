"""Atomic file writes.

A file written here gets its name only once it is complete and on disk, so that neither an error nor
a crash leaves a partial file. Failures raise `InputError`.
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
"""Types that can name a file."""

# Earlier versions left out the prefix.
_LEFTOVER = re.compile(r"\.(?:neuart_jax-)?[0-9a-f]{16}\.tmp", re.ASCII)


def user_cache(name: str) -> Path:
    """Return a folder in the user's cache for files that can be regenerated."""
    return Path(platformdirs.user_cache_dir("neuart_jax")) / name


def make_folder(path: Path, *, name: str = "output") -> None:
    """Create a folder that a flag names, with its parents.

    Args:
      path: path of the folder.
      name: name of the flag.

    Raises:
      InputError: the folder can't be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    # A name with a null character is a ValueError.
    except (OSError, ValueError) as error:
        raise InputError(
            f"--{name}={path} can't be created ({brief_cause(error)})",
            expected="a writable folder",
            remedy=f"give another --{name}",
        ) from error


@contextlib.contextmanager
def write_atomically(path: PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that gets its name only once it is complete and on disk.

    If the block fails, nothing is left behind and an existing file of that name is unchanged.

    Args:
      path: the file to create or replace; symbolic links are followed.

    Yields:
      The open file, under a temporary name in the same folder.

    Raises:
      InputError: an OSError occurred; other exceptions of the block propagate unchanged.
    """
    # Not tempfile, whose files are readable only by their owner whatever the umask.
    with _renaming(path) as temporary, open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def name_atomically(path: PathLike) -> Iterator[str]:
    """Write a file atomically with a writer that opens files by name; see `write_atomically`.

    Args:
      path: the file to create or replace; symbolic links are followed.

    Yields:
      The temporary name to write to; no file of that name exists yet.

    Raises:
      InputError: an OSError occurred; other exceptions of the block propagate unchanged.
    """
    with _renaming(path) as temporary:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def _renaming(path: PathLike) -> Iterator[str]:
    """Yield a temporary name in a file's folder; rename it to the file at the end."""
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
            expected="a name in an existing, writable folder with free space",
            remedy="create the folder, free some space or choose another name",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def temporary_beside(path: PathLike) -> str:
    """Return an unused name in a file's folder, recognizable as this program's."""
    return os.path.join(os.path.dirname(path), f".neuart_jax-{secrets.token_hex(8)}.tmp")


def remove_leftovers(folder: Path, *, seconds: float) -> None:
    """Remove temporary files left by killed processes of this program.

    Args:
      folder: folder to search, without its subfolders.
      seconds: least age of a file since its last write; 0 if no other process writes.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if _LEFTOVER.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime >= seconds:
                        os.unlink(entry.path)


class Room:
    """Reserves disk space, and a directory entry, for a file to be written later.

    Args:
      folder: folder of the later file.
      num_bytes: upper bound on its size.

    Raises:
      OSError: there is not enough space.
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
        """Release the space, for the file it was reserved for."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _fill(file: BinaryIO, num_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
        return
    for start in range(0, num_bytes, 1 << 20):
        file.write(bytes(min(1 << 20, num_bytes - start)))


def brief_cause(error: BaseException) -> str:
    """Return an error's cause in a few words, to be put in parentheses inside a sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")[:160]


def dump_json(document: Any, *, indent: int | None = None) -> str:
    """Serialize to standard JSON, with null in place of numbers that are not finite."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: clean(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(clean(document), indent=indent, allow_nan=False)
