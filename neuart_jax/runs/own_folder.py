"""Folders that one process writes at a time, and in which it touches nothing but its own.

Such a folder holds a hidden file, its mark: a line for every name that this program has taken
there, on the disk before the file itself, and one for every process that wrote. All that matters
is in it twice, since a file whose name is lost would be nobody's. The process at work holds a lock
on it, which the operating system ends with the process, however that ends.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause, make_folder, remove_leftovers

try:
    import fcntl
except ImportError:  # Windows: nobody is kept out.
    fcntl = None  # type: ignore[assignment]

MARK_NAME = ".neuart_jax"
"""Name of the mark."""

_TITLE = {"neuart_jax": "names in this folder that are the program's own"}
_HEAD = json.dumps(_TITLE).encode() + b"\n"


class OwnFolder:
    """A folder that this process writes, and nobody else until it is closed.

    What a killed process has left half-written in it is removed. Nothing stays behind, neither mark
    nor folder, if nothing has been written.

    Args:
      path: made if it isn't there.

    Raises:
      InputError: it can't be made or written, or another run is at it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: set[str] = set()
        self._file = -1
        self._is_new = not os.path.lexists(path)
        self._open()
        try:
            remove_leftovers(path, seconds=0)
        except BaseException:
            self._close_file()
            raise

    def _open(self) -> None:
        make_folder(self.path)
        try:
            content = self._lock_and_read()
            while not self._is_there():  # The one before has just removed it.
                os.close(self._file)
                make_folder(self.path)
                content = self._lock_and_read()
            self._check_head(content)
            self._names |= set(_values(content, "name"))
            # A line that a crash has cut short is none.
            start = b"" if content.endswith(b"\n") else b"\n"
            if _HEAD not in content:
                os.ftruncate(self._file, 0)
                start = _HEAD
            self._append({"pid": os.getpid(), "host": socket.gethostname()}, _TITLE, start=start)
        except BaseException as error:
            self._close_file()
            if not isinstance(error, OSError):
                raise
            raise InputError(
                f"{self.path} can't be written ({brief_cause(error)})",
                expected="a folder with room and permission to write",
                remedy="free some space, or give another --output",
            ) from error

    def _is_there(self) -> bool:
        with contextlib.suppress(OSError):
            there = os.lstat(self.path / MARK_NAME)
            return self._file >= 0 and os.path.samestat(there, os.fstat(self._file))
        return False

    def _lock_and_read(self) -> bytes:
        # Not through a link, which could lead to a file of somebody else's.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path / MARK_NAME, flags, 0o666)
        locked = _lock(self._file)
        os.lseek(self._file, 0, os.SEEK_SET)
        content = os.read(self._file, os.fstat(self._file).st_size)
        if locked:
            return content
        hosts, processes = _values(content, "host"), _values(content, "pid")
        who = f"process {processes[-1]} on {hosts[-1]}" if hosts and processes else "another run"
        raise InputError(
            f"{self.path} is being written by {who}",
            expected="one run at a time in a folder",
            remedy="wait for it, or give another --output",
        )

    def _check_head(self, content: bytes) -> None:
        if not (_HEAD in content or _HEAD.startswith(content)):
            raise InputError(
                f"{self.path / MARK_NAME} is not this program's, though it has its name",
                expected="a folder without such a file",
                remedy="give another --output",
            )

    def claim(self, *names: str) -> None:
        """Take names for files and folders that are about to be written.

        Args:
          names: from the folder on, with slashes; those that this program has taken before are
            its own already.

        Raises:
          InputError: somebody else's file or folder has one of them, or they can't be noted.
        """
        new = [name for name in dict.fromkeys(names) if name not in self._names]
        _refuse_foreign(self.path, new)
        try:
            if new:
                lines = [{"name": name} for name in new]
                self._append(*lines, _TITLE, *lines)
                # Files whose names a power cut takes away would be nobody's.
                os.fsync(self._file)
        except OSError as error:
            raise InputError(
                f"{self.path / MARK_NAME} can't be written ({brief_cause(error)})",
                expected="a folder with room and permission to write",
                remedy="free some space, or give another --output",
            ) from error
        self._names.update(new)

    def owns(self, name: str) -> bool:
        """Tell whether a name there is this program's."""
        return name in self._names

    def make_again(self) -> None:
        """Make the folder once more, with its mark, where it is gone."""
        if self._is_there():
            return
        names, self._names = self._names, set()
        self._close_file()
        self._open()
        # They went with the folder: who has put others there since keeps them.
        self.claim(*sorted(name for name in names if not os.path.lexists(self.path / name)))

    def close(self) -> None:
        """Let others write there."""
        try:
            if self._is_there() and not any(os.path.lexists(self.path / n) for n in self._names):
                with contextlib.suppress(OSError):
                    os.unlink(self.path / MARK_NAME)
                    if self._is_new:
                        self.path.rmdir()
        finally:
            self._close_file()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> "OwnFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, *lines: dict[str, Any], start: bytes = b"") -> None:
        text = start + b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        # In one piece, so that a crash cuts the last line short at the most.
        if text and os.write(self._file, text) < len(text):
            raise OSError(28, "No space left on device")


def is_in_use(path: Path) -> bool:
    """Tell whether another run writes a folder at the moment; nothing is changed."""
    try:
        file = os.open(path / MARK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(file)
    finally:
        os.close(file)


def check_foreign(path: Path, names: Iterable[str]) -> None:
    """Check, without taking a folder, that nobody else's files have some names in it.

    Args:
      path: of the folder, which may be missing.
      names: from the folder on, with slashes.

    Raises:
      InputError: there are such files.
    """
    content = b""
    with contextlib.suppress(OSError):
        content = (path / MARK_NAME).read_bytes()
    own = set(_values(content, "name")) if _HEAD in content else set()
    _refuse_foreign(path, [name for name in names if name not in own])


def _refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    foreign = [name for name in names if os.path.lexists(folder / name)]
    if not foreign:
        return
    more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
    raise InputError(
        f"{folder} holds {', '.join(foreign[:3])}{more}, which this program has not made there",
        expected="a folder without files of these names",
        remedy="give another --output, or move them away",
    )


def _lock(file: int) -> bool:
    """Lock an open file until it is closed; False if another process, or another run, has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # A file system without locks.
    except OSError:
        return True
    return True


def _values(content: bytes, key: str) -> list[Any]:
    """Return what a mark's lines say under a key; a line that is damaged says nothing."""
    values = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get(key), str | int):
                values.append(entry[key])
    return values
