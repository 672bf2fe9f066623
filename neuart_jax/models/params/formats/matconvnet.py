"""MatConvNet's .mat files of VGG: the original Oxford weights, for red-green-blue input.

Filters are [height, width, in, out]. The transposition of height and width found in many projects
mirrors every filter; it is not done here.
"""

from pathlib import Path

import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import Weights, reading
from neuart_jax.models.params.catalog import CAFFE, Normalization
from neuart_jax.models.params.conventions import (
    Convention,
    Preprocessing,
    canonicalize,
    find_preprocessing,
)
from neuart_jax.models.params.formats.reader_process import ReadFn, read_in_process

_USUAL = Preprocessing(CAFFE, "rgb")
_CONVENTION = Convention(
    layout="MatConvNet .mat",
    kernel_axes="HWIO",
    preprocessing=_USUAL,
    epsilon=0.0,
    stride_on="",
    has_biases=True,
)


def read_matconvnet(
    path: Path, *, model: str, preprocessing: str = "", read: ReadFn = read_in_process
) -> Weights:
    """Read MatConvNet's VGG, with its fields named as they are now or as they were in 2014.

    Args:
      path: the file; its name doesn't matter.
      model: row of `models.MODELS`.
      preprocessing: "caffe", "torch", or empty for the mean that the file states. Of either the
        channels are red, green and blue in this layout.
      read: what reads the layers of a file.

    Raises:
      InputError: the file is damaged, or not such a file, or another model is wanted.
    """
    if MODELS[model].family != "vgg":
        vggs = [name for name, architecture in MODELS.items() if architecture.family == "vgg"]
        raise InputError(
            f"{path} is a MatConvNet file, read for {' and '.join(vggs)} only",
            expected=f"a Keras or torchvision file of {model}",
            remedy=f"add --model={' or --model='.join(vggs)}, or give another --weights",
        )
    chosen = find_preprocessing(preprocessing, _USUAL)._replace(color_order="rgb")
    with reading(
        path,
        kind="MatConvNet weights",
        expected=f"a MatConvNet .mat file of {model}",
        remedy="get the file again, or give another --weights",
    ):
        document = read("matconvnet", path)
        if not preprocessing:
            chosen = chosen._replace(normalization=_find_normalization(document["mean"]))
        arrays = {
            f"params/{layer['name']}/{kind}": layer[kind]
            for layer in document["layers"]
            for kind in ("kernel", "bias")
        }
        return canonicalize(arrays, _CONVENTION._replace(preprocessing=chosen), model=model)


def _find_normalization(mean: np.ndarray | None) -> Normalization:
    """Read the mean pixel, which is three numbers now, and was an image of one color in 2014."""
    if mean is None:
        raise ValueError("it states no mean pixel; with --preprocessing=caffe the usual one is it")
    # The colors are the last axis, or the only one that is longer than 1.
    pixels = mean.reshape(-1, 3) if mean.shape[-1:] == (3,) else mean.reshape(1, 3)
    if not np.all((pixels >= 0) & (pixels <= 255)) or np.max(np.ptp(pixels, axis=0)) > 0.01:
        raise ValueError("its averageImage is not one color from 0 to 255")
    red, green, blue = (float(value) / 255 for value in pixels[0])
    if np.allclose((red, green, blue), CAFFE[0], rtol=0, atol=1e-6):
        return CAFFE  # But for float32.
    return (red, green, blue), CAFFE[1]
