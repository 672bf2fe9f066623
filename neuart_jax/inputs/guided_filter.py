"""The last step of a photorealistic transfer: fit the result to the content image, locally."""

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
    """Make an image an affine function of the content's colors, which varies slowly in space.

    In each window k of (2 radius + 1)^2 pixels, or what of it is inside the image, the image's
    colors p are fitted by A_k I + b_k of the content's colors I, with the least
    sum_i |A_k I_i + b_k - p_i|^2 / n_k + epsilon |A_k|^2. The result at a pixel is A I + b with the
    mean A and b of all windows that hold it. So it has edges only where the content has them;
    noise, and whatever else isn't in the content, is gone.

    Source: He, Sun & Tang 2013, "Guided image filtering", IEEE TPAMI 35(6), with a color guide.
    Differs from Luan, Paris, Shechtman & Bala 2017, arXiv 1703.07511, whose published code has such
    a step too: it fits windows of 3x3, and averages A and b over a square with the radius 15 with
    two weights, a normal distribution over distance (standard deviation radius / 3) and one over
    the content's difference in color (0.01). Its images have up to 700 pixels a side. What is
    epsilon here is 1e-3 / 9 there. Of its authors' examples 6 and 11 both make nearly the same with
    the radius 3 here; with a larger one, small areas lose colors of their own.

    Args:
      image: p, float32[height, width, 3], sRGB in [0, 1].
      content_image: I, of the same shape.
      radius: pixels, at least 1.
      epsilon: above 0; a window where the content's variance is far below becomes flat.

    Returns:
      float32[height, width, 3], clipped to [0, 1].

    Raises:
      InputError: when the images' shapes differ or a number is out of its range.
    """
    target, guide = np.asarray(image, np.float64), np.asarray(content_image, np.float64)
    if target.shape != guide.shape or guide.ndim != 3:
        raise InputError(
            f"an image of shape {target.shape} came with a content image of {guide.shape}",
            expected="two pictures of one shape (height, width, channels)",
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
            expected="a number above 0, as of a variance",
            remedy="leave it out for the usual 1e-4",
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
    # A third of a second of start-up that only this needs.
    from scipy.ndimage import uniform_filter1d

    side = 2 * radius + 1
    for axis in (0, 1):
        values = uniform_filter1d(values, side, axis=axis, mode="constant") * side
    return values
