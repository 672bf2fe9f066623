"""Wasserstein distance between normal distributions, and matrix square roots."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from neuart_jax.losses.elementwise import TINY, sum_squared_error

_LEAST_ROOTS = {"float32": 1e-3, "float64": 1e-7}
"""Ratio to the largest root above which roots of eigenvalues converge; smaller roots come out too
small.

For float32 features with fewer positions than channels, rounding produces eigenvalues of about
-1e-8. They grow as fast as small positive ones, and with 1e-4 instead of 1e-3 the iteration
diverged for VGG16's relu5_1. With 1e-3, the distance between two images' features was accurate to
2e-4 in each of its layers.
"""


NUM_PRINCIPAL = 256
"""Number of a style's principal components between which `principal_wasserstein` compares all
correlations. The root of a matrix of 256 rows takes a sixth of the time of one of 512 rows."""


class TargetGaussian(NamedTuple):
    """A normal distribution prepared for comparison with many others.

    Attributes:
      mean: float[channels].
      covariance: float[channels, channels].
      ridge: multiple of the identity added to both covariances, float[].
      axes: principal axes, the orthonormal columns of float[channels, channels], by decreasing
        variance.
      variances: variances along the axes, with the ridge, float[channels].
    """

    mean: Array
    covariance: Array
    ridge: Array
    axes: Array
    variances: Array


def make_target_gaussian(statistic: tuple[Array, Array]) -> TargetGaussian:
    """Precompute what `gaussian_wasserstein` needs of a target distribution.

    Args:
      statistic: mean float[channels] and covariance float[channels, channels].
    """
    mean, covariance = statistic
    ridge = 1e-4 * jnp.trace(covariance) / mean.shape[0] + TINY
    ascending, axes = jnp.linalg.eigh(covariance)
    variances = jnp.maximum(ascending[::-1], 0) + ridge
    return TargetGaussian(mean, covariance, ridge, axes[:, ::-1], variances)


def gaussian_wasserstein(
    statistic: tuple[Array, Array], target: TargetGaussian, *, num_principal: int | None = None
) -> tuple[Array, Array]:
    """Compute both parts of the squared Wasserstein-2 distance between two normal distributions.

    |m - m'|^2 and tr(S + S' - 2 (S'^1/2 S S'^1/2)^1/2), where m, S and m', S' are the means and
    covariances.

    Source: Dowson & Landau 1982, "The Frechet distance between multivariate normal
    distributions"; for style transfer: github.com/crowsonkb/style-transfer-pytorch.
    Differs from source: 1e-4 of the target's mean variance is added to both covariances, instead of
    1e-4 itself, so that the distance is invariant to the scale of the features. With
    `num_principal`, S lacks the covariances that involve components of smaller variance in the
    target; the distance is then at most that of the sources, and 0 for equal distributions.

    Args:
      statistic: mean float32[channels] and covariance float32[channels, channels].
      target: the other distribution.
      num_principal: number of the target's principal components between which S has all
        covariances, at least 1; of the others it has the variances only. None stands for all.
    """
    mean, covariance = statistic
    channels, first = mean.shape[0], slice(num_principal)
    # In the basis of the target's axes its root is diagonal.
    axes = target.axes[:, first]
    deviations = jnp.sqrt(target.variances)
    ridged = _matmul(axes.T, _matmul(covariance, axes)) + target.ridge * jnp.eye(
        axes.shape[1], dtype=covariance.dtype
    )
    root = trace_of_root(deviations[first, None] * ridged * deviations[None, first])
    if axes.shape[1] < channels:
        others = target.axes[:, num_principal:]
        variances = jnp.sum(others * _matmul(covariance, others), axis=0) + target.ridge
        root += jnp.sum(deviations[num_principal:] * jnp.sqrt(jnp.maximum(variances, TINY)))
    traces = jnp.trace(covariance) + jnp.trace(target.covariance) + 2 * channels * target.ridge
    # For equal distributions, rounding can make the trace slightly negative.
    return sum_squared_error(mean, target.mean), jnp.maximum(traces - 2 * root, 0)


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _stretches(least: float) -> list[float]:
    """Return the factors by which the estimate of the root is scaled before each iteration.

    Source: Chen & Chow 2014, "A stable scaling of Newton-Schulz for improving the sign function
    computation of a Hermitian matrix", Algorithm 2: for eigenvalues between `least` and 1, the
    factor makes the smallest and the largest equal after the iteration. Small eigenvalues grow by a
    factor of up to 2.6 per iteration, against 1.5 without scaling.
    """
    factors: list[float] = []
    while least < 1 - 1e-9:
        factor = float(np.sqrt(3 / (1 + least + least**2)))
        factors.append(factor)
        least = factor * least * (3 - (factor * least) ** 2) / 2
    return factors


class _Roots(NamedTuple):
    """An iteration before its last two products: the root is `root` @ `factor`.

    Attributes:
      root: estimate of the root of the matrix divided by `scale`, float[channels, channels].
      inverse: estimate of the inverse of the root.
      factor: factor of both in the last step.
      scale: scale of the matrix, float[].
    """

    root: Array
    inverse: Array
    factor: Array
    scale: Array


def _approach_roots(matrix: Array) -> _Roots:
    """Approach the square root of a positive definite matrix, and the root's inverse.

    Source: the coupled Newton-Schulz iteration, Higham 2008, "Functions of Matrices", (6.35), with
    the scaling of `_stretches`. All matrices are polynomials of the given one, so they commute and
    are symmetric.
    """
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    # A bound on the largest eigenvalue. Not the Frobenius norm, as squares of small entries
    # underflow in float32.
    scale = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
    root = matrix / scale

    def find_factor(product: Array, stretch: Array) -> Array:
        return stretch * (1.5 * identity - 0.5 * stretch**2 * product)

    def improve(pair: tuple[Array, Array], stretch: Array) -> tuple[tuple[Array, Array], None]:
        root, inverse = pair
        factor = find_factor(_matmul(inverse, root), stretch)
        return (_matmul(root, factor), _matmul(factor, inverse)), None

    stretches = jnp.asarray(_stretches(_LEAST_ROOTS[matrix.dtype.name]), matrix.dtype)
    # The inverse begins as the identity, which needs no products.
    inverse = find_factor(root, stretches[0])
    (root, inverse), _ = lax.scan(improve, (_matmul(root, inverse), inverse), stretches[1:-1])
    return _Roots(root, inverse, find_factor(_matmul(inverse, root), stretches[-1]), scale)


def _trace_root(roots: _Roots) -> Array:
    # The trace of a product of symmetric matrices, without the product.
    return jnp.sum(roots.root * roots.factor) * jnp.sqrt(roots.scale)


@jax.custom_vjp
def trace_of_root(matrix: Array) -> Array:
    """Compute tr(A^1/2) of a positive definite matrix; its gradient is A^-1/2 / 2."""
    return _trace_root(_approach_roots(matrix))


def _trace_of_root_forward(matrix: Array) -> tuple[Array, Array]:
    roots = _approach_roots(matrix)
    inverse = _matmul(roots.factor, roots.inverse) / jnp.sqrt(roots.scale)
    return _trace_root(roots), inverse


def _trace_of_root_backward(inverse: Array, cotangent: Array) -> tuple[Array]:
    return (0.5 * cotangent * inverse,)


trace_of_root.defvjp(_trace_of_root_forward, _trace_of_root_backward)
