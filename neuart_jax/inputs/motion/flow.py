"""Optical flow: the position of each pixel of a frame in another frame.

A flow is float32[height, width, 2] in pixels, to the right and down: the point at q in one frame is
at q + flow(q) in the other. Its values refer to the size at which it was estimated.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from neuart_jax.config.errors import InputError
from neuart_jax.io.decoding import Float32, quantize

FLOW_METHODS = ("dis", "dis_fine", "tvl1")
"""Methods of flow estimation, the default first."""

# ITU-R BT.601's luma, the gray of cameras and OpenCV.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# DIS compares patches of 8 pixels, several of which have to fit into its coarsest scale.
_SMALLEST_SIDE = 32
# Scale 1 is half size. At full size, noise causes motion that looks like motion boundaries.
_FINEST_SCALES = {"dis": 1, "dis_fine": 0}


def check_flow_method(method: str) -> None:
    """Check that a method of flow estimation exists and can be used.

    Raises:
      InputError: the method is unknown, or needs OpenCV, which isn't installed.
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
    """Estimate the optical flow from a frame to another one.

    Sources: `dis`, Kroeger, Timofte, Dai & Van Gool 2016, "Fast optical flow using dense inverse
    search", arXiv 1603.03590, in OpenCV's implementation (preset "medium", up to half size;
    `dis_fine` up to full size); `tvl1`, Zach, Pock & Bischof 2007, "A duality based approach for
    realtime TV-L1 optical flow", in scikit-image's implementation. All are deterministic.

    Args:
      frame: float[height, width, 3], sRGB in [0, 1].
      other: image of the same shape.
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
    """Resample a flow for another size of its frames, and scale its values accordingly.

    Args:
      flow: float32[height', width', 2].
      height: new height of the frames, in pixels.
      width: new width of the frames, in pixels.

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
    """Interpolate along an axis that grows, or average along one that shrinks."""
    old = values.shape[axis]
    centers = (np.arange(size) + 0.5) * old / size - 0.5
    # A triangle filter, scaled to the coarser of the two grids.
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
    # DIS only accepts 8 bits.
    flow: npt.NDArray[Any] = search.calc(
        quantize(first, np.uint8), quantize(second, np.uint8), None
    )
    return flow


def _find_tvl1(first: Float32, second: Float32, method: str) -> npt.NDArray[Any]:
    # Imported here, as the import takes half a second.
    from skimage.registration import optical_flow_tvl1

    down, right = optical_flow_tvl1(first, second)
    return np.stack([right, down], axis=-1)


def _load_opencv(method: str) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"--flow={method} needs OpenCV",
            expected="OpenCV to be installed",
            remedy='run pip install "neuart_jax[video]", or use --flow=tvl1, which is slower',
        ) from error
    return cv2
