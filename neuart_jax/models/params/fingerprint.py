"""Fingerprints of files: sizes and hashes, to recognize published files."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause
from neuart_jax.models.params.catalog import PublishedFile

_CHUNK_BYTES = 1 << 20


class Fingerprint(NamedTuple):
    """Identity of a file's content: its size in bytes, and two hashes in hexadecimal."""

    num_bytes: int
    md5: str
    sha256: str


class Fingerprinter:
    """Computes a fingerprint incrementally."""

    def __init__(self) -> None:
        self.num_bytes = 0
        # For some files, MD5 is the only published checksum.
        self._hashes = (hashlib.md5(usedforsecurity=False), hashlib.sha256())

    def update(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self.num_bytes += len(chunk)
        for each in self._hashes:
            each.update(chunk)

    def result(self) -> Fingerprint:
        """Return the fingerprint of all bytes so far."""
        md5, sha256 = (each.hexdigest() for each in self._hashes)
        return Fingerprint(self.num_bytes, md5, sha256)


def take_fingerprint(path: Path) -> Fingerprint:
    """Compute the fingerprint of a file, reading it once.

    Raises:
      InputError: the file can't be read.
    """
    fingerprinter = Fingerprinter()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                fingerprinter.update(chunk)
    # A name with a null character raises ValueError.
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} can't be read ({brief_cause(error)})",
            expected="a readable weights file",
            remedy="check the name and the permissions, or give another --weights",
        ) from error
    return fingerprinter.result()


def difference(found: Fingerprint, file: PublishedFile) -> tuple[str, str] | None:
    """Compare a fingerprint with that of a published file.

    Returns:
      None if they match, else the value found and the published one, such as
      ("12 bytes", "80134624").
    """
    if file.num_bytes not in (None, found.num_bytes):
        return f"{found.num_bytes} bytes", str(file.num_bytes)
    if file.sha256 and file.sha256 != found.sha256:
        return f"the sha256 sum {found.sha256}", file.sha256
    if file.md5 and file.md5 != found.md5:
        return f"the md5 sum {found.md5}", file.md5
    return None
