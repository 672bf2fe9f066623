"""A container format for JSON facts and binary blobs, with a checksum.

Plain data only: reading it executes nothing, whatever it contains. Layout: a magic line, the length
of the JSON header (8 bytes, little-endian), the header with the facts, the concatenated blobs, and
the SHA-256 of everything before.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

_MAGIC = b"neuart_jax sealed 1\n"
_LENGTH_BYTES, _DIGEST_BYTES = 8, hashlib.sha256().digest_size


class DamagedError(ValueError):
    """The document differs from what was written."""


def seal(facts: Mapping[str, Any], blobs: Mapping[str, memoryview]) -> Iterator[memoryview]:
    """Yield the parts of a sealed document, to be written one after another.

    Args:
      facts: plain JSON types; numbers that are not finite are kept.
      blobs: names and contiguous bytes, which aren't copied.
    """
    sizes = [[name, blob.nbytes] for name, blob in blobs.items()]
    text = json.dumps({"facts": facts, "blobs": sizes}).encode()
    digest = hashlib.sha256()
    head = _MAGIC + len(text).to_bytes(_LENGTH_BYTES, "little") + text
    for part in (memoryview(head), *blobs.values()):
        digest.update(part)
        yield part
    yield memoryview(digest.digest())


def unseal(document: bytes) -> tuple[dict[str, Any], dict[str, memoryview]]:
    """Return the facts and the blobs of a sealed document; the blobs are views into it.

    Raises:
      DamagedError: a byte has changed, or bytes were added or lost.
    """
    whole = memoryview(document)
    if bytes(whole[: len(_MAGIC)]) != _MAGIC:
        raise DamagedError("it doesn't begin as it should")
    body, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != bytes(digest):
        raise DamagedError("its contents are not those that were written")
    start = len(_MAGIC) + _LENGTH_BYTES
    end = start + int.from_bytes(body[len(_MAGIC) : start], "little")
    head = json.loads(bytes(body[start:end]))
    blobs = {}
    for name, size in head["blobs"]:
        blobs[name] = body[end : end + size]
        end += size
    return head["facts"], blobs
