"""What every way of making filters without training shares: images in, calibrated network out.

A rule chooses the kernels, convolution after convolution; each filter's response is then brought to
mean 0 and standard deviation 1 over the images, so that no layer fades or overflows.

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
"""Standard deviation of the responses without batch normalization: that of the standardized input,
`FITTED`'s quarter of white, where white is 255. A power of two, so that no number is rounded."""


def standardize(images: npt.NDArray[Any], normalization: Normalization) -> npt.NDArray[Any]:
    """Subtract the mean and divide by the standard deviation that a network's weights need.

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
    """Initialize a network whose filters respond with mean 0 and one standard deviation.

    That is 1 for a network with batch normalizations, as they have after training. One without
    passes its input's unit on from layer to layer: trained networks of that kind see pixels from 0
    to 255, so the deviation is `PIXEL_UNIT`. Losses whose weights are meant for such networks
    (the recipes in `presets`) then find features of that order.

    A batch normalization keeps mean 0, variance 1, scale 1 and bias 0. These are the statistics of
    what it gets, since every one follows a calibrated convolution.

    Args:
      make_module: builds the linen module; called with `fit`.
      batch: float32[batch, height, width, 3], sRGB in [0, 1].
      choose_kernel: gives a convolution's kernel; called in the order of computation.
      layers: names of the layers that are wanted.

    Returns:
      Linen variables of the layers up to the deepest, for input standardized with
      `catalog.FITTED`.
    """
    # With all kernels chosen nothing is drawn from this key.
    variables = make_module(fit=choose_kernel).init(
        jax.random.key(0), jnp.asarray(standardize(batch, FITTED)), layers=tuple(layers)
    )
    return variables if "batch_stats" in variables else _scale(variables, PIXEL_UNIT)


def _scale(variables: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Multiply all features of a chain of convolutions and ReLUs, which is homogeneous."""
    params = dict(variables["params"])
    for index, (name, layer) in enumerate(params.items()):
        # Linen keeps the order in which the layers were made.
        kernel = layer["kernel"] * (factor if index == 0 else 1.0)
        params[name] = {"kernel": kernel, "bias": layer["bias"] * factor}
    return {"params": params}
