"""The canonical form of network parameters, whatever their origin.

Linen variables named as in `models`, kernels [height, width, in, out] for red-green-blue input, a
bias on every convolution, batch normalization with epsilon 1e-5; all float32. On disk: safetensors,
with everything needed to use and check the parameters in its metadata.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause, write_atomically
from neuart_jax.models import find_architecture
from neuart_jax.models.params.catalog import Normalization

FlatVariables = dict[str, np.ndarray]
"""Linen variables by path: "params/conv1_1/kernel"."""

FORMAT_VERSION = 2
"""Version of this package's files. The first version had neither this number nor hashes."""

_OWN_ENTRIES = ("model", "mean", "std", "stride_on", "format_version", "sha256")
_METADATA_HASH = "metadata"


class CanonicalParams(NamedTuple):
    """Network parameters in canonical form, and how to use them.

    Attributes:
      variables: path and float32 array of every variable.
      normalization: mean and standard deviation of the input, for sRGB in [0, 1].
      stride_on: for ResNet50, see `models.resnet50.ResNet50`; otherwise empty.
      provenance: origin of the parameters, for display and for the record of a result: "layout",
        "source" (a file's name), "source_sha256", "licence", "attribution", "normalized" etc.
    """

    variables: FlatVariables
    normalization: Normalization
    stride_on: str
    provenance: Mapping[str, str] = MappingProxyType({})


def nest(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Convert {"params/conv1_1/kernel": x} to {"params": {"conv1_1": {"kernel": x}}}."""
    tree: dict[str, Any] = {}
    for path, array in variables.items():
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    return tree


def digest_variables(variables: Mapping[str, np.ndarray]) -> str:
    """Return the hexadecimal SHA-256 of all arrays, independent of their order."""
    digest = hashlib.sha256()
    for _, array in sorted(variables.items()):
        # Without a copy: the arrays have hundreds of megabytes.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def flatten(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Invert `nest`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(
            flatten(value, prefix=f"{path}/") if isinstance(value, Mapping) else {path: value}
        )
    return flat


def variable_shapes(model: str, layers: Iterable[str] | None = None) -> dict[str, Any]:
    """Return shape and dtype, by path, of the variables that layers need; None: all layers."""
    architecture = find_architecture(model)
    names = architecture.layer_names
    deepest = len(names) if layers is None else max(map(names.index, layers))
    return {
        path: jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in architecture.variable_shapes().items()
        # Modules have the names of the layers they compute.
        if names.index(path.split("/")[1]) <= deepest
    }


def check_variables(
    given: Mapping[str, Any],
    *,
    needed: Mapping[str, Any],
    known: Mapping[str, Any],
    source: str,
) -> None:
    """Check that variables have the right names and shapes and are finite.

    Args:
      given: path and array of the variables read.
      needed: path and shaped object of the variables that the layers in use need.
      known: path and shaped object of all variables of the network; others are an error.
      source: the file's name, for the message.

    Raises:
      InputError: names or shapes differ, with the differences of both sides, or a number is not
        finite.
    """
    missing = sorted(set(needed) - set(given))
    unknown = sorted(set(given) - set(known))
    shapes = [
        f"{name} is {tuple(given[name].shape)} but should be {tuple(known[name].shape)}"
        for name in sorted(set(given) & set(known))
        if tuple(given[name].shape) != tuple(known[name].shape)
    ]
    differences = [
        f"{words}: {_shorten(names)}"
        for words, names in (
            ("not in the file", missing),
            ("only in the file", unknown),
            ("of another shape", shapes),
        )
        if names
    ]
    if differences:
        raise InputError(
            f"{source} doesn't fit the network ({'; '.join(differences)})",
            expected=f"{len(needed)} arrays of the network's shapes",
            remedy="check that --model and --weights belong together",
        )
    broken = [name for name in sorted(given) if not np.all(np.isfinite(given[name]))]
    if broken:
        raise InputError(
            f"{source} has numbers that are not finite in {_shorten(broken)}",
            expected="finite weights",
            remedy="get the file again",
        )


def _shorten(names: list[str], *, most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


@contextlib.contextmanager
def reading(path: Path, *, kind: str, expected: str, remedy: str) -> Iterator[None]:
    """Convert every exception in the block, which reads a file, to an `InputError`.

    Exceptions of any class are caught, as libraries raise nearly every class for damaged files.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} can't be read as {kind} ({brief_cause(error)})",
            expected=expected,
            remedy=remedy,
        ) from error


