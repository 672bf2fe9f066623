"""Folders that one process writes at a time, touching only files of this program.

Such a folder has a hidden file, its mark: a line for every name claimed by this program, on disk
before the file itself, and a line for every process that wrote. Important lines are written twice,
since a file whose line is lost could no longer be recognized. The writing process holds a lock on
the mark, which the operating system releases when the process ends, however it ends.
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
except ImportError:  # On Windows there is no lock.
    fcntl = None  # type: ignore[assignment]

MARK_NAME = ".neuart_jax"
"""Name of the mark."""

_TITLE = {"neuart_jax": "names in this folder that are the program's own"}
_HEAD = json.dumps(_TITLE).encode() + b"\n"


class OwnFolder:
    """A folder that only this process writes until it is closed.

    Partial files of killed processes are removed. If nothing is written, neither mark nor folder is
    left behind.

    Args:
      path: the folder, which is created if needed.

    Raises:
      InputError: the folder can't be created or written, or another run is writing there.
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
            while not self._is_there():  # The previous process has just removed it.
                os.close(self._file)
                make_folder(self.path)
                content = self._lock_and_read()
            self._check_head(content)
            self._names |= set(_values(content, "name"))
            # Terminate a line that was truncated by a crash.
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
                expected="a writable folder with free space",
                remedy="check its permissions and the free space, or give another --output",
            ) from error

    def _is_there(self) -> bool:
        with contextlib.suppress(OSError):
            there = os.lstat(self.path / MARK_NAME)
            return self._file >= 0 and os.path.samestat(there, os.fstat(self._file))
        return False

    def _lock_and_read(self) -> bytes:
        # Don't follow a link, which could lead to another program's file.
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
                f"{self.path / MARK_NAME} was not written by this program",
                expected="a folder without such a file",
                remedy="give another --output",
            )

    def claim(self, *names: str) -> None:
        """Claim names for files and folders that are about to be written.

        Args:
          names: paths relative to the folder, with slashes; names claimed before are kept.

        Raises:
          InputError: a file or folder of another program has one of the names, or the mark can't be
            written.
        """
        new = [name for name in dict.fromkeys(names) if name not in self._names]
        _refuse_foreign(self.path, new)
        try:
            if new:
                lines = [{"name": name} for name in new]
                self._append(*lines, _TITLE, *lines)
                # After a power cut, files without a line in the mark couldn't be recognized.
                os.fsync(self._file)
        except OSError as error:
            raise InputError(
                f"{self.path / MARK_NAME} can't be written ({brief_cause(error)})",
                expected="a writable folder with free space",
                remedy="check its permissions and the free space, or give another --output",
            ) from error
        self._names.update(new)

    def owns(self, name: str) -> bool:
        """Return whether a name is claimed by this program."""
        return name in self._names

    def make_again(self) -> None:
        """Create the folder and its mark again if they are gone."""
        if self._is_there():
            return
        names, self._names = self._names, set()
        self._close_file()
        self._open()
        # The claimed files are gone with the folder; files created since are another program's.
        self.claim(*sorted(name for name in names if not os.path.lexists(self.path / name)))

    def close(self) -> None:
        """Let other processes write there."""
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
        # A single write, so that a crash truncates at most the last line.
        if text and os.write(self._file, text) < len(text):
            raise OSError(28, "No space left on device")


def is_in_use(path: Path) -> bool:
    """Return whether another run is writing to a folder; nothing is changed."""
    try:
        file = os.open(path / MARK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(file)
    finally:
        os.close(file)


def check_foreign(path: Path, names: Iterable[str]) -> None:
    """Check, without opening a folder, that no files of other programs in it have given names.

    Args:
      path: the folder, which may be missing.
      names: paths relative to the folder, with slashes.

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
        f"{folder} has {', '.join(foreign[:3])}{more}, not written by this program",
        expected="a folder without files of these names",
        remedy="give another --output, or move the files away",
    )


def _lock(file: int) -> bool:
    """Lock an open file until it is closed; return False if another process or run holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # The file system has no locks.
    except OSError:
        return True
    return True


def _values(content: bytes, key: str) -> list[Any]:
    """Return the values of a key in a mark's lines; damaged lines are ignored."""
    values = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get(key), str | int):
                values.append(entry[key])
    return values
