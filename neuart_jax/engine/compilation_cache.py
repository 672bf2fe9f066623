"""Persistent cache of compiled programs: compilation is most of a short run's time."""

import atexit
import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from neuart_jax.config.errors import InputError
from neuart_jax.engine.program_cache import cache_programs_in, report_damage
from neuart_jax.io.files import brief_cause, remove_leftovers, write_atomically

logger = logging.getLogger(__name__)

MAX_BYTES = 2 * 1024**3
"""Size limit, above which the oldest programs are removed; those of `make demo` at 128 pixels have
3 MB."""


_EXPORTED = "programs"
_NAME = re.compile("[0-9a-f]{64}", re.ASCII)
_SECONDS_OF_A_WRITE = 24 * 3600
_ENTRY = "-cache"  # Suffix of the names of JAX's entries.
# JAX doesn't write entries atomically: a younger one may still be being written by another run.
_SECONDS_OF_AN_ENTRY = 2
_DIGESTS = "digests.json"


class FolderStore:
    """A store of programs as files in a folder, which is created with the first program.

    Args:
      folder: the folder; other files in it are left alone.
      max_bytes: size limit, above which the least recently used programs are removed.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._is_writable = True

    def read(self, name: str) -> bytes | None:
        """Return the content stored under a name; None if there is none."""
        path = self._folder / name
        try:
            program = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            path.touch()
        return program

    def keep(self, name: str, content: bytes) -> None:
        """Store bytes under a name; after a failure, which is logged once, store nothing more."""
        if not self._is_writable:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with write_atomically(self._folder / name) as file:
                file.write(content)
            remove_leftovers(self._folder, seconds=_SECONDS_OF_A_WRITE)
            paths = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
            _drop_old({path: path.stat() for path in paths}, self._max_bytes)
        except (OSError, InputError) as error:
            self._is_writable = False
            logger.warning("Compiled programs are not cached: %s", brief_cause(error))


def _drop_old(files: Mapping[Path, os.stat_result], max_bytes: int) -> None:
    """Remove the least recently used files if the total exceeds a limit."""
    room = max_bytes
    for path, status in sorted(files.items(), key=lambda one: -_last_use(one[1])):
        room -= status.st_size
        if room < 0:
            path.unlink(missing_ok=True)


def _last_use(status: os.stat_result) -> float:
    # Many file systems update the access time only once a day, and some never.
    return max(status.st_atime, status.st_mtime)


def use_compilation_cache(folder: Path) -> None:
    """Cache all compiled programs of this process in a folder.

    JAX stores compiled programs there, and `program_cache` the lowered ones. As with any cache of
    JAX, whoever can write to the folder can make this user run arbitrary code: compiled programs
    are machine instructions.

    If the user has chosen a folder already (``JAX_COMPILATION_CACHE_DIR``), that one is used, and
    JAX's own settings aren't changed. If the folder can't be written, or a program is damaged, the
    only costs are a log line and the time to compile.

    Args:
      folder: the folder, which is created if needed.
    """
    if chosen := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        # The folder may be a cloud bucket, which only JAX can read.
        cache_programs_in(None if "://" in chosen else FolderStore(Path(chosen) / _EXPORTED))
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        check_entries(folder)
    except OSError as error:
        logger.warning(
            "Compiled programs are not cached: %s can't be written (%s).",
            folder,
            brief_cause(error),
        )
        return
    cache_programs_in(FolderStore(folder / _EXPORTED))
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Cache even fast compilations: dozens of small programs take seconds in total.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    atexit.unregister(_note_entries)
    atexit.register(_note_entries, folder)


def check_entries(folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Remove damaged entries of JAX's cache, and the oldest ones above the size limit.

    JAX stores no checksums: it uses a modified entry if it can be decompressed, and never replaces
    one that can't. So entries that differ from those an earlier run left (see `_note_entries`) are
    checked before JAX reads them.

    Args:
      folder: folder of JAX's cache.
      max_bytes: size limit of all entries.

    Raises:
      OSError: the folder can't be read or written.
    """
    noted, found = _read_digests(folder), _find_entries(folder)
    for path, status in list(found.items()):
        stamp = noted.get(path.name)
        if stamp is not None and stamp[:2] == _stamp(status):
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # Removed by another run.
            del found[path]
            continue
        if stamp is None:
            # From a run that was killed or is still running.
            whole = _can_be_unpacked(content)
        else:
            whole = stamp[2] == hashlib.sha256(content).hexdigest()
        if not whole:
            report_damage(f"{path.name} is not what was written")
            path.unlink(missing_ok=True)
            del found[path]
    _drop_old(found, max_bytes)
    _note_entries(folder)


def _note_entries(folder: Path) -> None:
    """Record the current digests of all entries in a folder of JAX's cache."""
    noted, digests = _read_digests(folder), {}
    with contextlib.suppress(OSError, InputError):
        for path, status in _find_entries(folder).items():
            stamp = noted.get(path.name)
            if stamp is None or stamp[:2] != _stamp(status):
                stamp = [*_stamp(status), hashlib.sha256(path.read_bytes()).hexdigest()]
            digests[path.name] = stamp
        if digests != noted:
            with write_atomically(folder / _DIGESTS) as file:
                file.write(json.dumps(digests).encode())


def _find_entries(folder: Path) -> dict[Path, os.stat_result]:
    """Return the entries that are old enough to be complete."""
    found, now = {}, time.time()
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                is_young = 0 <= now - status.st_mtime < _SECONDS_OF_AN_ENTRY
                if entry.name.endswith(_ENTRY) and stat.S_ISREG(status.st_mode) and not is_young:
                    found[Path(entry.path)] = status
    return found


def _read_digests(folder: Path) -> dict[str, list[Any]]:
    """Return the size, time in nanoseconds and SHA-256 of every recorded entry, by name."""
    try:
        noted = json.loads((folder / _DIGESTS).read_bytes())
        return {name: [*map(int, stamp[:2]), str(stamp[2])] for name, stamp in noted.items()}
    # Without a valid list, all entries are checked.
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return {}


def _stamp(status: os.stat_result) -> list[Any]:
    return [status.st_size, status.st_mtime_ns]


def _can_be_unpacked(content: bytes) -> bool:
    """Return whether JAX can decompress an entry with the installed libraries."""
    try:
        zlib.decompress(content)
    except zlib.error:
        return _can_be_unpacked_by_zstandard(content)
    return True


def _can_be_unpacked_by_zstandard(content: bytes) -> bool:
    # JAX uses zstandard if it is installed.
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            import zstandard as zstd  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            return False
    try:
        zstd.decompress(content)
    except Exception:  # Each of the two libraries has its own errors.
        return False
    return True
