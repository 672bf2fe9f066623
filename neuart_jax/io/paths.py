"""Validation of file and folder names given by a user, before anything else is done.

Only the name itself is checked here. Whether the file exists, and what is in it, is checked by its
reader.
"""

import errno
import os
import stat
from pathlib import Path

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause

_LONGEST_SHOWN = 120
_CHUNK_BYTES = 1 << 24
# Errors of `os.stat` for valid names whose file is missing or inaccessible.
_HARMLESS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)


def check_place(path: str, *, name: str) -> Path:
    """Check a path from the user and expand ~ to the home folder.

    Args:
      path: path of a file or folder, which may be missing.
      name: name of the input in messages, such as ``"--content"``.

    Raises:
      InputError: the name is invalid or can't be resolved: a loop of links, the home folder of an
        unknown user, or a deleted working folder.
    """
    try:
        # Names of any bytes pass, as Python decodes them; what no file's name can be doesn't.
        os.fsencode(path)
        expanded = os.path.expanduser(path)
        # A file name may itself begin with ~, such as an editor's backup copy.
        if expanded.startswith("~") and not os.path.lexists(expanded):
            raise OSError(0, f"there is no user {expanded.split(os.sep)[0][1:]!r}")
        if not os.path.isabs(expanded):
            os.getcwd()
        os.stat(expanded)
    except UnicodeEncodeError as error:
        raise _refuse(path, name, "it contains an invalid character") from error
    except (OSError, ValueError) as error:
        is_about_folder = isinstance(error, OSError) and error.filename is None
        if isinstance(error, OSError) and error.errno in _HARMLESS and not is_about_folder:
            return Path(expanded)
        if isinstance(error, FileNotFoundError):
            raise _refuse(path, name, "the working folder is gone") from error
        raise _refuse(path, name, brief_cause(error)) from error
    return Path(expanded)


def resolve_place(path: str, *, name: str) -> str:
    """Check a path as `check_place` does, and return it absolute and without links."""
    return os.path.realpath(check_place(path, name=name))


def _refuse(path: str, name: str, reason: str) -> InputError:
    shown = path if path.isprintable() else repr(path)
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[:80]}…{shown[-30:]}"
    return InputError(
        f"{name}={shown} is not a valid path ({reason})",
        expected="the path of a file or a folder",
        remedy="check the spelling",
    )


def read_whole(path: str | os.PathLike[str], *, most: int) -> bytes:
    """Read a regular file whole; refuse pipes, which could block, and devices, which don't end.

    Args:
      path: the file; symbolic links are followed.
      most: largest allowed size in bytes.

    Raises:
      OSError: the file can't be read, is not a regular file, or is too large.
      ValueError: the name is invalid.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("it is a device or a pipe, not a file")
        chunks, room = [], most
        while chunk := file.read(min(_CHUNK_BYTES, room + 1)):
            room -= len(chunk)
            if room < 0:
                raise OSError(f"it has more than {most >> 20} MiB")
            chunks.append(chunk)
    return b"".join(chunks)
