"""A program that reads the layers of Keras and MatConvNet files, run in a process of its own.

The libraries that read HDF5 and .mat files crash, hang or exhaust memory on some damaged files. So
`reader_process` runs this file as a program, which imports nothing else of this package (and so
starts in a fraction of a second), limits its own memory, and writes the arrays to its stdout.
"""

import contextlib
import importlib
import io
import json
import re
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

ARCHIVE_MEMBER = "model.weights.h5"
"""Name of the weights file in a .keras archive."""

TOP_LAYERS = ("fc1", "fc2", "predictions", "probs", "fc1000", "fc6", "fc7", "fc8")
"""Layers of classifiers in Keras and MatConvNet files, which are left out."""

REFUSED = 3
"""Exit code if the file can't be read; the output is then the reason."""

# A .keras archive stores its weights uncompressed. A recompressed archive is smaller, but weights
# never compress to a quarter.
_MOST_EXPANSION = 4

_DENSE = re.compile(r"dense(_\d+)?", re.ASCII)


def read_keras_layers(path: Path) -> dict[str, Any]:
    """Read a Keras file of any layout.

    Returns:
      "layout": "legacy" or "Keras 3". "layers": one dictionary per layer, in the file's order, with
      "arrays" in Keras' order; "name", which is empty if Keras 3 stored none; and "key", which for
      Keras 3 has class and number.

    Raises:
      Exception: the file is damaged or of another format; exceptions of any class.
    """
    import h5py

    with _open_archive(path) as (opened, num_bytes), h5py.File(opened, "r") as file:
        if "layers" in file:
            layers = _layers_of_keras_3(_follow(file, "layers"), num_bytes)
            return {"layout": "Keras 3", "layers": list(layers)}
        root = _follow(file, "model_weights") if "model_weights" in file else file
        return {"layout": "legacy", "layers": list(_layers_of_legacy(root, num_bytes))}


def read_matconvnet_layers(path: Path) -> dict[str, Any]:
    """Read a MatConvNet file, with the current field names or those of 2014.

    Returns:
      "layers": one dictionary per convolution, with "name", "kernel" [height, width, in, out] and
      "bias"; and "mean", the averageImage, or None if there is none.

    Raises:
      Exception: the file is damaged or of another format; exceptions of any class.
    """
    import scipy.io

    document = scipy.io.loadmat(
        path,
        variable_names=("layers", "meta", "normalization"),
        # MATLAB stores integral values as integers, whatever their class.
        mat_dtype=True,
        # MATLAB has no vectors, only rows and columns.
        simplify_cells=True,
    )
    layers = []
    for layer in document["layers"]:
        if layer["type"] == "conv" and layer["name"] not in TOP_LAYERS:
            if "weights" in layer:
                kernel, bias = layer["weights"]
            else:
                kernel, bias = layer["filters"], layer["biases"]
            arrays = {"kernel": _numbers(kernel), "bias": _numbers(bias)}
            layers.append({"name": str(layer["name"]), **arrays})
    normalization = document.get("meta", document).get("normalization")
    mean = None if normalization is None else np.asarray(normalization["averageImage"], np.float64)
    return {"layers": layers, "mean": mean}


READERS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "keras": ("h5py", read_keras_layers),
    "matconvnet": ("scipy.io", read_matconvnet_layers),
}
"""Library and reader of each kind of file; the library is imported before memory is limited."""


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[tuple[Any, int]]:
    """Yield a file that h5py can open, and its size in bytes."""
    if not zipfile.is_zipfile(path):
        yield path, path.stat().st_size
        return
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(ARCHIVE_MEMBER)
        if member.file_size > _MOST_EXPANSION * path.stat().st_size:
            raise ValueError(f"{ARCHIVE_MEMBER} would be {member.file_size:,} bytes")
        yield io.BytesIO(archive.read(member)), member.file_size


