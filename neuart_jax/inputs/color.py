"""Color transfer: whether the result has the colors of the style or of the content.

Images are float[height, width, 3], sRGB in [0, 1].
"""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

RIDGE = 1e-5
"""Added to both covariances, as in Gatys et al.'s code: that of a gray image has no inverse."""
# A gray photograph saved as JPEG has traces of color everywhere; amplified to the content's
# saturation they would be speckle.
_MAX_GAIN = 8.0
# Y of ITU-R BT.601's YIQ.
_LUMA = np.array([0.299, 0.587, 0.114])


def match_covariance(image: npt.ArrayLike, reference: npt.ArrayLike) -> Float32:
    """Match the mean and covariance of an image's colors to a reference, by one affine map.

    x -> A (x - m) + m', A = S^-1/2 (S^1/2 S' S^1/2)^1/2 S^-1/2: of all maps with A S A = S' the one
    that moves colors least.

    Source: Pitie & Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping for
    example-based colour transfer", equation (10); for style transfer Gatys et al. 2017, arXiv
    1611.07865, section 5.1.
    Differs from source: 1e-5 is added to the diagonals of S and S', and no direction of color is
    stretched more than eightfold, so that gray images give a usable result too.

    Args:
      image: the image to change.
      reference: float[height', width', 3], the image with the target colors.

    Returns:
      float32[height, width, 3], clipped to [0, 1].
    """
    pixels, mean, root = _statistics(image)
    _, wanted_mean, wanted_root = _statistics(reference)
    inverse = np.linalg.inv(root)
    change = inverse @ _root(root @ wanted_root @ wanted_root @ root) @ inverse
    gains, axes = np.linalg.eigh((change + change.T) / 2)
    change = (axes * np.minimum(gains, _MAX_GAIN)) @ axes.T
    matched = (pixels - mean) @ change + wanted_mean
    return np.clip(matched, 0, 1).astype(np.float32)


def _statistics(image: npt.ArrayLike) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    """Return the pixels, their mean and the square root of their covariance, in float64."""
    pixels = np.asarray(image, np.float64)
    flat = pixels.reshape(-1, 3)
    centered = flat - flat.mean(axis=0)
    covariance = centered.T @ centered / len(flat) + RIDGE * np.eye(3)
    return pixels, flat.mean(axis=0), _root(covariance)


def _root(matrix: npt.NDArray) -> npt.NDArray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def match_histogram(image: npt.ArrayLike, reference: npt.ArrayLike) -> Float32:
    """Match the histogram of each channel to a reference, by a monotonic map per channel.

    Source: Gonzalez & Woods, "Digital image processing", section 3.3; computed by scikit-image.
    """
    # Imported here, as the import takes half a second.
    from skimage.exposure import match_histograms

    matched = match_histograms(
        np.asarray(image, np.float64), np.asarray(reference, np.float64), channel_axis=-1
    )
    return np.clip(matched, 0, 1).astype(np.float32)


def luminance(image: npt.ArrayLike) -> Float32:
    """Return an image's luminance Y = 0.299 R + 0.587 G + 0.114 B in all three channels.

    Source: Gatys et al. 2017, arXiv 1611.07865, section 5.2 (YIQ).
    """
    brightness = np.asarray(image, np.float64) @ _LUMA
    return np.repeat(np.clip(brightness, 0, 1)[..., None], 3, axis=-1).astype(np.float32)


def match_luminance(image: npt.ArrayLike, reference: npt.ArrayLike) -> Float32:
    """Return an image's luminance, matched in mean and standard deviation to a reference's.

    Y -> s' / s (Y - m) + m'.

    Source: Gatys et al. 2017, arXiv 1611.07865, section 5.2.
    """
    values, wanted = luminance(image), luminance(reference)
    gain = wanted.std() / max(float(values.std()), RIDGE**0.5)
    matched = np.clip((values - values.mean()) * gain + wanted.mean(), 0, 1)
    return matched.astype(np.float32)


def put_back_colors(image: npt.ArrayLike, content_image: npt.ArrayLike) -> Float32:
    """Combine the luminance (Y) of an image with the colors (I, Q) of the content image.

    Source: Gatys et al. 2017, arXiv 1611.07865, section 5.2; jcjohnson/neural-style's
    -original_colors does the same in YUV.
    Differs from source: a color outside sRGB at its new luminance is desaturated, as clipping its
    channels would change hue and luminance.

    Args:
      image: image whose luminance is used.
      content_image: image of the same shape whose colors are used.

    Returns:
      float32[height, width, 3] in [0, 1].
    """
    brightness = luminance(image).astype(np.float64)
    # A color minus its luminance is linear in I and Q alone.
    colors = np.asarray(content_image, np.float64) - luminance(content_image)
    room = np.where(colors > 0, 1 - brightness, brightness)
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = np.where(colors == 0, np.inf, room / np.abs(colors))
    paleness = np.minimum(1, limits.min(axis=-1, keepdims=True))
    return np.clip(brightness + paleness * colors, 0, 1).astype(np.float32)
