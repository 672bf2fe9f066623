"""Photorealism regularizer: the matting Laplacian's energy.

An image stays photorealistic if, in every small window, its colors are an affine function of the
photograph's: edges stay in place, and no new structure is painted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.config.errors import InputError

_SIDE = 3
_WINDOW = tuple((y, x) for y in range(_SIDE) for x in range(_SIDE))
_PIXELS = len(_WINDOW)
_MARGIN = _SIDE - 1
# Offsets from a pixel to the later pixels, in row-major order, that share a window with it.
_OFFSETS = tuple((y, x) for y in range(_SIDE) for x in range(1 - _SIDE, _SIDE) if (y, x) > (0, 0))


class AffineGuide(NamedTuple):
    """The matting Laplacian L of a photograph.

    L is symmetric, has at most 25 nonzero entries per row, and its rows sum to zero, so it is
    determined by 12 numbers per pixel.

    Attributes:
      affinities: float32[12, height, width]: -L_ij of every pixel i and the 12 later pixels j, in
        row-major order, that share a 3x3 window with it; 0 where j is outside the image.
    """

    affinities: Array


def make_affine_guide(guide_image: Array, *, epsilon: float = 1e-7) -> AffineGuide:
    """Compute the matting Laplacian of a photograph, for `affine_energy`.

    W_ij = sum_k 1/9 (1 + (I_i - m_k)^T (S_k + epsilon/9)^-1 (I_j - m_k)) over all windows k of 3x3
    pixels that contain both i and j, where I are colors, and m_k and S_k are their mean and
    covariance in the window.

    Source: Levin, Lischinski & Weiss 2008, "A closed-form solution to natural image matting", IEEE
    TPAMI 30(2), equation (12), whose L_ij is -W_ij where i is not j.
    Differs from source: no inverse. With the orthonormal columns Q of the matrix of the nine
    I_i - m_k stacked on sqrt(epsilon) times the identity, W_ij = sum_k (1/9 + Q_i . Q_j). If colors
    lie on a line, as in every window of a gray photograph, entries of the inverse are as large as
    9 / epsilon, too large for the precision of float32; those of Q are at most 1.

    Args:
      guide_image: I, float32[height, width, 3], sRGB in [0, 1].
      epsilon: regularization of the affine functions' coefficients, above 0.

    Returns:
      The guide. All affinities are zero for an image below 3 pixels high or wide, which has no
      window.

    Raises:
      InputError: epsilon is not positive.
    """
    if not epsilon > 0:
        raise InputError(
            f"epsilon={epsilon} is not positive",
            expected="a number above 0",
            remedy="leave it out for the published 1e-7",
        )
    height, width, channels = guide_image.shape
    dtype = jnp.promote_types(guide_image.dtype, jnp.float32)
    if not _num_windows(height, width):
        return AffineGuide(jnp.zeros((len(_OFFSETS), height, width), dtype))
    differences = _differences(guide_image.astype(dtype))
    ridge = epsilon**0.5 * jnp.eye(channels, dtype=dtype)[None, :, :, None]
    ridge = jnp.broadcast_to(ridge, (*differences.shape[:2], channels, differences.shape[3]))
    basis = _orthonormalize(jnp.concatenate([differences, ridge], axis=2))
    maps = []
    for y, x in _OFFSETS:
        total = jnp.zeros((height, width), dtype)
        for first, (top, left) in enumerate(_WINDOW):
            if (top + y, left + x) in _WINDOW:
                second = _WINDOW.index((top + y, left + x))
                products = jnp.sum(basis[:, :, first] * basis[:, :, second], axis=1)
                total += jnp.pad(
                    products + 1 / _PIXELS, ((top, _MARGIN - top), (left, _MARGIN - left))
                )
        maps.append(total)
    return AffineGuide(jnp.stack(maps))


def affine_energy(image: Array, guide: AffineGuide) -> Array:
    """Compute the mean error of local affine fits of the guide's colors to the image's.

    1/(3K) sum_k sum_c min_{a,b} sum_i (V_ic - a^T I_i - b)^2 + epsilon |a|^2 over all K windows k
    of 3x3 pixels i inside the image, and its channels c, where V is the image and I the guide. This
    equals sum_c V_c^T L V_c / (3K) with the matting Laplacian L of the guide.

    Sources: Levin, Lischinski & Weiss 2008, "A closed-form solution to natural image matting", IEEE
    TPAMI 30(2), equations (2), (5) and (12); as a loss: Luan, Paris, Shechtman & Bala 2017, "Deep
    photo style transfer", arXiv 1703.07511, equation (2).
    Differs from source: a mean instead of a sum, so that the coefficient doesn't depend on the
    image's size. With K = (height - 2) (width - 2), a coefficient lambda of the sum corresponds to
    3K lambda here. Luan's published lambda is 1e4 with white at 1, as here.

    Args:
      image: V, float32[height, width, 3], sRGB in [0, 1].
      guide: guide of a photograph of the same size, from `make_affine_guide`.

    Returns:
      float32[], at least 0; 0 for images without a window. A global affine change of the guide's
      colors costs at most epsilon |a|^2.

    Raises:
      InputError: the sizes differ.
    """
    height, width, channels = image.shape
    if guide.affinities.shape[1:] != (height, width):
        raise InputError(
            f"an image of {height} x {width} came with a guide of shape {guide.affinities.shape}",
            expected=f"a guide of an image of the same size, (12, {height}, {width})",
            remedy="make the guide from a photograph scaled to the image's size",
        )
    if not _num_windows(height, width):
        return jnp.zeros(())
    planes = jnp.moveaxis(image, -1, 0).astype(jnp.promote_types(image.dtype, jnp.float32))
    total = _quadratic_form(planes, guide.affinities)
    return total / (channels * _num_windows(height, width))


def _num_windows(height: int, width: int) -> int:
    return max(height - _SIDE + 1, 0) * max(width - _SIDE + 1, 0)


def _differences(colors: Array) -> Array:
    """Return colors minus their window's mean, float[rows, channels, 9, columns].

    Differences to the center pixel are taken first. They are exact for similar numbers, whereas
    differences to a rounded mean would be as coarse as the numbers themselves: a gain of three
    digits at low contrast. Columns are the last axis, after the axis that is summed over, because
    on a CPU that takes a twentieth of the time of the opposite order.
    """
    height, width, _ = colors.shape
    rows = jnp.moveaxis(colors, -1, 1)
    center = rows[1:-1, :, 1:-1]
    steps = [rows[y : height - 2 + y, :, x : width - 2 + x] - center for y, x in _WINDOW]
    stack = jnp.stack(steps, axis=2)
    return stack - jnp.mean(stack, axis=2, keepdims=True)


def _orthonormalize(vectors: Array) -> Array:
    """Orthonormalize the vectors of float[rows, vectors, elements, columns], in order.

    Source: Bjorck 1967, "Solving linear least squares problems by Gram-Schmidt orthogonalization",
    the modified method. A second pass over each vector gains at most half a digit here.
    """
    basis: list[Array] = []
    for index in range(vectors.shape[1]):
        vector = vectors[:, index]
        for unit in basis:
            vector = vector - unit * jnp.sum(unit * vector, axis=1, keepdims=True)
        basis.append(vector / jnp.sqrt(jnp.sum(jnp.square(vector), axis=1, keepdims=True)))
    return jnp.stack(basis, axis=1)


@jax.custom_vjp
def _quadratic_form(colors: Array, affinities: Array) -> Array:
    """Compute sum_c V_c^T L V_c.

    The gradient is 2 L V_c, computed together with the value. Automatic differentiation takes ten
    times as long on a CPU.
    """
    return _quadratic_form_forward(colors, affinities)[0]


def _quadratic_form_forward(colors: Array, affinities: Array) -> tuple[Array, tuple[Array, Array]]:
    product = _multiply_by_laplacian(colors, affinities)
    value = jnp.vdot(colors, product, precision=jax.lax.Precision.HIGHEST)
    # If the image is an affine function of the guide, rounding can make the value negative.
    return jnp.maximum(value, 0), (colors, product)


def _quadratic_form_backward(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    colors, product = kept
    # The derivative by an affinity is a squared difference: V^T L V = sum_{i<j} W_ij (V_i - V_j)^2.
    squares = [jnp.sum(jnp.square(step), axis=0) for step in _steps(colors, 1)]
    return 2 * cotangent * product, cotangent * jnp.stack(squares)


def _multiply_by_laplacian(colors: Array, affinities: Array) -> Array:
    """Compute L V_c for each channel: sum_j W_ij (V_i - V_j)."""
    _, height, width = colors.shape
    padded = jnp.pad(affinities, ((0, 0), (_MARGIN, 0), (_MARGIN, _MARGIN)))
    total = jnp.zeros_like(colors)
    steps = zip(_steps(colors, 1), _steps(colors, -1), strict=True)
    for index, ((y, x), (to_later, to_earlier)) in enumerate(zip(_OFFSETS, steps, strict=True)):
        top, left = _MARGIN - y, _MARGIN - x
        of_later = affinities[index][None]
        of_earlier = padded[index, top : top + height, left : left + width][None]
        total += of_later * to_later + of_earlier * to_earlier
    return total


def _steps(colors: Array, sign: int) -> list[Array]:
    """Return V_i - V_j for all j at `sign` times one of the offsets from i.

    Beyond the border the border's color is repeated, which doesn't matter as affinities are 0.
    """
    _, height, width = colors.shape
    padded = jnp.pad(colors, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)), mode="edge")
    places = ((_MARGIN + sign * y, _MARGIN + sign * x) for y, x in _OFFSETS)
    return [colors - padded[:, y : y + height, x : x + width] for y, x in places]


_quadratic_form.defvjp(_quadratic_form_forward, _quadratic_form_backward)
