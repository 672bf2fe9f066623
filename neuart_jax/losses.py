"""The losses: arrays in, scalar out. Every formula and every divisor of the project is here.

Symbols: F, P are the features float[..., height, width, channels] of the image being made and of
the target; N = channels; M = height * width positions; G, A are their Gram matrices.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Loss = Callable[[Array, Array], Array]


class StyleLoss(NamedTuple):
    """A style formula: what it keeps of a layer, and how it compares two of that.

    Attributes:
      statistic: features float[height, width, channels] -> any pytree without positions.
      compare: (statistic, target's statistic, M, the image's number of positions) -> scalar.
    """

    statistic: Callable[[Array], Any]
    compare: Callable[[Any, Any, int], Array]


# Below any energy that real features have, and far above float32's smallest normal number: it only
# keeps the relative losses of an all-zero target finite.
_TINY = 1e-12


def gram_matrix(features: Array, *, divisor: Literal["positions", "elements", "none"]) -> Array:
    """Compute the channels' inner products over positions, G_ij = sum_k F_ik F_jk / divisor.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (3), which has no divisor.

    Args:
      features: float[height, width, channels].
      divisor: "positions" divides by M, so that images of different sizes can be compared;
        "elements" by N M; "none" leaves the sum.

    Returns:
      float[channels, channels], accumulated in float32 or better whatever the features' dtype:
      an entry easily passes float16's 65,504.
    """
    height, width, channels = features.shape
    products = _inner_products(features.reshape(height * width, channels))
    sizes = {"positions": height * width, "elements": height * width * channels, "none": 1}
    return products / sizes[divisor]


@jax.custom_jvp
def _inner_products(positions: Array) -> Array:
    return _multiply_transposed(positions, positions)


@_inner_products.defjvp
def _inner_products_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The automatic rule takes two products, of which one is the other's transpose.
    (positions,), (tangent,) = primals, tangents
    half = _multiply_transposed(tangent, positions)
    return _inner_products(positions), half + half.T


def _multiply_transposed(left: Array, right: Array) -> Array:
    return jnp.einsum(
        "pi,pj->ij",
        left,
        right,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )


def sum_squared_error(values: Array, target: Array) -> Array:
    """Sum the squared differences of two arrays of one shape, in float32 or better."""
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    return jnp.sum(jnp.square(values.astype(dtype) - target.astype(dtype)))


def relative_error(values: Array, target: Array) -> Array:
    """Compute sum (values - target)^2 / sum target^2: free of the scale of network and picture.

    1 means as far from the target as zero is. Finite for an all-zero target.
    """
    energy = sum_squared_error(target, jnp.zeros_like(target))
    return sum_squared_error(values, target) / jnp.maximum(energy, _TINY)


def mean_squared_error(values: Array, target: Array) -> Array:
    """Average the squared differences of two arrays of one shape."""
    return sum_squared_error(values, target) / values.size


def gatys_content_loss(features: Array, target: Array) -> Array:
    """Compute 1/2 sum (F - P)^2.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (1).

    Args:
      features: F, float[height, width, channels].
      target: P, of the same shape.
    """
    return 0.5 * sum_squared_error(features, target)


def quarter_mean_content_loss(features: Array, target: Array) -> Array:
    """Compute sum (F - P)^2 / (4 M N).

    Source: Premamayudu et al., "Improved artistic images by transfer learning".
    """
    return 0.25 * mean_squared_error(features, target)


CONTENT_LOSSES: dict[str, Loss] = {
    "relative": relative_error,
    "mean": mean_squared_error,
    "sum": sum_squared_error,
    "gatys": gatys_content_loss,
    "quarter_mean": quarter_mean_content_loss,
}
"""Content formulas over (F, P)."""


def mean_gram(features: Array) -> Array:
    """Compute G / M, the Gram matrix that no image size enters; see `gram_matrix`."""
    return gram_matrix(features, divisor="positions")


def _gram_loss(compare: Callable[[Array, Array, int], Array]) -> StyleLoss:
    return StyleLoss(mean_gram, compare)


def gaussian_statistic(features: Array) -> tuple[Array, Array]:
    """Compute the mean float[channels] and the covariance float[channels, channels]."""
    positions = features.reshape(-1, features.shape[-1]).astype(
        jnp.promote_types(features.dtype, jnp.float32)
    )
    mean = jnp.mean(positions, axis=0)
    return mean, mean_gram(features - mean.astype(features.dtype).reshape(1, 1, -1))


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
    ridge = 1e-4 * jnp.trace(target_covariance) / channels + _TINY
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


def _compare_gaussians(statistic: Any, target: Any, num_positions: int) -> Array:
    # Its authors average over channels, and the diagonal for the trace.
    of_means, of_covariances = gaussian_wasserstein(statistic, target)
    return (of_means + of_covariances) / statistic[0].shape[0]


def _compare_gaussians_relatively(statistic: Any, target: Any, num_positions: int) -> Array:
    of_means, of_covariances = gaussian_wasserstein(statistic, target)
    mean, covariance = target
    energy = jnp.sum(jnp.square(mean)) + jnp.trace(covariance)
    return (of_means + of_covariances) / jnp.maximum(energy, _TINY)


STYLE_LOSSES: dict[str, StyleLoss] = {
    # sum (G/M - A/M)^2 / sum (A/M)^2
    "relative": _gram_loss(lambda gram, target, m: relative_error(gram, target)),
    # 1/N^2 sum (G/M - A/M)^2: github.com/leongatys/PytorchNeuralStyleTransfer. The same as
    # sum (G/NM - A/NM)^2: github.com/gordicaleksa/pytorch-neural-style-transfer
    "mean": _gram_loss(lambda gram, target, m: mean_squared_error(gram, target)),
    # sum (G/M - A/M)^2
    "sum": _gram_loss(lambda gram, target, m: sum_squared_error(gram, target)),
    # 1/2 sum (G - A)^2, both times the image's M where the pictures' sizes differ.
    "half_sum": _gram_loss(lambda gram, target, m: 0.5 * m**2 * sum_squared_error(gram, target)),
    # sum (G - A)^2 / (4 N^2 M^2): Gatys et al. 2015, arXiv 1508.06576, equation (4). It doesn't
    # say which M it means where the pictures' sizes differ; here each Gram has its own.
    "gatys": _gram_loss(lambda gram, target, m: 0.25 * mean_squared_error(gram, target)),
    # 1/N^2 sum (G/NM - A/NM)^2: github.com/jcjohnson/neural-style
    "mean_elements": _gram_loss(
        lambda gram, target, m: mean_squared_error(gram, target) / gram.shape[0] ** 2
    ),
    # (|m-m'|^2 + tr(...)) / N, see `gaussian_wasserstein`
    "wasserstein": StyleLoss(gaussian_statistic, _compare_gaussians),
    # (|m-m'|^2 + tr(...)) / (|m'|^2 + tr S')
    "relative_wasserstein": StyleLoss(gaussian_statistic, _compare_gaussians_relatively),
}
"""Style formulas, by name. G and A are Gram matrices of the image and of the style."""


def smooth(features: Array, temperature: Array | float) -> Array:
    """Compute softmax(F / T) over all channels and positions together, times their number.

    Source: Wang, Li & Vasconcelos 2021, "Rethinking and improving the robustness of image style
    transfer", arXiv 2104.05623, equation (11).
    Differs from source: the factor N M, so that the mean is 1 at every size and the values stay
    in float32's good range; and the temperature, which is 1 there.

    Args:
      features: F, float[height, width, channels].
      temperature: T, in the features' own unit, above 0.

    Returns:
      float of the same shape with mean 1, in float32 or better.
    """
    values = features.astype(jnp.promote_types(features.dtype, jnp.float32)) / temperature
    return jax.nn.softmax(values, axis=None).reshape(values.shape) * values.size


def total_variation(image: Array) -> Array:
    """Average the squared steps between vertical neighbors, add the same of horizontal ones.

    Source: Mahendran & Vedaldi 2015, arXiv 1412.0035, equation (4) with beta = 2.
    Differs from source: a mean, so that the weight doesn't depend on the picture's size.

    Args:
      image: float[height, width, channels], each side of at least 1 (a single row has no steps).
    """
    return _over_steps(image, lambda step: jnp.mean(jnp.square(step)))


def half_sum_total_variation(image: Array) -> Array:
    """Compute 1/2 sum of squared steps, whose gradient jcjohnson/neural-style adds."""
    return _over_steps(image, lambda step: 0.5 * jnp.sum(jnp.square(step)))


def absolute_total_variation(image: Array) -> Array:
    """Sum the absolute steps: Rudin, Osher & Fatemi 1992, anisotropic."""
    return _over_steps(image, lambda step: jnp.sum(jnp.abs(step)))


def _over_steps(image: Array, measure: Callable[[Array], Array]) -> Array:
    steps = (image[1:] - image[:-1], image[:, 1:] - image[:, :-1])
    return sum((measure(step) for step in steps if step.size), jnp.zeros(()))


TV_LOSSES: dict[str, Callable[[Array], Array]] = {
    "mean_squares": total_variation,
    "half_sum_squares": half_sum_total_variation,
    "sum_absolute": absolute_total_variation,
}
"""Total variation formulas over an image whose white is `pixel_scale`."""
