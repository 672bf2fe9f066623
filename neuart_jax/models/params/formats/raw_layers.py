"""The arrays of Keras' and MatConvNet's files, as their layers hold them: for a process of its own.

The libraries that read HDF5 and .mat files crash, hang or fill the memory on some damaged ones. So
`reader_process` runs this file as a program, which imports nothing of this package (and so starts
in a fraction of a second), limits its own memory, and writes what it finds to its standard output.
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
"""Where a .keras archive has its weights."""

TOP_LAYERS = ("fc1", "fc2", "predictions", "probs", "fc1000", "fc6", "fc7", "fc8")
"""Classifiers' layers, in Keras' and in MatConvNet's files: left out."""

REFUSED = 3
"""Exit code when a file is no such file; the reason is all of the output then."""

# A .keras archive holds its weights as they are. One that somebody packed anew is smaller, but
# numbers like these never shrink to a quarter.
_MOST_EXPANSION = 4

_DENSE = re.compile(r"dense(_\d+)?", re.ASCII)


def read_keras_layers(path: Path) -> dict[str, Any]:
    """Read a Keras file of any layout.

    Returns:
      "layout": "legacy" or "Keras 3". "layers": one dictionary each, in the file's order, of
      "arrays" in Keras' order and "name", which is empty where Keras 3 gave none; and "key", which
      for Keras 3 has class and number.

    Raises:
      Exception: of any class: it is damaged, or no such file.
    """
    import h5py

    with _open_archive(path) as (opened, num_bytes), h5py.File(opened, "r") as file:
        if "layers" in file:
            layers = _layers_of_keras_3(_follow(file, "layers"), num_bytes)
            return {"layout": "Keras 3", "layers": list(layers)}
        root = _follow(file, "model_weights") if "model_weights" in file else file
        return {"layout": "legacy", "layers": list(_layers_of_legacy(root, num_bytes))}


def read_matconvnet_layers(path: Path) -> dict[str, Any]:
    """Read a MatConvNet file, with its fields named as they are now or as they were in 2014.

    Returns:
      "layers": one dictionary for each convolution of "name", "kernel" [height, width, in, out]
      and "bias"; and "mean", the averageImage, or None where there is none.

    Raises:
      Exception: of any class: it is damaged, or no such file.
    """
    import scipy.io

    document = scipy.io.loadmat(
        path,
        variable_names=("layers", "meta", "normalization"),
        # MATLAB stores whole numbers as such, whatever they are to it.
        mat_dtype=True,
        # Which has no vectors, only rows and columns.
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
"""A kind of files to the library that reads them, which is imported before memory is limited."""


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[tuple[Any, int]]:
    """Yield what h5py opens, and how many bytes it has."""
    if not zipfile.is_zipfile(path):
        yield path, path.stat().st_size
        return
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(ARCHIVE_MEMBER)
        if member.file_size > _MOST_EXPANSION * path.stat().st_size:
            raise ValueError(f"{ARCHIVE_MEMBER} would be {member.file_size:,} bytes")
        yield io.BytesIO(archive.read(member)), member.file_size


def _layers_of_legacy(root: Any, num_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the layers of a legacy file: published or current spelling, weights or whole model."""
    for layer in _names(root, "layer_names"):
        if layer not in TOP_LAYERS:
            group = _follow(root, layer)
            names = _names(group, "weight_names")
            arrays = [_read_array(_follow(group, name), num_bytes) for name in names]
            yield {"key": layer, "name": layer, "arrays": arrays}


def _layers_of_keras_3(root: Any, num_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the layers of `layers/<class>[_n]/vars/<i>`, whose "vars" may have the layer's name."""
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
    """Read an attribute of names, which Keras splits into name0, name1, ... when it is long."""
    if attribute in group.attrs or f"{attribute}0" not in group.attrs:
        names = np.ravel(group.attrs[attribute]).tolist()
        if not all(isinstance(name, bytes | str) for name in names):
            raise ValueError(f"{attribute} holds no names")
        # Texts that h5py has decoded may still be none: it lets any bytes through.
        return [(n if isinstance(n, bytes) else n.encode()).decode() for n in names]
    names = []
    number = 0
    while f"{attribute}{number}" in group.attrs:
        names += _names(group, f"{attribute}{number}")
        number += 1
    return names


def _follow(group: Any, path: str) -> Any:
    """Return what lies at a path, which never leaves the file: links of HDF5 may name others."""
    import h5py

    for part in path.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise KeyError(part)
        group = group[part]
    return group


def _read_array(dataset: Any, num_bytes: int) -> np.ndarray:
    """Read an array of floating-point numbers that is no larger than the file says it is."""
    if dataset.dtype.kind != "f":
        raise ValueError(f"numbers of the format {dataset.dtype} are no weights")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} is in another file")
    if dataset.nbytes > num_bytes:
        raise ValueError(f"{dataset.name} would be {dataset.nbytes:,} bytes")
    return _numbers(dataset[()])


def _numbers(array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind != "f":
        raise ValueError(f"numbers of the format {array.dtype} are no weights")
    return array


def write_document(file: BinaryIO, document: Mapping[str, Any]) -> None:
    """Write a document of JSON's values and arrays: JSON as an array of bytes, then the arrays."""
    arrays = []

    def number(value: Any) -> Any:
        arrays.append(value)
        return {"array": len(arrays) - 1}

    text = json.dumps(document, default=number).encode()
    for array in (np.frombuffer(text, np.uint8), *arrays):
        np.save(file, array, allow_pickle=False)


def load_document(file: BinaryIO) -> Any:
    """Undo `write_document`."""
    text = np.load(file, allow_pickle=False).tobytes()

    def fill(value: dict[str, Any]) -> Any:
        # JSON's objects come in the order in which they were written, and so do the arrays.
        return np.load(file, allow_pickle=False) if value.keys() == {"array"} else value

    return json.loads(text, object_hook=fill)


def limit_memory(num_bytes: int) -> None:
    """Have allocations fail that would take this process further than `num_bytes` from here.

    Where there are no such limits (Windows; macOS takes them and ignores them) nothing happens.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        # No core file in the working folder for a crash that is expected.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(kind: str, path: str, num_bytes: str) -> int:
    """Read one file and write its document, or the reason why there is none."""
    library, read = READERS[kind]
    importlib.import_module(library)
    limit_memory(int(num_bytes))
    # The terminal's Ctrl-C is for the process that waits for this one.
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
