"""Calibration of untrained networks on images, shared by all ways of choosing filters.

A rule chooses the kernels, convolution by convolution; each filter's response is then scaled to
mean 0 and standard deviation 1 over the images, so that activations neither vanish nor overflow.

Source: Kraehenbuehl et al. 2016, "Data-dependent initializations of convolutional neural
networks", arXiv 1511.06856; the scaling itself is in `models.layers.Convolution`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from neuart_jax.models.layers import FitConvolution
from neuart_jax.models.params.catalog import FITTED, Normalization

PIXEL_UNIT = 64.0
"""Standard deviation of the responses without batch normalization: one unit of the input that is
standardized by `FITTED`, a quarter of white, where white is 255. A power of two avoids rounding."""


def standardize(images: npt.NDArray[Any], normalization: Normalization) -> npt.NDArray[Any]:
    """Subtract the mean and divide by the standard deviation of a network's input.

    Args:
      images: float[..., 3], sRGB in [0, 1].
      normalization: mean and standard deviation of red, green and blue.

    Returns:
      float[..., 3] of the same precision.
    """
    mean, std = (
        np.asarray(numbers, images.dtype).reshape((1,) * (images.ndim - 1) + (3,))
        for numbers in normalization
    )
    return (images - mean) / std


def calibrated_variables(
    make_module: Callable[..., Any],
    batch: npt.NDArray[np.float32],
    choose_kernel: FitConvolution,
    *,
    layers: Iterable[str],
) -> dict[str, Any]:
    """Initialize a network whose filters respond with mean 0 and a common standard deviation.

    The standard deviation is 1 for a network with batch normalization, as after training. A network
    without it passes the unit of its input on from layer to layer: trained networks of that kind
    see pixels from 0 to 255, so the standard deviation is `PIXEL_UNIT`. Features then have the
    magnitude that loss weights meant for such networks (the recipes in `presets`) assume.

    Batch normalizations keep mean 0, variance 1, scale 1 and bias 0, which are the statistics of
    their input, as each follows a calibrated convolution.

    Args:
      make_module: builds the linen module; called with `fit`.
      batch: float32[batch, height, width, 3], sRGB in [0, 1].
      choose_kernel: returns a convolution's kernel; called in the order of computation.
      layers: names of the requested layers.

    Returns:
      Linen variables of the layers up to the deepest, for input standardized with
      `catalog.FITTED`.
    """
    # All kernels are chosen, so the key is not used.
    variables = make_module(fit=choose_kernel).init(
        jax.random.key(0), jnp.asarray(standardize(batch, FITTED)), layers=tuple(layers)
    )
    return variables if "batch_stats" in variables else _scale(variables, PIXEL_UNIT)


def _scale(variables: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Scale all features of a chain of convolutions and ReLUs, which is homogeneous."""
    params = dict(variables["params"])
    for index, (name, layer) in enumerate(params.items()):
        # Linen keeps the order in which the layers were created.
        kernel = np.asarray(layer["kernel"]) * np.float32(factor if index == 0 else 1)
        bias = np.asarray(layer["bias"]) * np.float32(factor)
        params[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    return {"params": params}
