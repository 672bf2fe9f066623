"""What a layout's numbers mean, and the one way from there to the canonical form.

A reader only finds out which of a file's arrays is which of ours; what happens to the numbers is
here: axes, order of the colors, missing biases, epsilon, mean and standard deviation.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS, find_architecture
from neuart_jax.models.params.canonical import FlatVariables, Weights, to_float32
from neuart_jax.models.params.catalog import CAFFE, Normalization
from neuart_jax.models.resnet50 import BATCH_NORM_EPSILON

TORCH: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The mean and the standard deviation of ImageNet's pixels, as torchvision states them."""

_FIRST_KERNELS = ("params/conv1_1/kernel", "params/conv1_conv/kernel")


class Preprocessing(NamedTuple):
    """What a network wants done to an image.

    Attributes:
      normalization: mean and standard deviation, red-green-blue, for sRGB in [0, 1].
      color_order: of the channels that the first kernel reads: "rgb" or "bgr".
    """

    normalization: Normalization
    color_order: str


PREPROCESSING = {"caffe": Preprocessing(CAFFE, "bgr"), "torch": Preprocessing(TORCH, "rgb")}
"""By the names that Keras gave them."""

NORMALIZATIONS: dict[str, Normalization] = {
    **{name: preprocessing.normalization for name, preprocessing in PREPROCESSING.items()},
    # What gordicaleksa/pytorch-neural-style-transfer feeds torchvision's weights.
    "torch255": (TORCH[0], CAFFE[1]),
}
"""What a network can be made to see, trained on it or not."""


class Convention(NamedTuple):
    """What the numbers of a layout mean.

    Attributes:
      layout: its name, for people.
      kernel_axes: order of a kernel's axes: H(eight), W(idth), I(n), O(ut).
      preprocessing: what the images went through.
      epsilon: what its batch normalization adds to the variance.
      stride_on: for ResNet50, see `models.resnet50.ResNet50`.
      has_biases: whether its convolutions have one each; else those not there are zero.
    """

    layout: str
    kernel_axes: str
    preprocessing: Preprocessing
    epsilon: float
    stride_on: str
    has_biases: bool


CAFFE_OVER_TORCH = 150.0
"""About how many times as large features of Oxford's VGGs are as those of torchvision's."""


def put_into_caffe_units(weights: Weights, *, model: str) -> Weights:
    """Make features as large as Oxford's, where the weights are torchvision's VGGs'.

    A network of convolutions, ReLUs and pooling is homogeneous in its first kernel and all biases:
    every feature becomes the same multiple of itself.

    Args:
      weights: of a VGG as torchvision trained it; others are returned as they are.
      model: row of `models.MODELS`.
    """
    if find_architecture(model).family != "vgg" or weights.normalization != TORCH:
        return weights
    scaled = {
        path: array * np.float32(CAFFE_OVER_TORCH)
        if path in _FIRST_KERNELS or path.endswith("/bias")
        else array
        for path, array in weights.variables.items()
    }
    return weights._replace(variables=scaled)


def find_preprocessing(name: str, usual: Preprocessing) -> Preprocessing:
    """Return the preprocessing called `name`, or the usual one for an empty name.

    Raises:
      InputError: there is no such preprocessing.
    """
    if not name:
        return usual
    if name not in PREPROCESSING:
        raise InputError(
            f"preprocessing {name!r} is not known",
            expected="one of " + ", ".join(PREPROCESSING),
            remedy="leave it out for what the file's layout usually means",
        )
    return PREPROCESSING[name]


def canonicalize(
    arrays: Mapping[str, np.ndarray], convention: Convention, *, model: str
) -> Weights:
    """Bring a file's numbers into canonical form.

    An array with another number of axes than its name promises stays as it is, for
    `canonical.check_variables` to find.

    Args:
      arrays: path of the canonical variable to the file's array, of any float format.
      convention: what the numbers mean.
      model: row of `models.MODELS`.

    Raises:
      ValueError: some are no floating-point numbers.
    """
    variables: FlatVariables = {}
    for path, array in arrays.items():
        layer, _, kind = path.rpartition("/")
        if kind == "kernel" and array.ndim == 4:
            array = array.transpose([convention.kernel_axes.index(axis) for axis in "HWIO"])
            if path in _FIRST_KERNELS and convention.preprocessing.color_order == "bgr":
                array = array[:, :, ::-1]
            if not convention.has_biases:
                zeros = np.zeros(array.shape[-1], np.float32)
                variables.setdefault(f"{layer}/bias", zeros)
        variables[path] = to_float32(array)
        if kind == "var":
            # 1 / sqrt(var + epsilon) is the same number for the network's own epsilon.
            variables[path] += np.float32(convention.epsilon - BATCH_NORM_EPSILON)
    return Weights(
        variables,
        convention.preprocessing.normalization,
        convention.stride_on if "stride_on" in MODELS[model].options else "",
        {"layout": convention.layout},
    )
