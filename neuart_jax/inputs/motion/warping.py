"""Frames moved along a flow."""

import numpy as np
import numpy.typing as npt

from neuart_jax.io.decoding import Float32

INSET = 4
"""Pixels before its border at which a picture is mirrored. At the border itself one that moves on,
frame after frame, would repeat its last column, as a smear."""

_ORDERS = {"linear": 1, "cubic": 3}


def warp(
    image: npt.ArrayLike, flow: npt.ArrayLike, *, kernel: str, outside: npt.ArrayLike | None
) -> Float32:
    """Take each pixel from where the flow says that it was.

    Source: Ruder, Dosovitskiy & Brox 2016, "Artistic style transfer for videos", arXiv 1604.08610,
    section 4: omega(x)(q) = x(q + flow(q)).
    Differs from source: where that lies outside of the picture, another one is taken, or its own
    mirror image, which a painting is nearer to than any one color.

    Args:
      image: x, float[height, width, channels] of the other frame.
      flow: from this frame to the other one, float[height, width, 2].
      kernel: "linear", or "cubic" for splines that stay sharp when a picture is moved many times.
      outside: float[height, width, channels], what is taken where the flow leads out of the
        picture; None goes on there with what is `INSET` pixels before its border, mirrored.

    Returns:
      float32[height, width, channels], not clipped: a spline overshoots at edges.
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
    """Bring rows, or columns, from outside of a picture back into it."""
    inset = min(INSET, (side - 1) // 4)
    folded = np.where(places < 0, 2 * inset - places, places)
    last = side - 1
    folded = np.where(folded > last, 2 * (last - inset) - folded, folded)
    return np.clip(folded, 0, last)


def locate(flow: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rows and the columns that a flow leads to, float64[height, width] each."""
    moves = np.asarray(flow, np.float64)
    rows, columns = np.mgrid[: moves.shape[0], : moves.shape[1]]
    return rows + moves[..., 1], columns + moves[..., 0]


def is_outside(
    rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Tell which places lie outside of the frame whose pixels they belong to."""
    height, width = rows.shape
    return (rows < 0) | (rows > height - 1) | (columns < 0) | (columns > width - 1)
