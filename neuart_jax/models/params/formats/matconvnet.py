"""MatConvNet's .mat files of VGG: the original Oxford weights, for red-green-blue input.

Filters are [height, width, in, out]. Many projects transpose height and width, which mirrors every
filter; that is wrong and not done here.
"""

from pathlib import Path

import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import CanonicalParams, reading
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
) -> CanonicalParams:
    """Read MatConvNet's VGG, with the current field names or those of 2014.

    Args:
      path: the file; its name doesn't matter.
      model: key of `models.MODELS`.
      preprocessing: "caffe", "torch", or empty for the mean that the file states. In this layout
        the channels are always red, green and blue.
      read: function that reads the layers of a file.

    Raises:
      InputError: the file is damaged or of another format, or another model is requested.
    """
    if MODELS[model].family != "vgg":
        vggs = [name for name, architecture in MODELS.items() if architecture.family == "vgg"]
        raise InputError(
            f"{path} is a MatConvNet file, which is read only for {' and '.join(vggs)}",
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
    """Parse the mean pixel: three numbers now, an image of a single color in 2014."""
    if mean is None:
        raise ValueError("it states no mean pixel; --preprocessing=caffe takes the usual one")
    # Colors are along the last axis, or along the only axis longer than 1.
    pixels = mean.reshape(-1, 3) if mean.shape[-1:] == (3,) else mean.reshape(1, 3)
    if not np.all((pixels >= 0) & (pixels <= 255)) or np.max(np.ptp(pixels, axis=0)) > 0.01:
        raise ValueError("its averageImage is not one color from 0 to 255")
    red, green, blue = (float(value) / 255 for value in pixels[0])
    if np.allclose((red, green, blue), CAFFE[0], rtol=0, atol=1e-6):
        return CAFFE  # Equal up to float32 rounding.
    return (red, green, blue), CAFFE[1]
