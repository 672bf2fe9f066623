"""Validation of images passed as arrays."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.config.errors import InputError


def check_image(image: npt.ArrayLike, *, name: str) -> Array:
    """Validate an image and return it as float32[height, width, 3].

    Args:
      image: float[height, width, 3], sRGB in [0, 1].
      name: name of the image in messages.

    Raises:
      InputError: the array has another shape, integers, or values outside [0, 1].
    """
    array = np.asarray(image)
    expected = "floats in [0, 1] of shape (height, width, 3)"
    if array.ndim != 3 or array.shape[-1] != 3 or min(array.shape) < 1:
        raise InputError(
            f"{name} has the shape {array.shape}",
            expected=expected,
            remedy="give one color image, without a batch axis or transparency",
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"{name} holds {array.dtype}",
            expected=expected,
            remedy="divide by 255 first if it holds bytes",
        )
    if not np.all((array >= 0) & (array <= 1)):
        raise InputError(
            f"{name} has values from {np.min(array):.4g} to {np.max(array):.4g}",
            expected=expected,
            remedy="scale or clip it first",
        )
    # Not `jnp.asarray`, which compiles a program for every shape.
    return jax.device_put(np.asarray(array, np.float32))


def check_style_images(images: npt.ArrayLike | Sequence[npt.ArrayLike]) -> tuple[Array, ...]:
    """Validate one or several style images and return each as float32[height, width, 3].

    Raises:
      InputError: there is no image, or one of them is invalid; see `check_image`.
    """
    several = isinstance(images, list | tuple) and (not images or np.ndim(images[0]) > 2)
    listed: Sequence[Any] = images if several else [images]  # type: ignore[assignment]
    if not listed:
        raise InputError(
            "there is no style image", expected="at least one", remedy="give one or more"
        )
    names = style_names(len(listed))
    return tuple(check_image(image, name=name) for image, name in zip(listed, names, strict=True))


def style_names(count: int) -> list[str]:
    """Return the names of style images in messages."""
    if count == 1:
        return ["the style image"]
    return [f"the style image {number}" for number in range(1, count + 1)]
