"""Conversion between a film's luma and color differences and R'G'B', for any matrix and range.

Sources: ITU-R BT.709-6, section 3; BT.601-7, section 2.5; BT.2020-2, table 4; SMPTE 240M for the
matrices, ITU-T H.273, section 8.3, for the ranges.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neuart_jax.io.decoding import Float32

BT709, BT601 = 1, 6
"""Numbers of matrices in ITU-T H.273, table 4."""

# K_R and K_B.
_WEIGHTS = {
    BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    BT601: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}

MATRICES = frozenset(_WEIGHTS)
"""Numbers of the supported matrices."""


def to_rgb(
    planes: Sequence[npt.NDArray[np.unsignedinteger]],
    *,
    matrix: int,
    bits: int,
    full: bool = False,
    centered: bool = False,
) -> Float32:
    """Convert a film's samples to R'G'B'.

    Subsampled chroma is interpolated by the cubic of Keys 1981, "Cubic convolution interpolation
    for digital image processing", eq. 15.

    Args:
      planes: integers[height, width] of Y', and of C_B and C_R [height / rows, width / columns].
      matrix: number of the matrix, one of `MATRICES`.
      bits: bits per sample.
      full: whether samples range from 0 to 2^bits - 1; else from 16 to 235 (240 for chroma), times
        2^(bits - 8).
      centered: whether chroma samples are centered between luma samples along rows, as in JPEG;
        else they coincide with the first of them. Along columns, they are always centered.

    Returns:
      float32[height, width, 3], clipped to [0, 1].
    """
    luma = planes[0].astype(np.float32)
    height, width = luma.shape
    samples = [luma]
    for plane in planes[1:]:
        color = plane.astype(np.float32)
        color = _spread(color, 0, height, is_centered=True)
        samples.append(_spread(color, 1, width, is_centered=centered))
    offset, span = _find_range(bits, full)
    # The division by the span is folded into the matrix.
    scaled = (np.linalg.inv(_make_matrix(matrix)) / span).astype(np.float32)
    return np.clip((np.stack(samples, axis=-1) - offset) @ scaled.T, 0, 1)


def _spread(plane: Float32, axis: int, size: int, *, is_centered: bool) -> Float32:
    """Interpolate subsampled values along an axis."""
    # At odd sizes, the last sample covers fewer pixels.
    factor = -(-size // plane.shape[axis])
    if factor == 1:
        return plane
    place = (np.arange(size) - (factor - 1) / 2 * is_centered) / factor
    base = np.floor(place).astype(int)
    weights = _cubic_weights(place - base)
    shape = (-1, 1) if axis == 0 else (1, -1)
    spread = np.zeros((), np.float32)
    for tap, weight in enumerate(weights.astype(np.float32)):
        taken = np.take(plane, np.clip(base + tap - 1, 0, plane.shape[axis] - 1), axis=axis)
        spread = spread + taken * weight.reshape(shape)
    return spread


def _cubic_weights(fraction: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weights float64[4, n] of the four nearest samples, in order."""
    t = fraction
    return np.stack(
        [
            -t / 2 + t**2 - t**3 / 2,
            1 - 5 / 2 * t**2 + 3 / 2 * t**3,
            t / 2 + 2 * t**2 - 3 / 2 * t**3,
            -(t**2) / 2 + t**3 / 2,
        ]
    )


def to_planes(
    image: npt.ArrayLike, *, matrix: int, bits: int, rows: int, columns: int
) -> list[npt.NDArray[np.unsignedinteger]]:
    """Convert R'G'B' to a film's samples of the limited range, with subsampled chroma.

    Chroma samples are located as in H.264 by default (ITU-T H.264, figure E-1, type 0): on every
    second column, and midway between two rows.

    Args:
      image: float[height, width, 3] in [0, 1].
      matrix: number of the matrix, one of `MATRICES`.
      bits: bits per sample.
      rows: rows of luma per row of chroma, 1 or 2; a divisor of the height.
      columns: columns of luma per column of chroma, 1 or 2; a divisor of the width.

    Returns:
      Y', C_B and C_R, uint8 or uint16[height, width] and [height / rows, width / columns].
    """
    offset, span = _find_range(bits, False)
    # Float32 is accurate to a hundredth of a level of 10 bits.
    transform = (_make_matrix(matrix) * span[:, None]).astype(np.float32)
    values = np.asarray(image, np.float32) @ transform.T + offset
    luma, color = values[..., 0], values[..., 1:]
    if columns > 1:
        padded = np.pad(color, ((0, 0), (1, 1), (0, 0)), mode="edge")
        color = (padded[:, :-2:2] + 2 * padded[:, 1:-1:2] + padded[:, 2::2]) / 4
    if rows > 1:
        color = (color[::2] + color[1::2]) / 2
    most = (1 << bits) - 1
    dtype = np.uint8 if bits <= 8 else np.uint16
    planes = (luma, color[..., 0], color[..., 1])
    return [np.clip(np.rint(plane), 0, most).astype(dtype) for plane in planes]


def _make_matrix(number: int) -> npt.NDArray[np.float64]:
    """Return the matrix from R'G'B' in [0, 1] to Y' in [0, 1], C_B and C_R in [-1/2, 1/2]."""
    red, blue = _WEIGHTS[number]
    luma = np.array([red, 1 - red - blue, blue])
    differences = [(np.eye(3)[one] - luma) / (2 * (1 - luma[one])) for one in (2, 0)]
    return np.stack([luma, *differences])


def _find_range(bits: int, full: bool) -> tuple[Float32, Float32]:
    """Return the samples of Y', C_B and C_R at the value 0, and their increase up to 1."""
    step = 1 << bits - 8
    low, span = (0, [(1 << bits) - 1] * 3) if full else (16 * step, [219 * step] + [224 * step] * 2)
    return np.array([low, 128 * step, 128 * step], np.float32), np.array(span, np.float32)
