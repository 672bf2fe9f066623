"""Conventions of weights layouts, and the conversion to the canonical form.

A reader only maps a file's arrays to variables; the numbers are converted here: axes, order of the
colors, missing biases, epsilon, mean and standard deviation.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS, find_architecture
from neuart_jax.models.params.canonical import CanonicalParams, FlatVariables, to_float32
from neuart_jax.models.params.catalog import CAFFE, Normalization
from neuart_jax.models.resnet50 import BATCH_NORM_EPSILON

TORCH: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's pixels, as stated by torchvision."""

_FIRST_KERNELS = ("params/conv1_1/kernel", "params/conv1_conv/kernel")


class Preprocessing(NamedTuple):
    """Preprocessing of a network's input.

    Attributes:
      normalization: mean and standard deviation, red-green-blue, for sRGB in [0, 1].
      color_order: order of the channels that the first kernel reads: "rgb" or "bgr".
    """

    normalization: Normalization
    color_order: str


PREPROCESSING = {"caffe": Preprocessing(CAFFE, "bgr"), "torch": Preprocessing(TORCH, "rgb")}
"""Preprocessing of published weights, by Keras' names."""

NORMALIZATIONS: dict[str, Normalization] = {
    **{name: preprocessing.normalization for name, preprocessing in PREPROCESSING.items()},
    # As gordicaleksa/pytorch-neural-style-transfer feeds torchvision's weights.
    "torch255": (TORCH[0], CAFFE[1]),
}
"""Normalizations that can be chosen for any network, whatever it was trained with."""


class Convention(NamedTuple):
    """Conventions of a weights layout.

    Attributes:
      layout: name of the layout, for display.
      kernel_axes: order of a kernel's axes: H(eight), W(idth), I(n), O(ut).
      preprocessing: preprocessing of the training images.
      epsilon: epsilon of batch normalization, added to the variance.
      stride_on: for ResNet50, see `models.resnet50.ResNet50`.
      has_biases: whether all convolutions have a bias; otherwise missing biases are zero.
    """

    layout: str
    kernel_axes: str
    preprocessing: Preprocessing
    epsilon: float
    stride_on: str
    has_biases: bool


CAFFE_OVER_TORCH = 150.0
"""Approximate ratio of the features of Oxford's VGGs to those of torchvision's."""


def put_into_caffe_units(params: CanonicalParams, *, model: str) -> CanonicalParams:
    """Scale the features of torchvision's VGGs to the magnitude of Oxford's.

    A network of convolutions, ReLUs and pooling is homogeneous in its first kernel and all biases,
    so every feature is multiplied by the same factor.

    Args:
      params: parameters of a VGG trained by torchvision; others are returned unchanged.
      model: key of `models.MODELS`.
    """
    if find_architecture(model).family != "vgg" or params.normalization != TORCH:
        return params
    scaled = {
        path: array * np.float32(CAFFE_OVER_TORCH)
        if path in _FIRST_KERNELS or path.endswith("/bias")
        else array
        for path, array in params.variables.items()
    }
    return params._replace(variables=scaled)


def find_preprocessing(name: str, usual: Preprocessing) -> Preprocessing:
    """Return the preprocessing of a name, or the usual one for an empty name.

    Raises:
      InputError: there is no such preprocessing.
    """
    if not name:
        return usual
    if name not in PREPROCESSING:
        raise InputError(
            f"preprocessing {name!r} is not known",
            expected="one of " + ", ".join(PREPROCESSING),
            remedy="leave it out for the usual preprocessing of the file's layout",
        )
    return PREPROCESSING[name]


def canonicalize(
    arrays: Mapping[str, np.ndarray], convention: Convention, *, model: str
) -> CanonicalParams:
    """Convert a file's arrays to canonical form.

    An array with an unexpected number of axes is left unchanged, which `canonical.check_variables`
    detects.

    Args:
      arrays: path of the canonical variable and the file's array, of any floating-point dtype.
      convention: conventions of the file's layout.
      model: key of `models.MODELS`.

    Raises:
      ValueError: an array's dtype is not a floating-point type.
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
            # Keeps 1 / sqrt(var + epsilon) unchanged for the network's own epsilon.
            variables[path] += np.float32(convention.epsilon - BATCH_NORM_EPSILON)
    return CanonicalParams(
        variables,
        convention.preprocessing.normalization,
        convention.stride_on if "stride_on" in MODELS[model].options else "",
        {"layout": convention.layout},
    )
