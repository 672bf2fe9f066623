"""Warp frames along optical flow."""

import numpy as np
import numpy.typing as npt

from neuart_jax.io.decoding import Float32

INSET = 4
"""Distance from the border, in pixels, of the axis at which images are mirrored. With the axis at
the border itself, an image that moves on, frame after frame, would repeat its last column as a
smear."""

_ORDERS = {"linear": 1, "cubic": 3}


def warp(
    image: npt.ArrayLike, flow: npt.ArrayLike, *, kernel: str, outside: npt.ArrayLike | None
) -> Float32:
    """Warp an image along a flow: omega(x)(q) = x(q + flow(q)).

    Source: Ruder, Dosovitskiy & Brox 2016, "Artistic style transfer for videos", arXiv 1604.08610,
    section 4.
    Differs from source: positions outside the image are filled from another image, or from the
    image's own mirror image, which resembles a painting more than any single color.

    Args:
      image: x, image of the other frame, float[height, width, channels].
      flow: flow from this frame to the other one, float[height, width, 2].
      kernel: "linear", or "cubic" for splines, which stay sharp when an image is warped repeatedly.
      outside: image for positions where the flow leads out of the image, float[height, width,
        channels]; None continues the image by its mirror image, at an axis `INSET` pixels before
        the border.

    Returns:
      float32[height, width, channels], not clipped, as splines overshoot at edges.
    """
    # Imported here, as it slows the start of the command line.
    from scipy.ndimage import map_coordinates

    values = np.asarray(image, np.float32)
    rows, columns = locate(flow)
    if outside is None:
        rows, columns = (
            _fold(places, side)
            for places, side in zip((rows, columns), values.shape[:2], strict=True)
        )
    moved = [
        map_coordinates(
            values[..., channel], (rows, columns), order=_ORDERS[kernel], mode="nearest"
        )
        for channel in range(values.shape[2])
    ]
    if outside is None:
        return np.ascontiguousarray(np.stack(moved, axis=-1), np.float32)
    leaves = is_outside(rows, columns)[..., None]
    result = np.where(leaves, np.asarray(outside, np.float32), np.stack(moved, axis=-1))
    return np.ascontiguousarray(result, np.float32)


def _fold(places: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Mirror row or column positions outside an image back into it."""
    inset = min(INSET, (side - 1) // 4)
    folded = np.where(places < 0, 2 * inset - places, places)
    last = side - 1
    folded = np.where(folded > last, 2 * (last - inset) - folded, folded)
    return np.clip(folded, 0, last)


def locate(flow: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the row and column positions that a flow leads to, float64[height, width] each."""
    moves = np.asarray(flow, np.float64)
    rows, columns = np.mgrid[: moves.shape[0], : moves.shape[1]]
    return rows + moves[..., 1], columns + moves[..., 0]


def is_outside(
    rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return which positions, one per pixel of a frame, lie outside the frame."""
    height, width = rows.shape
    return (rows < 0) | (rows > height - 1) | (columns < 0) | (columns > width - 1)
