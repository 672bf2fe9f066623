"""Errors, content losses and total variation: arrays in, scalar out, every divisor stated.

Symbols: F, P are the features float[height, width, channels] of the image being optimized and of
the target; N = channels; M = height * width positions. Style losses are in `style`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Below the energy of any real features, and far above float32's smallest normal number: it only
# keeps the relative losses of an all-zero target finite.
TINY = 1e-12


def sum_squared_error(values: Array, target: Array) -> Array:
    """Sum the squared differences of two arrays of one shape, in float32 or better."""
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    return jnp.sum(jnp.square(values.astype(dtype) - target.astype(dtype)))


class SquaredErrors(NamedTuple):
    """Sums over elements; the sums over parts of an array add up to those over the whole.

    Attributes:
      error: sum (F - P)^2, float[].
      energy: sum P^2, float[].
      num_elements: number of elements of F.
    """

    error: Array
    energy: Array
    num_elements: Array | int


def _measure_errors(values: Array, target: Array) -> SquaredErrors:
    energy = sum_squared_error(target, jnp.zeros_like(target))
    return SquaredErrors(sum_squared_error(values, target), energy, values.size)


def _relative(errors: SquaredErrors) -> Array:
    return errors.error / jnp.maximum(errors.energy, TINY)


def _mean(errors: SquaredErrors) -> Array:
    return errors.error / errors.num_elements


def relative_error(values: Array, target: Array) -> Array:
    """Compute sum (values - target)^2 / sum target^2, invariant to the scale of the features.

    A value of 1 means as far from the target as zeros. Finite for an all-zero target.
    """
    return _relative(_measure_errors(values, target))


def mean_squared_error(values: Array, target: Array) -> Array:
    """Compute the mean squared difference of two arrays of one shape."""
    return _mean(_measure_errors(values, target))


CONTENT_FORMULAS: dict[str, Callable[[SquaredErrors], Array]] = {
    # sum (F - P)^2 / sum P^2
    "relative": _relative,
    # sum (F - P)^2 / (M N)
    "mean": _mean,
    # sum (F - P)^2
    "sum": lambda errors: errors.error,
    # 1/2 sum (F - P)^2: Gatys et al. 2015, arXiv 1508.06576, equation (1)
    "gatys": lambda errors: 0.5 * errors.error,
    # sum (F - P)^2 / (4 M N): Premamayudu et al., "Improved artistic images by transfer learning"
    "quarter_mean": lambda errors: 0.25 * _mean(errors),
}
"""Content formulas, by name."""


def content_loss(formula: str, features: Array, target: Array) -> Array:
    """Compute a content loss of complete features.

    Args:
      formula: key of `CONTENT_FORMULAS`.
      features: F, float[height, width, channels].
      target: P, of the same shape.
    """
    return CONTENT_FORMULAS[formula](_measure_errors(features, target))


def smooth(features: Array, temperature: Array | float) -> Array:
    """Compute softmax(F / T) over all channels and positions together, times their number.

    Source: Wang, Li & Vasconcelos 2021, "Rethinking and improving the robustness of image style
    transfer", arXiv 2104.05623, equation (11).
    Differs from source: the factor N M, which makes the mean 1 at every size and keeps values in a
    good range of float32; and the temperature, which is 1 in the source.

    Args:
      features: F, float[height, width, channels].
      temperature: T, in the unit of the features, above 0.

    Returns:
      float of the same shape with mean 1, in float32 or better.
    """
    values = features.astype(jnp.promote_types(features.dtype, jnp.float32)) / temperature
    return jax.nn.softmax(values, axis=None).reshape(values.shape) * values.size


def total_variation(image: Array) -> Array:
    """Add the mean squared differences of vertical neighbors and of horizontal neighbors.

    Source: Mahendran & Vedaldi 2015, arXiv 1412.0035, equation (4) with beta = 2.
    Differs from source: a mean, so that the weight doesn't depend on the image's size.

    Args:
      image: float[height, width, channels], each side at least 1 (a single row has no neighbors).
    """
    return _over_steps(image, lambda step: jnp.mean(jnp.square(step)))


def half_sum_total_variation(image: Array) -> Array:
    """Compute 1/2 sum of squared differences, the loss behind jcjohnson/neural-style's gradient."""
    return _over_steps(image, lambda step: 0.5 * jnp.sum(jnp.square(step)))


def absolute_total_variation(image: Array) -> Array:
    """Sum the absolute differences of neighbors: Rudin, Osher & Fatemi 1992, anisotropic."""
    return _over_steps(image, lambda step: jnp.sum(jnp.abs(step)))


def _over_steps(image: Array, measure: Callable[[Array], Array]) -> Array:
    steps = (image[1:] - image[:-1], image[:, 1:] - image[:, :-1])
    return sum((measure(step) for step in steps if step.size), jnp.zeros(()))


def range_penalty(image: Array) -> Array:
    """Compute the mean squared distance of pixel values from the range [0, 1] of image files.

    Args:
      image: float[height, width, channels].
    """
    return jnp.mean(jnp.square(image - jnp.clip(image, 0, 1)))


TV_LOSSES: dict[str, Callable[[Array], Array]] = {
    "mean_squares": total_variation,
    "half_sum_squares": half_sum_total_variation,
    "sum_absolute": absolute_total_variation,
}
"""Total variation formulas, by name, for an image whose white is `pixel_scale`."""
