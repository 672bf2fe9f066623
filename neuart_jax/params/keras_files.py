"""Keras' weights files: the "legacy" .h5, Keras 3's .weights.h5, and its .keras archives.

Whatever a file's spelling, its layers have the names that `keras.applications` gives them, and
within a layer the arrays' order is what counts, not their names.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neuart_jax.models import MODELS
from neuart_jax.models.resnet50 import STAGES
from neuart_jax.params.canonical import Weights, reading
from neuart_jax.params.conventions import (
    PREPROCESSING,
    Convention,
    canonicalize,
    find_preprocessing,
)

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
        content, size = _open(path)
        with h5py.File(content, "r") as file:
            if "layers" in file:
                convention = convention._replace(layout="Keras 3 .weights.h5")
                layers = dict(_layers_of_keras_3(file["layers"], size, model))
            else:
                layers = dict(_layers_of_legacy(file, size))
        return canonicalize(_name_arrays(layers), convention, model=model)


def _open(path: Path) -> tuple[Any, int]:
    """Return what h5py opens, and how many bytes it has."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        return path, size
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(ARCHIVE_MEMBER)
        if member.file_size > _MOST_EXPANSION * size:
            raise ValueError(f"{ARCHIVE_MEMBER} would be {member.file_size:,} bytes")
        return io.BytesIO(archive.read(member)), member.file_size


def _layers_of_legacy(file: h5py.File, size: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the layers of a legacy file: published or current spelling, weights or whole model."""
    root = _follow(file, "model_weights") if "model_weights" in file else file
    for layer in _names(root, "layer_names"):
        if layer not in _TOP_LAYERS:
            group = _follow(root, layer)
            names = _names(group, "weight_names")
            yield layer, [_read_array(_follow(group, name), size) for name in names]


def _names(group: h5py.Group, name: str) -> list[str]:
    """Read an attribute of names, which Keras splits into name0, name1, ... when it is long."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        parts = []
        while f"{name}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{name}{len(parts)}"])
        if not parts:
            raise KeyError(name)
    return [n.decode() if isinstance(n, bytes) else str(n) for part in parts for n in part]


def _layers_of_keras_3(
    root: h5py.Group, size: int, model: str
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
            found[key] = str(variables.attrs.get("name", "")), variables
    known = _names_in_model_order(model)
    is_named = any(name in names for name, _ in found.values() for names in known.values())
    for key, (name, variables) in found.items():
        layer = name if is_named and name else _name_by_number(key, known)
        if layer not in _TOP_LAYERS and not re.fullmatch(r"dense(_\d+)?", key):
            arrays = (_follow(variables, str(index)) for index in range(len(variables)))
            yield layer, [_read_array(array, size) for array in arrays]


def _names_in_model_order(model: str) -> dict[str, list[str]]:
    """Map Keras' classes to the names of a model's layers in the order that Keras counts them."""
    if model == "vgg19":
        aliases = MODELS[model].aliases
        return {"conv2d": [name for name in aliases if "conv" in name]}
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


def _read_array(dataset: h5py.Dataset, size: int) -> np.ndarray:
    """Read an array whose shape says no more than a file of `size` bytes can hold."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} is in another file")
    if dataset.nbytes > size:
        raise ValueError(f"{dataset.name} would be {dataset.nbytes:,} bytes")
    return np.asarray(dataset[()])


def _name_arrays(layers: Layers) -> dict[str, np.ndarray]:
    """Name a layer's arrays as canonical variables; of an unknown number only the first."""
    aliases = MODELS["vgg19"].aliases
    named: dict[str, np.ndarray] = {}
    for layer, arrays in layers.items():
        # Keras' VGG19 layer block4_conv2 holds what feeds both our conv4_2 and relu4_2.
        name = aliases.get(layer, layer).replace("relu", "conv")
        if len(arrays) == 2:
            paths = [f"params/{name}/{kind}" for kind in ("kernel", "bias")]
        elif len(arrays) == 4:
            paths = [f"params/{name}/{kind}" for kind in ("scale", "bias")]
            paths += [f"batch_stats/{name}/{kind}" for kind in ("mean", "var")]
        else:
            paths = [f"params/{name}/{len(arrays)} arrays"][: len(arrays)]
        named |= dict(zip(paths, arrays, strict=False))
    return named
