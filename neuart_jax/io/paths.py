"""Names of files and folders that a person wrote, looked at once, before anything is done.

Whatever may be wrong with a name itself is one sentence here. Whether the file exists, and what is
in it, is the matter of those who read it.
"""

import errno
import os
import stat
from pathlib import Path

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause

_LONGEST_SHOWN = 120
_CHUNK_BYTES = 1 << 24
# What `os.stat` says of names that are fine, though there may be no file, or none that is shown.
_HARMLESS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)


def check_place(path: str, *, name: str) -> Path:
    """Return the path that a text means, with the user's folder in place of ~.

    Args:
      path: of a file or a folder that may be missing.
      name: what messages call it, such as ``"--content"``.

    Raises:
      InputError: no file can have that name, or it leads nowhere: through a loop of links, to the
        folder of a user that isn't known, or from a working folder that is gone.
    """
    try:
        path.encode()
        expanded = os.path.expanduser(path)
        # A file's own name may begin with it, as those of some editors' copies do.
        if expanded.startswith("~") and not os.path.lexists(expanded):
            raise OSError(0, f"there is no user {expanded.split(os.sep)[0][1:]!r}")
        if not os.path.isabs(expanded):
            os.getcwd()
        os.stat(expanded)
    except UnicodeEncodeError as error:
        raise _refuse(path, name, "it has a letter that is none") from error
    except (OSError, ValueError) as error:
        is_about_folder = isinstance(error, OSError) and error.filename is None
        if isinstance(error, OSError) and error.errno in _HARMLESS and not is_about_folder:
            return Path(expanded)
        if isinstance(error, FileNotFoundError):
            raise _refuse(path, name, "the working folder is gone") from error
        raise _refuse(path, name, brief_cause(error)) from error
    return Path(expanded)


def resolve_place(path: str, *, name: str) -> str:
    """Do what `check_place` does, and return an absolute path without links."""
    return os.path.realpath(check_place(path, name=name))


def _refuse(path: str, name: str, reason: str) -> InputError:
    shown = path if path.isprintable() else repr(path)
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[:80]}…{shown[-30:]}"
    return InputError(
        f"{name}={shown} is no place for a file ({reason})",
        expected="the path of a file or a folder",
        remedy="check the spelling",
    )


def read_whole(path: str | os.PathLike[str], *, most: int) -> bytes:
    """Read a file, if it is one: a pipe could keep one waiting, and a device has no end.

    Args:
      path: of the file; a link is followed.
      most: bytes that it may have.

    Raises:
      OSError: it can't be read, is no file, or has more.
      ValueError: no file can have that name.
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