def read_safetensors(path: Path, *, model: str) -> CanonicalParams:
    """Read a file written by `write_safetensors`, including versions without hashes.

    Raises:
      InputError: the file is damaged, of another format or of another model, or a hash differs.
    """
    with reading(
        path,
        kind="weights of this project",
        expected="a .safetensors file with the metadata model, mean, std and stride_on",
        remedy="give a file converted by this project, or convert it again",
    ):
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            variables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        mean, std = (_three_numbers(name, metadata[name]) for name in ("mean", "std"))
        if min(std) <= 0:
            raise ValueError(f"std {metadata['std']!r} is not positive")
        stored_model, stride_on = metadata["model"], metadata["stride_on"]
        if stride_on not in ("", "1x1", "3x3"):
            raise ValueError(f"stride_on is {stride_on!r}")
        _check_hashes(metadata, variables)
        variables = {name: to_float32(array) for name, array in variables.items()}
    if stored_model != model:
        raise InputError(
            f"{path} holds weights of {stored_model}",
            expected=f"weights of {model}",
            remedy=f"add --model={stored_model} or give another --weights",
        )
    provenance = {name: text for name, text in metadata.items() if name not in _OWN_ENTRIES}
    return CanonicalParams(variables, (mean, std), stride_on, MappingProxyType(provenance))


def write_safetensors(path: Path, params: CanonicalParams, *, model: str) -> None:
    """Write parameters in canonical form, atomically.

    The metadata contain model, mean, std, stride_on and the provenance as plain text, a version,
    and "sha256": a JSON object with the hash of every array's bytes by name, and the hash of the
    other entries under "metadata". Equal parameters always give equal bytes.

    Raises:
      InputError: the file can't be written.
      ValueError: the provenance has an entry with a reserved name.
    """
    clashes = set(params.provenance) & set(_OWN_ENTRIES)
    if clashes:
        raise ValueError(f"provenance has entries with reserved names: {sorted(clashes)}")
    mean, std = (" ".join(repr(float(x)) for x in numbers) for numbers in params.normalization)
    metadata = {
        **params.provenance,
        "model": model,
        "mean": mean,
        "std": std,
        "stride_on": params.stride_on,
        "format_version": str(FORMAT_VERSION),
    }
    arrays = {name: to_float32(array) for name, array in sorted(params.variables.items())}
    metadata["sha256"] = json.dumps(_hashes(metadata, arrays))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": (start, end)}
    # Serialized here because safetensors shuffles the metadata, and equal parameters must give
    # equal bytes. As there, trailing spaces align the arrays to a multiple of eight bytes.
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with write_atomically(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.data)


def to_float32(array: np.ndarray) -> np.ndarray:
    """Convert floating-point numbers of any width to a new contiguous float32 array.

    Numbers too large for float32 become infinite, which `check_variables` detects.

    Raises:
      ValueError: the array's dtype is not a floating-point type.
    """
    # bfloat16 isn't a native numpy dtype; its kind is "V".
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(f"weights can't have the dtype {array.dtype}")
    with np.errstate(over="ignore"):
        return np.array(array, np.float32, order="C")


def _three_numbers(name: str, text: str) -> tuple[float, float, float]:
    numbers = tuple(float(word) for word in text.split())
    if len(numbers) != 3 or not np.all(np.isfinite(numbers)):
        raise ValueError(f"{name} {text!r} is not three numbers")
    return numbers[0], numbers[1], numbers[2]


def _hashes(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    words = {name: text for name, text in metadata.items() if name != "sha256"}
    return {
        _METADATA_HASH: hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest(),
        **{
            name: hashlib.sha256(np.ravel(array).view(np.uint8).data).hexdigest()
            for name, array in arrays.items()
        },
    }


def _check_hashes(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    version = metadata.get("format_version", "1")
    if version not in map(str, range(1, FORMAT_VERSION + 1)):
        raise ValueError(f"format_version is {version!r}, from a newer neuart_jax")
    if version == "1" and "sha256" not in metadata:
        return
    stated, actual = json.loads(metadata["sha256"]), _hashes(metadata, arrays)
    if stated != actual:
        wrong = [name for name in actual if stated.get(name) != actual[name]]
        raise ValueError(f"the hash doesn't match in {_shorten(wrong or sorted(stated))}")
