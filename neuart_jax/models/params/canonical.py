"""The one form that a network's numbers have here, whoever published them.

Linen variables named as in `models`, kernels [height, width, in, out] for red-green-blue input, a
bias on every convolution, batch normalization with epsilon 1e-5; all float32. In a file:
safetensors, with all that is needed to use and to check them in its metadata.
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
"""Linen variables with their path as one name: "params/conv1_1/kernel"."""

FORMAT_VERSION = 2
"""Of our files. The first had neither this number nor hashes."""

_OWN_ENTRIES = ("model", "mean", "std", "stride_on", "format_version", "sha256")
_METADATA_HASH = "metadata"


class Weights(NamedTuple):
    """A network's numbers and what they need to be used right.

    Attributes:
      variables: path to float32 array.
      normalization: mean and standard deviation of the input, for sRGB in [0, 1].
      stride_on: for ResNet50, see `models.resnet50.ResNet50`; else empty.
      provenance: where the numbers come from, for people and for the record of a result: "layout",
        "source" (a file's name), "source_sha256", "licence", "attribution", "normalized" and such.
    """

    variables: FlatVariables
    normalization: Normalization
    stride_on: str
    provenance: Mapping[str, str] = MappingProxyType({})


def nest(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Turn {"params/conv1_1/kernel": x} into {"params": {"conv1_1": {"kernel": x}}}."""
    tree: dict[str, Any] = {}
    for path, array in variables.items():
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    return tree


def digest_variables(variables: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all numbers, in hexadecimal, whatever order they come in."""
    digest = hashlib.sha256()
    for _, array in sorted(variables.items()):
        # Without a copy: they are hundreds of megabytes.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def flatten(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Undo `nest`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(
            flatten(value, prefix=f"{path}/") if isinstance(value, Mapping) else {path: value}
        )
    return flat


def variable_shapes(model: str, layers: Iterable[str] | None = None) -> dict[str, Any]:
    """Return path to shape and dtype of the variables that layers need; None: the whole network."""
    architecture = find_architecture(model)
    names = architecture.layer_names
    deepest = len(names) if layers is None else max(map(names.index, layers))
    return {
        path: jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in architecture.variable_shapes().items()
        # Modules have the names of the layers that they compute.
        if names.index(path.split("/")[1]) <= deepest
    }


def check_variables(
    given: Mapping[str, Any],
    *,
    needed: Mapping[str, Any],
    known: Mapping[str, Any],
    source: str,
) -> None:
    """Check names, shapes and finiteness.

    Args:
      given: path to array, as read.
      needed: path to anything with a shape: what the layers in use want.
      known: the same for the whole network; more than that in a file is a mistake.
      source: the file's name, for the message.

    Raises:
      InputError: with both sides' differences.
    """
    missing = sorted(set(needed) - set(given))
    unknown = sorted(set(given) - set(known))
    shapes = [
        f"{name} is {tuple(given[name].shape)} and should be {tuple(known[name].shape)}"
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
    """Tell every failure of the block to read a file as an `InputError`.

    Of any class: the libraries that read weights answer a damaged file with nearly all there are.
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


def read_safetensors(path: Path, *, model: str) -> Weights:
    """Read what `write_safetensors` wrote, now or before there were hashes.

    Raises:
      InputError: the file is damaged, or not such a file, or of another model, or its numbers are
        not those that were written.
    """
    with reading(
        path,
        kind="weights of this project",
        expected="a .safetensors file with the metadata model, mean, std and stride_on",
        remedy="give a file that this project converted, or convert it again",
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
    return Weights(variables, (mean, std), stride_on, MappingProxyType(provenance))


def write_safetensors(path: Path, weights: Weights, *, model: str) -> None:
    """Write weights in canonical form, atomically.

    The metadata hold model, mean, std, stride_on and the provenance as plain words, a version, and
    "sha256": a JSON object of array's name to the hash of its bytes, and "metadata" to that of the
    other entries. The same weights always give the same bytes.

    Raises:
      InputError: the file can't be written.
      ValueError: the provenance has an entry of the format's own.
    """
    clashes = set(weights.provenance) & set(_OWN_ENTRIES)
    if clashes:
        raise ValueError(f"provenance has entries of the format's own: {sorted(clashes)}")
    mean, std = (" ".join(repr(float(x)) for x in numbers) for numbers in weights.normalization)
    metadata = {
        **weights.provenance,
        "model": model,
        "mean": mean,
        "std": std,
        "stride_on": weights.stride_on,
        "format_version": str(FORMAT_VERSION),
    }
    arrays = {name: to_float32(array) for name, array in sorted(weights.variables.items())}
    metadata["sha256"] = json.dumps(_hashes(metadata, arrays))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": (start, end)}
    # By hand, since safetensors shuffles the metadata: the same weights are always the same bytes.
    # Spaces at the end leave the numbers at a multiple of eight bytes, as it does.
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with write_atomically(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.data)


def to_float32(array: np.ndarray) -> np.ndarray:
    """Return float numbers of any width as a new contiguous float32 array.

    Too large for float32 becomes infinite, for `check_variables` to find.

    Raises:
      ValueError: these are no floating-point numbers.
    """
    # bfloat16 is no format of numpy's own, and of the kind "V".
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(f"numbers of the format {array.dtype} are no weights")
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
        raise ValueError(f"format_version is {version!r}, of a newer neuart_jax")
    if version == "1" and "sha256" not in metadata:
        return
    stated, actual = json.loads(metadata["sha256"]), _hashes(metadata, arrays)
    if stated != actual:
        wrong = [name for name in actual if stated.get(name) != actual[name]]
        raise ValueError(f"the hash doesn't match in {_shorten(wrong or sorted(stated))}")
