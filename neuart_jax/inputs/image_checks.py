"""Images that a program hands in as arrays, checked."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.config.errors import InputError


def check_image(image: npt.ArrayLike, *, name: str) -> Array:
    """Return an image as float32[height, width, 3].

    Raises:
      InputError: another shape, integers, or values that are not in [0, 1].
    """
    array = np.asarray(image)
    expected = "floats in [0, 1] of shape (height, width, 3)"
    if array.ndim != 3 or array.shape[-1] != 3 or min(array.shape) < 1:
        raise InputError(
            f"{name} has the shape {array.shape}",
            expected=expected,
            remedy="give one color picture, without a batch axis or transparency",
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
    # `jnp.asarray` compiles a program for every shape.
    return jax.device_put(np.asarray(array, np.float32))


def check_style_images(images: npt.ArrayLike | Sequence[npt.ArrayLike]) -> tuple[Array, ...]:
    """Return one style image or several as float32[height, width, 3] each.

    Raises:
      InputError: there is none, or one of them is no image; see `check_image`.
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
    """Return what messages call each of so many style images."""
    if count == 1:
        return ["the style image"]
    return [f"the style image {number}" for number in range(1, count + 1)]
