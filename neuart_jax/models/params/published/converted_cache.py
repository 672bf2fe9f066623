"""Published files in canonical form: converted once, kept in the cache, checked at every reading.

Later runs need neither the original nor the libraries that its layout takes.
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
from neuart_jax.models.params.canonical import Weights, read_safetensors, write_safetensors
from neuart_jax.models.params.catalog import PublishedFile
from neuart_jax.models.params.fingerprint import Fingerprint
from neuart_jax.models.params.formats.convert import read_weights

logger = logging.getLogger(__name__)

_SECONDS_OF_A_PART = 7 * 24 * 3600

CONVERSION_VERSION = 1
"""Part of a conversion's name: raised whenever the converters give other numbers."""


def cache_folder() -> Path:
    """Return where published weights are kept."""
    return user_cache("weights")


def conversion_path(file: PublishedFile) -> Path:
    """Return where the conversion of a published file is, or would be."""
    source = (file.sha256 or file.md5)[:16]
    name = f"{file.model}-{file.flavor}-{source}-v{CONVERSION_VERSION}.safetensors"
    return cache_folder() / name


def read_conversion(file: PublishedFile) -> Weights | None:
    """Read the conversion of a published file; a damaged one is told and removed."""
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


def convert_once(file: PublishedFile, path: Path, fingerprint: Fingerprint) -> Weights:
    """Read a published file, by way of its conversion if there is one.

    A line (level INFO) names those to whom attribution is owed when the conversion is made.

    Args:
      file: row of the catalog.
      path: its original.
      fingerprint: of the original, which has been found to be the published one.

    Raises:
      InputError: it can't be read.
    """
    weights = read_conversion(file)
    if weights is not None:
        return weights
    weights = read_weights(path, model=file.model)
    weights = weights._replace(
        provenance={
            **weights.provenance,
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
            write_safetensors(conversion_path(file), weights, model=file.model)
    # Costs the next run time, never this one its weights.
    except (OSError, InputError) as error:
        logger.warning("The converted weights could not be cached: %s", error)
    logger.info("Converted %s, by %s (%s).", file.name, file.attribution, file.licence)
    return weights


@contextlib.contextmanager
def alone_in_cache() -> Iterator[None]:
    """Keep other processes from writing here meanwhile, if that can be done at all.

    Another that comes waits, and one line tells so. What a killed process has left half-written
    is removed. It may be entered again from within.
    """
    folder = cache_folder()
    lock: filelock.BaseFileLock | None = None
    # Where there are no locks, two processes do the same work twice; every file is still whole.
    with contextlib.suppress(OSError, NotImplementedError):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock", is_singleton=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            logger.info("Waiting for another run that is getting weights.")
            lock.acquire()
        remove_leftovers(folder, seconds=0)
        # Beginnings of files that nobody has gone on with.
        for leftover in folder.glob("*.part"):
            if time.time() - leftover.stat().st_mtime > _SECONDS_OF_A_PART:
                leftover.unlink(missing_ok=True)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
