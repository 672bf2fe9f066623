"""Compiled programs are kept from one run to the next: most of a short run's time."""

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
"""The oldest programs go when there are more; those of `make demo` at 128 pixels are 3 MB."""


_EXPORTED = "programs"
_NAME = re.compile("[0-9a-f]{64}", re.ASCII)
_SECONDS_OF_A_WRITE = 24 * 3600
_ENTRY = "-cache"  # What JAX's names of entries end with.
# JAX writes an entry where it is to be: a younger one may be half of it, of a run beside this one.
_SECONDS_OF_AN_ENTRY = 2
_DIGESTS = "digests.json"


class FolderStore:
    """Programs as files of a folder, which is made when the first of them comes.

    Args:
      folder: where to; files of other names are left alone.
      max_bytes: those that weren't read for the longest time go when there are more.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._is_writable = True

    def read(self, name: str) -> bytes | None:
        """Return what was kept under a name."""
        path = self._folder / name
        try:
            program = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            path.touch()
        return program

    def keep(self, name: str, content: bytes) -> None:
        """Keep bytes under a name; nothing more once that has failed, which is one line."""
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
            logger.warning("Compiled programs are not kept: %s", brief_cause(error))


def _drop_old(files: Mapping[Path, os.stat_result], max_bytes: int) -> None:
    """Remove the files that weren't used for the longest time, where all are too large."""
    room = max_bytes
    for path, status in sorted(files.items(), key=lambda one: -_last_use(one[1])):
        room -= status.st_size
        if room < 0:
            path.unlink(missing_ok=True)


def _last_use(status: os.stat_result) -> float:
    # Many disks note a read only once a day, and some none at all.
    return max(status.st_atime, status.st_mtime)


def use_compilation_cache(folder: Path) -> None:
    """Keep all compiled programs of this process in a folder, and take them from there.

    JAX keeps what it compiled there, and `program_cache` what it compiled it from. Who can write
    there can have this user run anything, as is so with any cache of JAX's: compiled programs are
    instructions of the processor.

    Where the user has chosen a folder already (``JAX_COMPILATION_CACHE_DIR``), it is that one, and
    JAX's own settings aren't changed. A folder that can't be written costs a line in the log and
    the time to compile, and so does a program that is damaged.

    Args:
      folder: made if it isn't there.
    """
    if chosen := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        # It may be a bucket of a cloud, which only JAX can read.
        cache_programs_in(None if "://" in chosen else FolderStore(Path(chosen) / _EXPORTED))
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        check_entries(folder)
    except OSError as error:
        logger.warning(
            "Compiled programs are not kept: %s can't be written (%s).", folder, brief_cause(error)
        )
        return
    cache_programs_in(FolderStore(folder / _EXPORTED))
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The dozens of small programs around the large ones take seconds together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    atexit.unregister(_note_entries)
    atexit.register(_note_entries, folder)


def check_entries(folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Remove damaged entries from a folder of JAX's cache, and the oldest where it is too large.

    JAX writes no digests, takes an entry that was changed on the disk for a program as far as it
    can be unpacked, and never replaces one that can't. So those that aren't as an earlier run left
    them (see `_note_entries`) are looked at before JAX does.

    Args:
      folder: of the cache.
      max_bytes: of all entries.

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
        except FileNotFoundError:  # Another run has removed it.
            del found[path]
            continue
        if stamp is None:
            # Of a run that was killed, or is under way.
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
    """Write down the digests of all entries in a folder of JAX's cache, as they are now."""
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
    """Return the entries that are complete, but for damage."""
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
    """Return an entry's name to its size, time in nanoseconds and SHA-256."""
    try:
        noted = json.loads((folder / _DIGESTS).read_bytes())
        return {name: [*map(int, stamp[:2]), str(stamp[2])] for name, stamp in noted.items()}
    # Nothing there, or it is damaged itself: then entries have to prove themselves.
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return {}


def _stamp(status: os.stat_result) -> list[Any]:
    return [status.st_size, status.st_mtime_ns]


def _can_be_unpacked(content: bytes) -> bool:
    """Tell whether an entry is one that JAX can unpack with what is installed."""
    try:
        zlib.decompress(content)
    except zlib.error:
        return _can_be_unpacked_by_zstandard(content)
    return True


def _can_be_unpacked_by_zstandard(content: bytes) -> bool:
    # JAX takes it where it is there.
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            import zstandard as zstd  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            return False
    try:
        zstd.decompress(content)
    except Exception:  # Each of the two has errors of its own.
        return False
    return True
