"""MatConvNet's .mat file of VGG19: the original Oxford weights, for red-green-blue input.

Filters are [height, width, in, out]. The transposition of height and width found in many projects
mirrors every filter; it is not done here.
"""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.io

from neuart_jax.errors import InputError
from neuart_jax.params.canonical import Weights, reading
from neuart_jax.params.catalog import CAFFE, Normalization
from neuart_jax.params.conventions import (
    Convention,
    Preprocessing,
    canonicalize,
    find_preprocessing,
)

_USUAL = Preprocessing(CAFFE, "rgb")
_CONVENTION = Convention(
    layout="MatConvNet .mat",
    kernel_axes="HWIO",
    preprocessing=_USUAL,
    epsilon=0.0,
    stride_on="",
    has_biases=True,
)
_TOP_LAYERS = ("fc6", "fc7", "fc8")
_HEADER_BYTES = 128
_COMPRESSED = 15
_PIECE = 2**20
# The whole network with its classifier has 575 MB.
_MOST_BYTES = 2**30


def read_matconvnet(path: Path, *, model: str, preprocessing: str = "") -> Weights:
    """Read MatConvNet's VGG19, with its fields named as they are now or as they were in 2014.

    Args:
      path: the file; its name doesn't matter.
      model: row of `models.MODELS`.
      preprocessing: "caffe", "torch", or empty for the mean that the file states. Of either the
        channels are red, green and blue in this layout.

    Raises:
      InputError: the file is damaged, or not such a file, or another model is wanted.
    """
    if model != "vgg19":
        raise InputError(
            f"{path} is a MatConvNet file, read for vgg19 only",
            expected=f"a Keras or torchvision file of {model}",
            remedy="add --model=vgg19 or give another --weights",
        )
    chosen = find_preprocessing(preprocessing, _USUAL)._replace(color_order="rgb")
    with reading(
        path,
        kind="MatConvNet weights",
        expected=f"a MatConvNet .mat file of {model}",
        remedy="get the file again, or give another --weights",
    ):
        with path.open("rb") as file:
            _check_elements(file)
        document = scipy.io.loadmat(
            path, variable_names=("layers", "meta", "normalization"), simplify_cells=True
        )
        if not preprocessing:
            chosen = chosen._replace(normalization=_find_normalization(document))
        arrays: dict[str, np.ndarray] = {}
        for layer in document["layers"]:
            if layer["type"] == "conv" and layer["name"] not in _TOP_LAYERS:
                kernel, bias = _kernel_and_bias(layer)
                arrays[f"params/{layer['name']}/kernel"] = kernel
                arrays[f"params/{layer['name']}/bias"] = bias
        return canonicalize(arrays, _CONVENTION._replace(preprocessing=chosen), model=model)


def _kernel_and_bias(layer: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    if "weights" in layer:
        kernel, bias = layer["weights"]
    else:
        kernel, bias = layer["filters"], layer["biases"]
    return np.asarray(kernel), np.asarray(bias)


def _find_normalization(document: Mapping[str, Any]) -> Normalization:
    """Read the mean pixel, which is three numbers now, and was a picture of one color in 2014."""
    normalization = document["meta"] if "meta" in document else document
    if "normalization" not in normalization:
        raise ValueError("it states no mean pixel; with --preprocessing=caffe the usual one is it")
    pixels = np.asarray(normalization["normalization"]["averageImage"], np.float64)
    pixels = pixels.reshape(-1, 3)
    if np.max(np.ptp(pixels, axis=0)) > 0.01 or not np.all((pixels >= 0) & (pixels <= 255)):
        raise ValueError("its averageImage is not one color from 0 to 255")
    red, green, blue = (float(value) / 255 for value in pixels[0])
    if np.allclose((red, green, blue), CAFFE[0], rtol=0, atol=1e-6):
        return CAFFE  # But for float32.
    return (red, green, blue), CAFFE[1]


def _check_elements(file: BinaryIO) -> None:
    """Check what scipy does not: compressed elements' sums, and that nothing is longer than it is.

    Source: MAT-File Format, "Level 5 MAT-File Format": after the header come elements of
    (type uint32, bytes uint32, content).
    """
    header = file.read(_HEADER_BYTES)
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128], "")
    if not order:
        raise ValueError("its header is damaged")
    end = file.seek(0, 2)
    position = file.seek(_HEADER_BYTES)
    total = 0
    while position < end:
        kind, length = struct.unpack(f"{order}II", file.read(8))
        position += 8 + length
        if position > end:
            raise ValueError("it is cut short")
        if kind == _COMPRESSED:
            total += _inflated_bytes(file, length, _MOST_BYTES - total)
        file.seek(position)


def _inflated_bytes(file: BinaryIO, length: int, most: int) -> int:
    """Inflate and forget `length` bytes, which also compares their checksum."""
    inflater = zlib.decompressobj()
    total = 0
    data = b""
    while not inflater.eof:
        data = inflater.unconsumed_tail
        if not data:
            data = file.read(min(_PIECE, length))
            length -= len(data)
        if not data:
            raise ValueError("it is cut short")
        total += len(inflater.decompress(data, _PIECE))
        if total > most:
            raise ValueError(f"it would be more than {_MOST_BYTES:,} bytes")
    return total
