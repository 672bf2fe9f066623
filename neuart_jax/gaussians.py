"""The Wasserstein distance of normal distributions, and square roots of matrices."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from neuart_jax.losses import TINY, sum_squared_error


def gaussian_wasserstein(
    statistic: tuple[Array, Array], target: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Compute both parts of the squared Wasserstein-2 distance between two normal distributions.

    |m - m'|^2 and tr(S + S' - 2 (S'^1/2 S S'^1/2)^1/2), where m, S and m', S' are the means and
    covariances.

    Source: Dowson & Landau 1982, "The Frechet distance between multivariate normal
    distributions"; for style transfer: github.com/crowsonkb/style-transfer-pytorch.
    Differs from source: 1e-4 of the target's mean variance is added to both covariances, where
    the latter adds 1e-4, so that the scale of the weights doesn't matter.

    Args:
      statistic: mean float32[channels] and covariance float32[channels, channels].
      target: likewise.
    """
    (mean, covariance), (target_mean, target_covariance) = statistic, target
    channels = mean.shape[0]
    ridge = 1e-4 * jnp.trace(target_covariance) / channels + TINY
    identity = jnp.eye(channels, dtype=covariance.dtype)
    covariance = covariance + ridge * identity
    target_covariance = target_covariance + ridge * identity
    root, _ = _square_roots(target_covariance)
    product = _matmul(_matmul(root, covariance), root)
    trace = jnp.trace(covariance) + jnp.trace(target_covariance) - 2 * trace_of_root(product)
    # Rounding can leave it just below zero where both are the same.
    return sum_squared_error(mean, target_mean), jnp.maximum(trace, 0)


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _square_roots(matrix: Array, *, rounds: int = 24) -> tuple[Array, Array]:
    """Compute the square root of a positive definite matrix, and its inverse.

    Source: the coupled Newton-Schulz iteration, Higham 2008, "Functions of Matrices", (6.35).
    """
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    # A bound of the largest eigenvalue; squares of small entries would be zero in float32.
    scale = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))

    def improve(pair: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        root, inverse = pair
        factor = 1.5 * identity - 0.5 * _matmul(inverse, root)
        return (_matmul(root, factor), _matmul(factor, inverse)), None

    (root, inverse), _ = lax.scan(improve, (matrix / scale, identity), length=rounds)
    return root * jnp.sqrt(scale), inverse / jnp.sqrt(scale)


@jax.custom_vjp
def trace_of_root(matrix: Array) -> Array:
    """Compute tr(A^1/2) of a positive definite matrix; its gradient is A^-1/2 / 2."""
    return jnp.trace(_square_roots(matrix)[0])


def _trace_of_root_forward(matrix: Array) -> tuple[Array, Array]:
    root, inverse = _square_roots(matrix)
    return jnp.trace(root), inverse


def _trace_of_root_backward(inverse: Array, cotangent: Array) -> tuple[Array]:
    return (0.5 * cotangent * inverse,)


trace_of_root.defvjp(_trace_of_root_forward, _trace_of_root_backward)
