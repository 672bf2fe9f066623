"""Compiled programs are kept from one run to the next: most of a short run's time."""

import contextlib
import hashlib
import logging
import os
import re
import tempfile
from pathlib import Path

import jax
from jax._src import compilation_cache as jaxs_cache
from jax._src.compilation_cache_interface import CacheInterface

from neuart_jax.config.errors import InputError
from neuart_jax.engine.program_cache import keep_bytes, keep_programs_in, recall_bytes
from neuart_jax.io.files import brief_cause, remove_leftovers, write_atomically

logger = logging.getLogger(__name__)

MAX_BYTES = 2 * 1024**3
"""The oldest programs go when there are more; those of `make demo` at 128 pixels are 3 MB."""


_NAME = re.compile("[0-9a-f]{64}", re.ASCII)
_SECONDS_OF_A_WRITE = 24 * 3600


class FolderStore:
    """Programs as files of a folder, which is made when the first of them comes.

    Who can write there can have this user run anything, as is so with JAX's own cache: programs are
    instructions of the processor.

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

    def keep(self, name: str, program: bytes) -> None:
        """Keep a program under a name; nothing more once that has failed, which is one line."""
        if not self._is_writable:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with write_atomically(self._folder / name) as file:
                file.write(program)
            self._drop_old()
        except (OSError, InputError) as error:
            self._is_writable = False
            logger.warning("Compiled programs are not kept: %s", brief_cause(error))

    def _drop_old(self) -> None:
        remove_leftovers(self._folder, seconds=_SECONDS_OF_A_WRITE)
        paths = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        entries = [(path.stat(), path) for path in paths]
        room = self._max_bytes
        for status, path in sorted(entries, key=lambda entry: -entry[0].st_mtime):
            room -= status.st_size
            if room < 0:
                path.unlink(missing_ok=True)


class _CheckedCache(CacheInterface):
    """JAX's cache of compiled programs, in which damaged ones are none.

    JAX's own (`LRUCache`) has no digests, keeps a damaged entry for good, and leaves half of one
    where its process is killed.

    Args:
      path: of JAX's cache.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._store = FolderStore(self._path / _PROGRAMS)

    def get(self, key: str) -> bytes | None:
        return recall_bytes(self._store, _digest(key))

    def put(self, key: str, value: bytes) -> None:
        keep_bytes(self._store, _digest(key), value)


_PROGRAMS = "programs"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def use_compilation_cache(folder: Path) -> None:
    """Keep all compiled programs of this process in a folder, and take them from there.

    Those of a run are kept so that they are found without being traced (see `program_cache`), which
    is most of what compiled programs leave of a start; the others as JAX does.

    Where the user has chosen a folder already (``JAX_COMPILATION_CACHE_DIR``), it is that one, and
    JAX's own settings aren't changed. A folder that can't be written costs a line in the log and
    the time to compile, and so does a program that is damaged.

    Args:
      folder: made if it isn't there.
    """
    if chosen := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        # It may be a bucket of a cloud, which only JAX can read.
        keep_programs_in(None if "://" in chosen else FolderStore(Path(chosen) / _PROGRAMS))
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        logger.warning(
            "Compiled programs are not kept: %s can't be written (%s).", folder, brief_cause(error)
        )
        return
    keep_programs_in(FolderStore(folder / _PROGRAMS))
    # JAX has no public way to bring a cache of one's own.
    jaxs_cache.get_file_cache = lambda path: (_CheckedCache(path), path)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    # The dozens of small programs around the large ones take seconds together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
