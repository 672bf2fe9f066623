"""Cache of published files converted to canonical form, verified at every read.

Later runs need neither the original file nor the libraries for its layout.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import remove_leftovers, user_cache
from neuart_jax.models.params.canonical import CanonicalParams, read_safetensors, write_safetensors
from neuart_jax.models.params.catalog import PublishedFile
from neuart_jax.models.params.fingerprint import Fingerprint
from neuart_jax.models.params.formats.convert import read_weights

logger = logging.getLogger(__name__)

_SECONDS_OF_A_PART = 7 * 24 * 3600

CONVERSION_VERSION = 1
"""Part of a conversion's name; increment when the converters give other numbers."""


def cache_folder() -> Path:
    """Return the cache folder of published weights."""
    return user_cache("weights")


def conversion_path(file: PublishedFile) -> Path:
    """Return the path of a published file's conversion, which may not exist."""
    source = (file.sha256 or file.md5)[:16]
    name = f"{file.model}-{file.flavor}-{source}-v{CONVERSION_VERSION}.safetensors"
    return cache_folder() / name


def read_conversion(file: PublishedFile) -> CanonicalParams | None:
    """Read the conversion of a published file; log and remove a damaged one."""
    path = conversion_path(file)
    if not os.path.isfile(path):
        return None
    try:
        return read_safetensors(path, model=file.model)
    except InputError as error:
        logger.warning("A cached conversion is damaged and is now removed: %s", error)
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def convert_once(file: PublishedFile, path: Path, fingerprint: Fingerprint) -> CanonicalParams:
    """Read a published file from its conversion, which is created if it doesn't exist.

    When a file is converted, a log line (level INFO) gives the attribution.

    Args:
      file: row of the catalog.
      path: the original file.
      fingerprint: fingerprint of the original, already verified.

    Raises:
      InputError: the file can't be read.
    """
    params = read_conversion(file)
    if params is not None:
        return params
    params = read_weights(path, model=file.model)
    params = params._replace(
        provenance={
            **params.provenance,
            "source": file.name,
            "source_url": file.url,
            "source_sha256": fingerprint.sha256,
            "licence": file.licence,
            "attribution": file.attribution,
        },
    )
    try:
        with alone_in_cache():
            cache_folder().mkdir(parents=True, exist_ok=True)
            write_safetensors(conversion_path(file), params, model=file.model)
    # If the cache can't be written, the next run takes longer, but this one has its weights.
    except (OSError, InputError) as error:
        logger.warning("The converted weights could not be cached: %s", error)
    logger.info("Converted %s, by %s (%s).", file.name, file.attribution, file.licence)
    return params


@contextlib.contextmanager
def alone_in_cache() -> Iterator[None]:
    """Lock the cache against other processes, where locks are available.

    Another process waits and logs a line. Partial files of killed processes are removed. The lock
    is reentrant.
    """
    folder = cache_folder()
    lock: filelock.BaseFileLock | None = None
    # Without locks, two processes may do the same work twice, but every file is still complete.
    with contextlib.suppress(OSError, NotImplementedError):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock", is_singleton=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            logger.info("Waiting for another run that is getting weights.")
            lock.acquire()
        remove_leftovers(folder, seconds=0)
        # Partial downloads that were not resumed.
        for leftover in folder.glob("*.part"):
            if time.time() - leftover.stat().st_mtime > _SECONDS_OF_A_PART:
                leftover.unlink(missing_ok=True)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
