"""Weights files of others -> one canonical form, with a report of any mismatch.

Canonical: linen variables named as in `models`, kernels [height, width, in, out] for
red-green-blue input, a bias on every convolution, batch normalization with epsilon 1e-5.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import safetensors
import safetensors.numpy

from neuart_jax.errors import InputError
from neuart_jax.files import write_atomically
from neuart_jax.models import MODELS
from neuart_jax.params.catalog import CAFFE, Normalization

FlatVariables = dict[str, np.ndarray]
"""Linen variables with their path as one name: "params/conv1_1/kernel"."""

_KERAS_TOP_LAYERS = ("fc1", "fc2", "predictions", "probs", "fc1000")
_KERAS_EPSILON_EXCESS = 1.001e-5 - 1e-5
_FIRST_CONVOLUTIONS = ("params/conv1_1/kernel", "params/conv1_conv/kernel")


class Weights(NamedTuple):
    """A network's numbers and what they need to be used right.

    Attributes:
      variables: path to float32 array.
      normalization: mean and standard deviation of the input, for sRGB in [0, 1].
      stride_on: for ResNet50, see `models.resnet50.ResNet50`; else empty.
    """

    variables: FlatVariables
    normalization: Normalization
    stride_on: str


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


def flatten(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Undo `nest`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(
            flatten(value, prefix=f"{path}/") if isinstance(value, Mapping) else {path: value}
        )
    return flat


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


def _keras_group(file: h5py.File) -> h5py.Group:
    return file["model_weights"] if "model_weights" in file else file


def _attribute(group: h5py.Group, name: str) -> list[str]:
    """Read a list of names, which Keras splits into name0, name1, ... when it is long."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        parts = []
        while f"{name}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{name}{len(parts)}"])
        if not parts:
            raise KeyError(name)
    return [n.decode() if isinstance(n, bytes) else str(n) for part in parts for n in part]


def read_keras_h5(path: Path, *, model: str) -> Weights:
    """Read a Keras "legacy" .h5 file: published or current spelling, weights or whole model.

    Within a layer the arrays' order is what counts, not their names: kernel and bias of a
    convolution; gamma, beta, mean and variance of a batch normalization.

    Raises:
      InputError: the file is damaged, or not such a file.
    """
    try:
        with h5py.File(path, "r") as file:
            group = _keras_group(file)
            layers = {
                layer: [
                    np.asarray(group[layer][name], np.float32)
                    for name in _attribute(group[layer], "weight_names")
                ]
                for layer in _attribute(group, "layer_names")
                if layer not in _KERAS_TOP_LAYERS
            }
    # h5py answers a damaged file with nearly any of these.
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{path} can't be read as Keras weights ({error})",
            expected="a Keras .h5 weights file of " + model,
            remedy="get the file again, or give another --weights",
        ) from error
    aliases = MODELS[model].aliases
    variables: FlatVariables = {}
    for layer, arrays in layers.items():
        # Keras' VGG19 layer block4_conv2 holds what feeds both our conv4_2 and relu4_2.
        name = aliases.get(layer, layer).replace("relu", "conv")
        if len(arrays) == 2:
            variables |= {
                f"params/{name}/kernel": arrays[0],
                f"params/{name}/bias": arrays[1],
            }
        elif len(arrays) == 4:
            variables |= {
                f"params/{name}/scale": arrays[0],
                f"params/{name}/bias": arrays[1],
                f"batch_stats/{name}/mean": arrays[2],
                f"batch_stats/{name}/var": arrays[3] + np.float32(_KERAS_EPSILON_EXCESS),
            }
        elif arrays:
            variables[f"params/{name}/{len(arrays)} arrays"] = arrays[0]
    for first in _FIRST_CONVOLUTIONS:
        if first in variables and variables[first].ndim == 4:
            variables[first] = np.ascontiguousarray(variables[first][:, :, ::-1])
    return Weights(variables, CAFFE, "1x1" if model == "resnet50" else "")


def read_safetensors(path: Path, *, model: str) -> Weights:
    """Read what `write_safetensors` wrote.

    Raises:
      InputError: the file is damaged, or not such a file, or of another model.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            variables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        mean, std = (tuple(float(x) for x in metadata[k].split()) for k in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or not np.all(np.isfinite(mean + std)) or 0 in std:
            raise ValueError(f"mean {mean} and std {std} are not three numbers each")
        stored_model, stride_on = metadata["model"], metadata["stride_on"]
        if stride_on not in ("", "1x1", "3x3"):
            raise ValueError(f"stride_on is {stride_on!r}")
    # TypeError, AttributeError: a number format that numpy has no name for.
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        safetensors.SafetensorError,
    ) as error:
        raise InputError(
            f"{path} can't be read as weights of this project ({error or type(error).__name__})",
            expected="a .safetensors file with the metadata model, mean, std and stride_on",
            remedy="give a file that this project converted, or a Keras .h5",
        ) from error
    if stored_model != model:
        raise InputError(
            f"{path} holds weights of {stored_model}",
            expected=f"weights of {model}",
            remedy=f"add --model={stored_model} or give another --weights",
        )
    return Weights(
        {name: np.asarray(array, np.float32) for name, array in variables.items()},
        (mean, std),
        stride_on,
    )


def write_safetensors(path: Path, weights: Weights, *, model: str) -> None:
    """Write weights in canonical form, atomically.

    Raises:
      InputError: the file can't be written.
    """
    mean, std = (" ".join(repr(float(x)) for x in numbers) for numbers in weights.normalization)
    metadata = {"model": model, "mean": mean, "std": std, "stride_on": weights.stride_on}
    # It writes an array's memory as it lies there, whatever the axes' order is.
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.variables.items()}
    content = safetensors.numpy.save(arrays, metadata=metadata)
    with write_atomically(path) as file:
        file.write(content)