def _layers_of_legacy(root: Any, num_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the layers of a legacy file: published or current names, weights or whole model."""
    for layer in _names(root, "layer_names"):
        if layer not in TOP_LAYERS:
            group = _follow(root, layer)
            names = _names(group, "weight_names")
            arrays = [_read_array(_follow(group, name), num_bytes) for name in names]
            yield {"key": layer, "name": layer, "arrays": arrays}


def _layers_of_keras_3(root: Any, num_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the layers at `layers/<class>[_n]/vars/<i>`, where "vars" may have the layer's name."""
    for key in root:
        group = _follow(root, key)
        if _DENSE.fullmatch(key) or "vars" not in group:
            continue
        variables = _follow(group, "vars")
        (name,) = _names(variables, "name") if "name" in variables.attrs else [""]
        if len(variables) and name not in TOP_LAYERS:
            arrays = (_follow(variables, str(index)) for index in range(len(variables)))
            yield {"key": key, "name": name, "arrays": [_read_array(a, num_bytes) for a in arrays]}


def _names(group: Any, attribute: str) -> list[str]:
    """Read an attribute of names, which Keras splits into name0, name1, ... if it is long."""
    if attribute in group.attrs or f"{attribute}0" not in group.attrs:
        names = np.ravel(group.attrs[attribute]).tolist()
        if not all(isinstance(name, bytes | str) for name in names):
            raise ValueError(f"{attribute} holds no names")
        # Encode and decode again, as h5py lets invalid bytes through.
        return [(n if isinstance(n, bytes) else n.encode()).decode() for n in names]
    names = []
    number = 0
    while f"{attribute}{number}" in group.attrs:
        names += _names(group, f"{attribute}{number}")
        number += 1
    return names


def _follow(group: Any, path: str) -> Any:
    """Return the object at a path, without following HDF5 links to other files."""
    import h5py

    for part in path.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise KeyError(part)
        group = group[part]
    return group


def _read_array(dataset: Any, num_bytes: int) -> np.ndarray:
    """Read an array of floating-point numbers, which can't be larger than the file."""
    if dataset.dtype.kind != "f":
        raise ValueError(f"weights can't have the dtype {dataset.dtype}")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} is in another file")
    if dataset.nbytes > num_bytes:
        raise ValueError(f"{dataset.name} would be {dataset.nbytes:,} bytes")
    return _numbers(dataset[()])


def _numbers(array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind != "f":
        raise ValueError(f"weights can't have the dtype {array.dtype}")
    return array


def write_document(file: BinaryIO, document: Mapping[str, Any]) -> None:
    """Write a document of JSON values and arrays: JSON as an array of bytes, then the arrays."""
    arrays = []

    def number(value: Any) -> Any:
        arrays.append(value)
        return {"array": len(arrays) - 1}

    text = json.dumps(document, default=number).encode()
    for array in (np.frombuffer(text, np.uint8), *arrays):
        np.save(file, array, allow_pickle=False)


def load_document(file: BinaryIO) -> Any:
    """Read a document from `write_document`."""
    text = np.load(file, allow_pickle=False).tobytes()

    def fill(value: dict[str, Any]) -> Any:
        # JSON objects are parsed in the order in which they, and their arrays, were written.
        return np.load(file, allow_pickle=False) if value.keys() == {"array"} else value

    return json.loads(text, object_hook=fill)


def limit_memory(num_bytes: int) -> None:
    """Limit the memory of this process to `num_bytes` more than it has now.

    Without effect on systems without such limits (Windows; macOS accepts and ignores them).
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        # No core dump in the working folder for an expected crash.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(kind: str, path: str, num_bytes: str) -> int:
    """Read one file and write its document to stdout, or the reason why it can't be read."""
    library, read = READERS[kind]
    importlib.import_module(library)
    limit_memory(int(num_bytes))
    # Ctrl-C is handled by the parent process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        document = read(Path(path))
    except MemoryError:
        reason = "it would take far more memory than the file has bytes"
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    else:
        write_document(sys.stdout.buffer, document)
        return 0
    sys.stdout.buffer.write(reason.encode(errors="replace"))
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
