"""Optical flow: where each pixel of a frame is in another frame.

A flow is float32[height, width, 2] in pixels, to the right and down: what is at q in one frame is
at q + flow(q) in the other. It belongs to the size at which it was found.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from neuart_jax.config.errors import InputError
from neuart_jax.io.decoding import Float32, quantize

FLOW_METHODS = ("dis", "dis_fine", "tvl1")
"""Ways to find a flow, the default one first."""

# ITU-R BT.601's luma: what cameras and OpenCV call gray.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Its patches have 8 pixels, and its coarsest scale has to hold some.
_SMALLEST_SIDE = 32
# Of the scales, 1 is the half; noise moves pixels at full size, which would look like boundaries.
_FINEST_SCALES = {"dis": 1, "dis_fine": 0}


def check_flow_method(method: str) -> None:
    """Check that a flow can be found in some way.

    Raises:
      InputError: there is no such way, or it takes OpenCV, which isn't there.
    """
    if method not in FLOW_METHODS:
        raise InputError(
            f"{method} came as a way to find how pixels move",
            expected=f"one of {', '.join(FLOW_METHODS)}",
            remedy=f"leave it out for {FLOW_METHODS[0]}",
        )
    if method in _FINEST_SCALES:
        _load_opencv(method)


def find_flow(frame: npt.ArrayLike, other: npt.ArrayLike, *, method: str = "dis") -> Float32:
    """Find where each pixel of a frame is in another one.

    Sources: `dis`, Kroeger, Timofte, Dai & Van Gool 2016, "Fast optical flow using dense inverse
    search", arXiv 1603.03590, as OpenCV has it (its preset "medium", up to half of the size;
    `dis_fine` up to the full one); `tvl1`, Zach, Pock & Bischof 2007, "A duality based approach for
    realtime TV-L1 optical flow", as scikit-image has it. All give the same numbers every time.

    Args:
      frame: float[height, width, 3], sRGB in [0, 1].
      other: of the same shape.
      method: one of `FLOW_METHODS`.

    Returns:
      float32[height, width, 2]; see this module.

    Raises:
      InputError: see `check_flow_method`.
    """
    check_flow_method(method)
    first, second = (np.asarray(image, np.float32) @ _LUMA for image in (frame, other))
    if first.shape != second.shape:
        raise ValueError(f"frames are {first.shape} and {second.shape}, expected one size")
    height, width = first.shape
    room = [(0, max(0, _SMALLEST_SIDE - side)) for side in first.shape]
    first, second = (np.pad(gray, room, mode="edge") for gray in (first, second))
    flow = (_find_tvl1 if method == "tvl1" else _find_dis)(first, second, method)
    return np.ascontiguousarray(flow[:height, :width], np.float32)


def resize_flow(flow: Float32, height: int, width: int) -> Float32:
    """Scale a flow, and what it says, to another size of its frames.

    Args:
      flow: float32[height', width', 2].
      height: of the frames that it is to belong to, in pixels.
      width: the same.

    Returns:
      float32[height, width, 2].
    """
    old_height, old_width, _ = flow.shape
    if (old_height, old_width) == (height, width):
        return flow
    factors = np.array([width / old_width, height / old_height], np.float32)
    rows = _resample(flow, height, axis=0)
    return np.ascontiguousarray(_resample(rows, width, axis=1) * factors, np.float32)


def _resample(values: Float32, size: int, *, axis: int) -> Float32:
    """Interpolate along an axis where it grows, and average where it shrinks."""
    old = values.shape[axis]
    centers = (np.arange(size) + 0.5) * old / size - 0.5
    # A tent as wide as the coarser of both pixels.
    reach = max(1.0, old / size)
    taps = np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 2)
    places = np.floor(centers).astype(int)[:, None] + taps
    weights = np.maximum(0, 1 - np.abs(places - centers[:, None]) / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((size, old))
    np.add.at(matrix, (np.arange(size)[:, None], np.clip(places, 0, old - 1)), weights)
    moved = np.tensordot(matrix, values, axes=(1, axis))
    return np.moveaxis(moved, 0, axis).astype(np.float32)


def _find_dis(first: Float32, second: Float32, method: str) -> npt.NDArray[Any]:
    cv2 = _load_opencv(method)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(_FINEST_SCALES[method])
    # It takes 8 bits only.
    flow: npt.NDArray[Any] = search.calc(
        quantize(first, np.uint8), quantize(second, np.uint8), None
    )
    return flow


def _find_tvl1(first: Float32, second: Float32, method: str) -> npt.NDArray[Any]:
    # Half a second of start-up that only this needs.
    from skimage.registration import optical_flow_tvl1

    down, right = optical_flow_tvl1(first, second)
    return np.stack([right, down], axis=-1)


def _load_opencv(method: str) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"{method} takes OpenCV to find how pixels move",
            expected="it beside this package",
            remedy='install it with pip install "neuart_jax[video]", or take tvl1, which is slower',
        ) from error
    return cv2
