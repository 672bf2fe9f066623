"""Keras' weights files: the "legacy" .h5, Keras 3's .weights.h5, and its .keras archives.

Whatever a file's spelling, its layers have the names that `keras.applications` gives them, and
within a layer the arrays' order is what counts, not their names.
"""

import contextlib
import io
import mmap
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import Weights, reading
from neuart_jax.models.params.conventions import (
    PREPROCESSING,
    Convention,
    canonicalize,
    find_preprocessing,
)
from neuart_jax.models.params.formats.hdf5_names import read_names
from neuart_jax.models.resnet50 import STAGES

ARCHIVE_MEMBER = "model.weights.h5"
"""Where a .keras archive has its weights."""

_TOP_LAYERS = ("fc1", "fc2", "predictions", "probs", "fc1000")
_CONVENTION = Convention(
    layout="Keras .h5",
    kernel_axes="HWIO",
    preprocessing=PREPROCESSING["caffe"],
    epsilon=1.001e-5,
    stride_on="1x1",
    has_biases=True,
)
# A .keras archive holds its weights as they are. One that somebody packed anew is smaller, but
# numbers like these never shrink to a quarter.
_MOST_EXPANSION = 4

_VGG_ALIASES = {
    alias: layer
    for architecture in MODELS.values()
    if architecture.family == "vgg"
    for alias, layer in architecture.aliases.items()
}

Layers = dict[str, list[np.ndarray]]
"""A layer's name in `keras.applications` to its arrays, in Keras' order."""


def read_keras_file(path: Path, *, model: str, preprocessing: str = "") -> Weights:
    """Read a Keras file of any layout.

    Args:
      path: the file; its name doesn't matter.
      model: row of `models.MODELS`.
      preprocessing: "caffe", "torch", or empty for what such files usually want, "caffe". The
        layout doesn't show it.

    Raises:
      InputError: the file is damaged, or not such a file.
    """
    convention = _CONVENTION._replace(
        preprocessing=find_preprocessing(preprocessing, _CONVENTION.preprocessing)
    )
    with reading(
        path,
        kind="Keras weights",
        expected=f"a Keras .h5 weights file of {model}",
        remedy="get the file again, or give another --weights",
    ):
        with _open(path) as (opened, content), h5py.File(opened, "r") as file:
            if "layers" in file:
                convention = convention._replace(layout="Keras 3 .weights.h5")
                layers = dict(_layers_of_keras_3(_follow(file, "layers"), content, model))
            else:
                layers = dict(_layers_of_legacy(file, content))
        return canonicalize(_name_arrays(layers), convention, model=model)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[Any, memoryview]]:
    """Yield what h5py opens, and the same file's bytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(ARCHIVE_MEMBER)
            if member.file_size > _MOST_EXPANSION * path.stat().st_size:
                raise ValueError(f"{ARCHIVE_MEMBER} would be {member.file_size:,} bytes")
            content = archive.read(member)
        yield io.BytesIO(content), memoryview(content)
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as view:
            yield path, view


def _layers_of_legacy(
    file: h5py.File, content: memoryview
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the layers of a legacy file: published or current spelling, weights or whole model."""
    root = _follow(file, "model_weights") if "model_weights" in file else file
    for layer in _names(root, "layer_names", content):
        if layer not in _TOP_LAYERS:
            group = _follow(root, layer)
            names = _names(group, "weight_names", content)
            yield layer, [_read_array(_follow(group, name), content) for name in names]


def _names(group: h5py.Group, name: str, content: memoryview) -> list[str]:
    """Read an attribute of names, which Keras splits into name0, name1, ... when it is long."""
    if name in group.attrs or f"{name}0" not in group.attrs:
        return read_names(group, name, content)
    names: list[str] = []
    number = 0
    while f"{name}{number}" in group.attrs:
        names += read_names(group, f"{name}{number}", content)
        number += 1
    return names


def _layers_of_keras_3(
    root: h5py.Group, content: memoryview, model: str
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the layers of `layers/<class>[_n]/vars/<i>`.

    From Keras 3.6 on "vars" has the layer's name. Before, only the number tells, which counts the
    layers of a class in the order of the model; HDF5 lists them in another, the alphabet's.
    """
    found = {}
    for key in root:
        group = _follow(root, key)
        if "vars" in group and len(_follow(group, "vars")):
            variables = _follow(group, "vars")
            names = read_names(variables, "name", content) if "name" in variables.attrs else [""]
            found[key] = names[0], variables
    known = _names_in_model_order(model)
    expected = {name for names in known.values() for name in names}
    is_named = any(name in expected for name, _ in found.values())
    for key, (name, variables) in found.items():
        layer = name if is_named and name else _name_by_number(key, known)
        if layer not in _TOP_LAYERS and not re.fullmatch(r"dense(_\d+)?", key):
            arrays = (_follow(variables, str(index)) for index in range(len(variables)))
            yield layer, [_read_array(array, content) for array in arrays]


def _names_in_model_order(model: str) -> dict[str, list[str]]:
    """Map Keras' classes to the names of a model's layers in the order that Keras counts them."""
    architecture = MODELS[model]
    if architecture.family == "vgg":
        return {"conv2d": [name for name in architecture.aliases if "conv" in name]}
    stems = ["conv1"]
    for stage, (_, num_blocks) in enumerate(STAGES, 2):
        for block in range(1, num_blocks + 1):
            # The shortcut is made first, and listed where its depth in the graph puts it.
            order = "1203" if block == 1 else "123"
            stems += [f"conv{stage}_block{block}_{index}" for index in order]
    return {
        "conv2d": [f"{stem}_conv" for stem in stems],
        "batch_normalization": [f"{stem}_bn" for stem in stems],
    }


def _name_by_number(key: str, known: dict[str, list[str]]) -> str:
    match = re.fullmatch(r"(\w+?)(?:_(\d{1,4}))?", key, re.ASCII)
    names = known.get(match[1], []) if match else []
    number = int(match[2] or 0) if match else 0
    return names[number] if number < len(names) else key


def _follow(group: h5py.Group, path: str) -> Any:
    """Return what lies at a path, which never leaves the file: links of HDF5 may name others."""
    for part in path.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise KeyError(part)
        group = group[part]
    return group


def _read_array(dataset: h5py.Dataset, content: memoryview) -> np.ndarray:
    """Read an array of floating-point numbers that is no larger than the file says it is."""
    if dataset.dtype.kind != "f":
        raise ValueError(f"numbers of the format {dataset.dtype} are no weights")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} is in another file")
    if dataset.nbytes > len(content):
        raise ValueError(f"{dataset.name} would be {dataset.nbytes:,} bytes")
    return np.asarray(dataset[()])


def _name_arrays(layers: Layers) -> dict[str, np.ndarray]:
    """Name a layer's arrays as canonical variables; of an unknown number only the first."""
    named: dict[str, np.ndarray] = {}
    for layer, arrays in layers.items():
        # Keras' layer block4_conv2 holds what feeds both our conv4_2 and relu4_2.
        name = _VGG_ALIASES.get(layer, layer).replace("relu", "conv")
        if len(arrays) == 2:
            paths = [f"params/{name}/{kind}" for kind in ("kernel", "bias")]
        elif len(arrays) == 4:
            paths = [f"params/{name}/{kind}" for kind in ("scale", "bias")]
            paths += [f"batch_stats/{name}/{kind}" for kind in ("mean", "var")]
        else:
            paths = [f"params/{name}/{len(arrays)} arrays"][: len(arrays)]
        named |= dict(zip(paths, arrays, strict=False))
    return named
