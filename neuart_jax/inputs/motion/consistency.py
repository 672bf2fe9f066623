"""Reliability of optical flow at each pixel, by a forward-backward check, and detection of cuts.

Source: Ruder, Dosovitskiy & Brox 2016, "Artistic style transfer for videos", arXiv 1604.08610,
sections 4.2 and 4.3, after Sundaram, Brox & Keutzer 2010, "Dense point trajectories by
GPU-accelerated large displacement optical flow".
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neuart_jax.inputs.motion.warping import locate
from neuart_jax.io.decoding import Float32

# The paper's thresholds, in pixels or their squares.
_SHARE_LOST, _PIXELS_LOST = 0.01, 0.5
_SHARE_BOUNDARY, _PIXELS_BOUNDARY = 0.01, 0.002
# Not in the paper, but in the authors' program: occluded pixels count as negative, so that
# occlusions grow under the blur that follows, and the other zeros don't.
_LOST = -1.0
_BLUR, _BLUR_RADIUS = 0.8, 2

_RELIABLE = 0.5
CUT_SHARE = 0.25
"""Share of reliable pixels below which two frames belong to different shots."""


def find_weights(backward: npt.ArrayLike, forward: npt.ArrayLike) -> Float32:
    """Compute the weights of a frame's pixels, 1 where its flow to an earlier frame is reliable.

    Weights are 0 at disocclusions, which fail the forward-backward check; at motion boundaries,
    whose estimated position is inaccurate; and where the flow leads out of the image, or to its
    last row or column. Between 0 and 1, edges are soft.

    Args:
      backward: flow from this frame to the earlier one, float[height, width, 2].
      forward: flow from the earlier frame to this one, of the same shape.

    Returns:
      c, float32[height, width] in [0, 1].
    """
    # Imported here, as it slows the start of the command line.
    from scipy.ndimage import correlate1d, map_coordinates

    there, back = (np.asarray(flow, np.float64) for flow in (backward, forward))
    rows, columns = locate(there)
    height, width = rows.shape
    returned = np.stack(
        [
            map_coordinates(back[..., axis], (rows, columns), order=1, mode="nearest")
            for axis in (0, 1)
        ],
        axis=-1,
    )
    lost = _square(there + returned) >= (
        _SHARE_LOST * (_square(there) + _square(returned)) + _PIXELS_LOST
    )
    slopes = sum(
        np.square(correlate1d(there, [-0.5, 0, 0.5], axis=axis, mode="reflect")).sum(axis=-1)
        for axis in (0, 1)
    )
    boundary = slopes > _SHARE_BOUNDARY * _square(there) + _PIXELS_BOUNDARY
    outside = (
        (np.floor(rows) < 0)
        | (np.floor(rows) + 1 > height - 1)
        | (np.floor(columns) < 0)
        | (np.floor(columns) + 1 > width - 1)
    )
    weights = np.where(outside, 0.0, np.where(lost, _LOST, np.where(boundary, 0.0, 1.0)))
    taps = np.exp(-np.square(np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)) / (2 * _BLUR**2))
    for axis in (0, 1):
        weights = correlate1d(weights, taps / taps.sum(), axis=axis, mode="reflect")
    return np.clip(weights, 0, 1).astype(np.float32)


def share_weights(weights: Sequence[npt.ArrayLike]) -> list[Float32]:
    """Restrict the weights of each reference frame to pixels that nearer frames don't cover.

    Source: Ruder et al. 2016, section 4.3: c_long of a frame is its c minus the c of all nearer
    frames, at least 0.

    Args:
      weights: c of each reference frame, float[height, width], the nearest first.

    Returns:
      c_long of each, float32[height, width].
    """
    shared, nearer = [], np.zeros(())
    for one in weights:
        values = np.asarray(one, np.float64)
        shared.append(np.maximum(values - nearer, 0).astype(np.float32))
        nearer = nearer + values
    return shared


def find_reliable_share(weights: npt.ArrayLike) -> float:
    """Return the share of pixels whose flow is reliable, in [0, 1]."""
    return float(np.mean(np.asarray(weights) >= _RELIABLE))


def is_cut(weights: npt.ArrayLike) -> bool:
    """Return whether there is a cut between two consecutive frames, given their `find_weights`."""
    return find_reliable_share(weights) < CUT_SHARE


def _square(flow: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.square(flow).sum(axis=-1)
