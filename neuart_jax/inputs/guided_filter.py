"""Guided filter, the last step of a photorealistic transfer: local affine fits to the content."""

import numpy as np
import numpy.typing as npt

from neuart_jax.config.errors import InputError

Floats = npt.NDArray[np.floating]


def smooth_affine(
    image: npt.ArrayLike,
    content_image: npt.ArrayLike,
    *,
    radius: int = 15,
    epsilon: float = 1e-4,
) -> npt.NDArray[np.float32]:
    """Filter an image so that it is a locally affine function of the content's colors.

    In each window k of (2 radius + 1)^2 pixels, cropped at the image's border, the image's colors p
    are fitted by A_k I + b_k, where I are the content's colors, minimizing
    sum_i |A_k I_i + b_k - p_i|^2 / n_k + epsilon |A_k|^2. The result at a pixel is A I + b with the
    mean A and b of all windows that contain the pixel. So the result has edges only where the
    content has them, and noise and other detail that the content lacks are removed.

    Source: He, Sun & Tang 2013, "Guided image filtering", IEEE TPAMI 35(6), with a color guide.
    Differs from Luan, Paris, Shechtman & Bala 2017, arXiv 1703.07511, whose published code has a
    similar step: it fits windows of 3x3, and averages A and b over a square of radius 15 with two
    weights, a normal distribution over distance (standard deviation radius / 3) and one over the
    content's difference in color (0.01). Its images have up to 700 pixels a side. Its value of
    epsilon is 1e-3 / 9. On the authors' examples 6 and 11 both give nearly the same result with
    radius 3 here; with a larger radius, small areas lose their own colors.

    Args:
      image: p, float32[height, width, 3], sRGB in [0, 1].
      content_image: I, of the same shape.
      radius: half the window's side in pixels, at least 1.
      epsilon: regularization, above 0; windows where the content's variance is far below it
        become flat.

    Returns:
      float32[height, width, 3], clipped to [0, 1].

    Raises:
      InputError: the images' shapes differ, or a number is out of range.
    """
    target, guide = np.asarray(image, np.float64), np.asarray(content_image, np.float64)
    if target.shape != guide.shape or guide.ndim != 3:
        raise InputError(
            f"an image of shape {target.shape} came with a content image of {guide.shape}",
            expected="two images of one shape (height, width, channels)",
            remedy="scale one of them to the size of the other",
        )
    if radius < 1:
        raise InputError(
            f"radius={radius} is less than 1",
            expected="a number of pixels of at least 1",
            remedy="leave the smoothing out to keep the image as it is",
        )
    if not epsilon > 0:
        raise InputError(
            f"epsilon={epsilon} is not positive",
            expected="a number above 0, comparable to a variance",
            remedy="leave it out for the default, 1e-4",
        )
    counts = _sum_window(np.ones((*guide.shape[:2], 1)), radius)

    def average(values: Floats) -> Floats:
        means = _sum_window(values.reshape(*guide.shape[:2], -1), radius) / counts
        return means.reshape(values.shape)

    def covary(first: Floats, second: Floats) -> Floats:
        products = average(first[..., :, None] * second[..., None, :])
        return products - average(first)[..., :, None] * average(second)[..., None, :]

    spread = covary(guide, guide) + epsilon * np.eye(guide.shape[2])
    slopes = np.linalg.solve(spread, covary(guide, target))
    offsets = average(target) - _apply(slopes, average(guide))
    result = _apply(average(slopes), guide) + average(offsets)
    return np.clip(result, 0, 1).astype(np.float32)


def _apply(slopes: Floats, colors: Floats) -> Floats:
    return np.einsum("yxic,yxi->yxc", slopes, colors)


def _sum_window(values: Floats, radius: int) -> Floats:
    # Imported here, as the import takes a third of a second.
    from scipy.ndimage import uniform_filter1d

    side = 2 * radius + 1
    for axis in (0, 1):
        values = uniform_filter1d(values, side, axis=axis, mode="constant") * side
    return values
