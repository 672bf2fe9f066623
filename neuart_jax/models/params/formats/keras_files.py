"""Keras weights files: the legacy .h5, Keras 3's .weights.h5, and .keras archives.

In all of them layers have the names of `keras.applications`, and the arrays of a layer are
identified by their order, not by their names.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import CanonicalParams, reading
from neuart_jax.models.params.conventions import (
    PREPROCESSING,
    Convention,
    canonicalize,
    find_preprocessing,
)
from neuart_jax.models.params.formats.reader_process import ReadFn, read_in_process
from neuart_jax.models.resnet50 import STAGES

_CONVENTION = Convention(
    layout="Keras .h5",
    kernel_axes="HWIO",
    preprocessing=PREPROCESSING["caffe"],
    epsilon=1.001e-5,
    stride_on="1x1",
    has_biases=True,
)

_VGG_ALIASES = {
    alias: layer
    for architecture in MODELS.values()
    if architecture.family == "vgg"
    for alias, layer in architecture.aliases.items()
}

Layers = dict[str, list[np.ndarray]]
"""Arrays of each layer, in Keras' order, by the layer's name in `keras.applications`."""


def read_keras_file(
    path: Path, *, model: str, preprocessing: str = "", read: ReadFn = read_in_process
) -> CanonicalParams:
    """Read a Keras file of any layout.

    Args:
      path: the file; its name doesn't matter.
      model: key of `models.MODELS`.
      preprocessing: "caffe", "torch", or empty for the usual one of this layout, "caffe". The file
        doesn't state it.
      read: function that reads the layers of a file.

    Raises:
      InputError: the file is damaged or of another format.
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
        document = read("keras", path)
        if document["layout"] == "Keras 3":
            convention = convention._replace(layout="Keras 3 .weights.h5")
        layers = _layers_by_name(document, model)
        return canonicalize(_name_arrays(layers), convention, model=model)


def _layers_by_name(document: dict[str, Any], model: str) -> Layers:
    """Map layers to their names in `keras.applications`.

    Since Keras 3.6 a layer's variables carry its name. Before, only a number identifies the layer,
    which counts the layers of a class in model order; HDF5 lists them in alphabetical order.
    """
    layers, known = document["layers"], _names_in_model_order(model)
    expected = {name for names in known.values() for name in names}
    is_named = document["layout"] == "legacy" or any(layer["name"] in expected for layer in layers)
    return {
        layer["name"] if is_named and layer["name"] else _name_by_number(layer["key"], known): (
            layer["arrays"]
        )
        for layer in layers
    }


def _names_in_model_order(model: str) -> dict[str, list[str]]:
    """Map Keras' layer classes to the names of a model's layers, in the order of Keras' count."""
    architecture = MODELS[model]
    if architecture.family == "vgg":
        return {"conv2d": [name for name in architecture.aliases if "conv" in name]}
    stems = ["conv1"]
    for stage, (_, num_blocks) in enumerate(STAGES, 2):
        for block in range(1, num_blocks + 1):
            # The shortcut is created first but listed by its depth in the graph.
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


def _name_arrays(layers: Layers) -> dict[str, np.ndarray]:
    """Map arrays to canonical variables; an unknown number of arrays becomes one entry."""
    named: dict[str, np.ndarray] = {}
    for layer, arrays in layers.items():
        # Keras' layer block4_conv2 has the parameters of our conv4_2 and relu4_2.
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
