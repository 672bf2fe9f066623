"""Held-out measures of quality, which a run did not optimize."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array
from skimage.color import rgb2gray, rgb2lab
from skimage.metrics import structural_similarity

from neuart_jax.config.config import Config
from neuart_jax.config.sections import LossConfig
from neuart_jax.models.features import make_feature_fn
from neuart_jax.models.params.load import Network
from neuart_jax.objective.build import make_terms, run_layers
from neuart_jax.objective.term import make_objective, make_targets

_NUM_DIRECTIONS = 32
_NUM_QUANTILES = 2048
_SMALLEST_SSIM_SIDE = 11


def luminance_similarity(image: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Compute the mean structural similarity (SSIM) of two images' luminance.

    Source: Wang, Bovik, Sheikh & Simoncelli 2004, "Image quality assessment: from error visibility
    to structural similarity", with its Gaussian window of 11x11 and standard deviation 1.5.
    Luminance is 0.2125 R + 0.7154 G + 0.0721 B of the sRGB numbers.

    Args:
      image: float[height, width, 3], sRGB in [0, 1].
      reference: image of the same shape.

    Returns:
      1 for equal images, about 0 for unrelated ones; NaN for sides below 11 pixels.
    """
    return _similarity(_luminance(image), _luminance(reference))


def _luminance(image: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return rgb2gray(np.asarray(image, np.float64))


def _similarity(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    if min(first.shape) < _SMALLEST_SSIM_SIDE:
        return float("nan")
    return float(
        structural_similarity(
            first,
            second,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def color_distance(image: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Compute the distance between the color distributions of two images.

    The sliced Wasserstein-1 distance of the pixels' distributions in CIE L*a*b* (D65), times 2: the
    mean over directions of the area between the distribution functions of the projections. With
    this factor, the distance is 10 if every color of an image changes by a difference of 10 (CIE
    1976) in one direction; about 2 is just noticeable.

    Sources: Rubner, Tomasi & Guibas 2000, "The earth mover's distance as a metric for image
    retrieval" (over colors in L*a*b*); Rabin, Peyre, Delon & Bernot 2011, "Wasserstein barycenter
    and its application to texture mixing" (slices).

    Args:
      image: float[height, width, 3], sRGB in [0, 1].
      reference: float[height', width', 3], sRGB in [0, 1].
    """
    first, second = (
        rgb2lab(np.asarray(colors, np.float64)).reshape(-1, 3) for colors in (image, reference)
    )
    levels = (np.arange(_NUM_QUANTILES) + 0.5) / _NUM_QUANTILES
    areas = [
        np.mean(np.abs(_quantiles(first @ axis, levels) - _quantiles(second @ axis, levels)))
        for axis in _directions()
    ]
    return float(2 * np.mean(areas))


def _quantiles(values: npt.NDArray[Any], levels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.quantile(values, levels, method="inverted_cdf")


@functools.cache
def _directions() -> npt.NDArray[np.float64]:
    """Return unit vectors float64[directions, 3], evenly spread over a hemisphere (Fibonacci)."""
    index = np.arange(_NUM_DIRECTIONS) + 0.5
    height = index / _NUM_DIRECTIONS
    angle = np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


def feature_distances(
    config: Config,
    network: Network,
    image: npt.ArrayLike,
    *,
    content_image: npt.ArrayLike,
    style_image: npt.ArrayLike,
) -> dict[str, float]:
    """Compute the content and the style distance of an image in a network's features.

    Args:
      config: resolved configuration, whose formulas, layers and smoothing are used, but not its
        coefficients.
      network: network with the layers of `config`.
      image: float[height, width, 3], sRGB in [0, 1].
      content_image: content image of the same shape.
      style_image: float[height', width', 3], sRGB in [0, 1].

    Returns:
      The distances "content" and "style".
    """
    losses = dataclasses.replace(config.losses, content_weight=1.0, style_weight=1.0, tv_weight=0.0)
    judge = _make_judge(network.module, losses, run_layers(losses))
    images = (jnp.asarray(i, jnp.float32) for i in (image, content_image, style_image))
    terms = judge(network.params, *images)
    return {name: float(terms[name]) for name in ("content", "style")}


@functools.lru_cache(maxsize=8)
def _make_judge(
    module: Any, losses: LossConfig, layers: tuple[str, ...]
) -> Callable[..., dict[str, Array]]:
    terms = make_terms(losses)
    feature_fn = make_feature_fn(module, layers)
    objective = make_objective(feature_fn, terms)

    @jax.jit
    def judge(params: Any, image: Array, content: Array, style: Array) -> dict[str, Array]:
        targets = make_targets(
            terms,
            content_image=content,
            style_images=(style,),
            content_features=feature_fn(params, content),
            style_features=(feature_fn(params, style),),
        )
        return objective(image, params, targets)[1]

    return judge
