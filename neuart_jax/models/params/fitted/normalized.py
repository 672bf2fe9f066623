"""Normalized VGG: every filter's mean activation over a set of images is 1.

Source: Gatys, Ecker & Bethge 2016, "Image style transfer using convolutional neural networks",
section 2. ReLU and both kinds of pooling commute with a positive scale per channel, so scaling a
filter and inversely scaling the next layer's weights for it leaves the network's function
unchanged, up to the scale of its layers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS, check_image_size
from neuart_jax.models.params.canonical import CanonicalParams, flatten, nest
from neuart_jax.models.params.catalog import Normalization
from neuart_jax.models.params.fitted.calibration import standardize
from neuart_jax.models.params.fitted.photographs import find_photographs, image_set_identity

_NORMALIZED = tuple(name for name, row in MODELS.items() if row.family == "vgg")

MeanActivations = dict[str, npt.NDArray[np.float64]]
"""Mean of each filter after the ReLU, float64[channels], by convolution ("conv1_1")."""


def check_model(model: str) -> None:
    """Check that a network can be normalized.

    Raises:
      InputError: the network isn't a VGG.
    """
    if model not in _NORMALIZED:
        raise InputError(
            f"only {' and '.join(_NORMALIZED)} can be normalized, not {model}",
            expected="a plain chain of convolutions, for which mean activations of 1 are defined",
            remedy=f"use --model={_NORMALIZED[0]}, or leave the normalization out",
        )


def normalize_weights(
    params: CanonicalParams, photographs: str, *, model: str, pooling: str, padding: str
) -> CanonicalParams:
    """Normalize VGG's weights over a set of photographs; see `normalize_vgg`.

    Args:
      params: parameters of the whole network or of its first layers.
      photographs: name of the set; see `photographs.find_photographs`.
      model: "vgg16" or "vgg19".
      pooling: "max" or "average"; see `models.vgg.VGG`.
      padding: "zero" or "reflect"; see `models.vgg.VGG`.

    Returns:
      The weights, with "normalized" in their provenance: the image set, pooling and padding.

    Raises:
      InputError: the weights are of another model, or the folder doesn't exist or has no image.
    """
    images = list(find_photographs(photographs))
    variables = normalize_vgg(
        nest(params.variables),
        images,
        model=model,
        normalization=params.normalization,
        pooling=pooling,
        padding=padding,
    )
    how = (
        f"mean activation 1 over the image set {image_set_identity(images)}, {pooling} pooling, "
        f"{padding} padding"
    )
    return params._replace(
        variables=flatten(variables), provenance={**params.provenance, "normalized": how}
    )


def normalize_vgg(
    variables: Mapping[str, Any],
    images: Iterable[npt.NDArray[Any]],
    *,
    model: str,
    normalization: Normalization,
    pooling: str,
    padding: str,
) -> dict[str, Any]:
    """Rescale VGG's filters to a mean activation of 1 over images and positions.

    W_l <- W_l mu_{l-1} / mu_l and b_l <- b_l / mu_l, where mu_l is the mean activation of each
    filter under the given weights, mu_{l-1} that of the filters it reads, and mu_0 = 1. For every
    image, the activations are those of the given network divided by mu, up to rounding. Their mean
    is 1 only with this pooling and padding and over these images.

    Args:
      variables: linen variables of VGG, at least one convolution and no gap between them.
      images: float[height, width, 3], sRGB in [0, 1], of any sizes; read once, one at a time.
      model: "vgg16" or "vgg19".
      normalization: mean and standard deviation of the network's input, which don't change.
      pooling: "max" or "average"; see `models.vgg.VGG`.
      padding: "zero" or "reflect"; see `models.vgg.VGG`.

    Returns:
      Variables of the same names, shapes and dtypes. A filter that is never active keeps its scale.

    Raises:
      InputError: see `mean_activations`.
    """
    means = mean_activations(
        variables,
        images,
        model=model,
        normalization=normalization,
        pooling=pooling,
        padding=padding,
    )
    read = np.ones(3)
    params = {}
    for name, mean in means.items():
        kernel, bias = (np.asarray(variables["params"][name][part]) for part in ("kernel", "bias"))
        # The inverse of a smaller number overflows in single precision.
        scale = np.where(mean > np.finfo(np.float32).tiny, mean, 1)
        params[name] = {
            "kernel": (kernel * (read.reshape(1, 1, -1, 1) / scale.reshape(1, 1, 1, -1))).astype(
                kernel.dtype
            ),
            "bias": (bias / scale).astype(bias.dtype),
        }
        read = scale
    return {"params": params}


def mean_activations(
    variables: Mapping[str, Any],
    images: Iterable[npt.NDArray[Any]],
    *,
    model: str,
    normalization: Normalization,
    pooling: str,
    padding: str,
) -> MeanActivations:
    """Compute every filter's mean activation after the ReLU, over images and positions.

    All positions count equally, so a large image counts more than a small one. In a file with the
    normalized network, all means are near 1.

    Args:
      variables: linen variables of VGG, at least one convolution and no gap between them.
      images: float[height, width, 3], sRGB in [0, 1], of any sizes; read once, one at a time.
      model: "vgg16" or "vgg19".
      normalization: mean and standard deviation of the network's input.
      pooling: "max" or "average"; see `models.vgg.VGG`.
      padding: "zero" or "reflect"; see `models.vgg.VGG`.

    Returns:
      The means for the convolutions in `variables`, in the order of computation.

    Raises:
      InputError: the variables are of another model, there is no image, or an image is too small.
    """
    convolutions = _convolutions_of(variables, model)
    layers = tuple(name.replace("conv", "relu") for name in convolutions)
    module = MODELS[model].make_module(pooling=pooling, padding=padding)

    @jax.jit
    def sum_rows(variables: Mapping[str, Any], image: Array) -> dict[str, Array]:
        # Rows are short enough for single precision; their sums are added in double precision.
        features = module.apply(variables, image, layers=layers)
        return {name: feature.sum(axis=1) for name, feature in features.items()}

    sums: dict[str, Any] = dict.fromkeys(layers, 0.0)
    counts = dict.fromkeys(layers, 0)
    num_images = 0
    for num_images, image in enumerate(images, 1):
        height, width = image.shape[:2]
        check_image_size(
            model,
            layers,
            height=height,
            width=width,
            padding=padding,
            name=f"image {num_images} of the set to normalize over",
        )
        for name, rows in sum_rows(dict(variables), standardize(image, normalization)).items():
            sums[name] = sums[name] + np.asarray(rows, np.float64).sum(axis=0)
            stride = MODELS[model].layer_stride(name)
            counts[name] += (height // stride) * (width // stride)
    if not num_images:
        raise InputError(
            "there is no image to normalize over",
            expected="at least one",
            remedy="give a folder with photographs",
        )
    return {
        convolution: sums[layer] / counts[layer]
        for convolution, layer in zip(convolutions, layers, strict=True)
    }


def _convolutions_of(variables: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """Return the convolutions that have parameters, in the order of computation."""
    given = set(variables.get("params", {}))
    names = [name for name in MODELS[model].layer_names if name.startswith("conv")]
    if not given or "batch_stats" in variables or given != set(names[: len(given)]):
        found = ", ".join(sorted(given)[:3]) or "nothing"
        raise InputError(
            f"{model} is to be normalized, and these weights have other layers ({found}, ...)",
            expected=f"the convolutions of {model} from {names[0]} on, without a gap: mean "
            "activations of 1 are defined for a plain chain of convolutions",
            remedy="give the --model of these weights, or leave the normalization out",
        )
    return tuple(names[: len(given)])
