"""Facts and blobs as one run of bytes that says itself whether it is the one that was written.

Plain data only: reading it runs nothing, whatever it holds. Layout: a magic line, the facts' length
(8 bytes, little-endian), the facts as JSON, the blobs one behind the other, and the SHA-256 of all
that came before.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

_MAGIC = b"neuart_jax sealed 1\n"
_LENGTH_BYTES, _DIGEST_BYTES = 8, hashlib.sha256().digest_size


class DamagedError(ValueError):
    """Bytes are not those that were written."""


def seal(facts: Mapping[str, Any], blobs: Mapping[str, memoryview]) -> Iterator[memoryview]:
    """Yield the parts of a sealed document, to be written one behind the other.

    Args:
      facts: plain JSON types; numbers that are not finite are kept.
      blobs: name to contiguous bytes, which aren't copied.
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
    """Return the facts and the blobs of a sealed document; the blobs are views of it.

    Raises:
      DamagedError: a byte of it is another one than was written, or there are more, or fewer.
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
