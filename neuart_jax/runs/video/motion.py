"""Motion between frames of a clip: optical flow, estimated from the frames or read from files."""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.engine.compile import compile_fn
from neuart_jax.inputs.motion.consistency import find_reliable_share, find_weights, is_cut
from neuart_jax.inputs.motion.flow import (
    FLOW_METHODS,
    check_flow_method,
    find_flow,
    resize_flow,
)
from neuart_jax.inputs.motion.warping import is_outside, locate, warp
from neuart_jax.io.clips.frames import Clip
from neuart_jax.io.decoding import Float32
from neuart_jax.io.flow_files import load_flow
from neuart_jax.io.paths import check_place
from neuart_jax.losses.temporal import warping_error

# The longer side of an image, divided by the standard deviations of what is "nearby"; the wider
# Gaussian counts where the narrower one finds nothing that is known.
_NEAR, _FAR, _FAR_WEIGHT = 64, 16, 1e-3
# Share of known pixels nearby from which the warped image is taken as it is.
_SEAM = 0.3


class Motion(NamedTuple):
    """Motion between a frame and another frame.

    Attributes:
      flow: optical flow from the frame to the other one, float32[height, width, 2].
      weights: c, reliability of the flow at each pixel, float32[height, width].
      source_error: E_warp of the two source frames; see `temporal.warping_error`.
    """

    flow: Float32
    weights: Float32
    source_error: float

    @property
    def is_cut(self) -> bool:
        """Whether the two frames, if neighbors, are of different shots."""
        return is_cut(self.weights)

    @property
    def reliable_share(self) -> float:
        """Share of pixels whose flow is reliable."""
        return find_reliable_share(self.weights)


class MotionFinder:
    """Finds the motion between frames of one clip; safe to share between threads.

    Args:
      method: one of `FLOW_METHODS`, or a folder of .flo files: backward_2_1.flo is the flow from
        frame 2, counted from 1, to frame 1, and forward_1_2.flo the flow from frame 1 to frame 2.
      distances: distances to the reference frames, in frames.
      clip: clip with the frames.

    Raises:
      InputError: the method is unknown or needs OpenCV, which isn't installed; or files are missing
        or belong to a longer clip.
    """

    def __init__(self, method: str, *, distances: Sequence[int], clip: Clip) -> None:
        self._method, self._folder = method, None
        if method in FLOW_METHODS:
            check_flow_method(method)
            return
        place = check_place(method, name="--flow")
        if not place.is_dir():
            raise InputError(
                f"--flow={method} is neither a way to find motion nor a folder",
                expected=f"one of {', '.join(FLOW_METHODS)}, or a folder of .flo files",
                remedy=f"leave it out for {FLOW_METHODS[0]}",
            )
        self._folder = place
        _check_files(place, distances=distances, clip=clip)

    def find(self, number: int, other: int, frame: Float32, other_frame: Float32) -> Motion:
        """Find the motion between a frame and another frame.

        Args:
          number: number of the frame, from 0.
          other: number of the other frame.
          frame: float32[height, width, 3], sRGB in [0, 1].
          other_frame: image of the same shape.

        Raises:
          InputError: a file can't be read, or its aspect ratio isn't that of the frames.
        """
        there = self._find_flow(number, other, frame, other_frame)
        back = self._find_flow(other, number, other_frame, frame)
        weights = find_weights(there, back)
        moved = warp(other_frame, there, kernel="linear", outside=frame)
        return Motion(there, weights, find_error(frame, moved, weights))

    def _find_flow(self, number: int, other: int, frame: Float32, other_frame: Float32) -> Float32:
        if self._folder is None:
            return find_flow(frame, other_frame, method=self._method)
        path = self._folder / _file_name(number, other)
        flow = load_flow(path)
        height, width = frame.shape[:2]
        # Tolerates one pixel, as sides are rounded.
        if abs(flow.shape[0] * width - flow.shape[1] * height) > max(flow.shape[:2]) + max(
            height, width
        ):
            raise InputError(
                f"{path} has {flow.shape[1]}x{flow.shape[0]} pixels, and the frames "
                f"{width}x{height}",
                expected="flows of the frames' proportions",
                remedy="find them from the frames of this clip",
            )
        return resize_flow(flow, height, width)


@functools.cache
def _compile_error_fn() -> Callable[..., Array]:
    # Not at import: which device computes is only known once machines have joined.
    compiled: Callable[..., Array] = compile_fn(warping_error)
    return compiled


def find_error(image: Float32, moved: Float32, weights: Float32) -> float:
    """Compute E_warp; see `temporal.warping_error`."""
    return float(_compile_error_fn()(image, moved, weights))


def move(image: Float32, motion: Motion, *, outside: Float32 | None = None) -> Float32:
    """Compute omega: another frame's image, warped to this frame; see `warping.warp`.

    As weights have soft edges, pixels from outside the image count a little, too: when they were
    taken from the unpainted frame, borders were pulled back to the photograph's colors.
    """
    return warp(image, motion.flow, kernel="linear", outside=outside)


def make_moved_start(image: Float32, motion: Motion, *, content: Float32) -> Float32:
    """Make a frame's initial image: another frame's image x, warped to it by sharp splines.

    Areas that come into sight, at a border or behind an object, start from the frame p itself in
    the colors of the paint nearby, p + G(c (omega(x) - p)) / G(c), with Gaussians G. From the frame
    alone, an unpainted area remained, as a few steps don't paint much; from the warped image, the
    paint of objects was drawn out behind them, and that of borders repeated like a kaleidoscope.
    Narrow seams, where c is 0 as well, keep the warped paint.

    Args:
      image: x, image of the other frame, float32[height, width, 3].
      motion: motion from the frame to the other one.
      content: p, the frame itself, of the same shape.
    """
    # Imported here, as it slows the start of the command line.
    from scipy.ndimage import gaussian_filter

    def blur(values: Float32, scale: float) -> Float32:
        sigma = max(image.shape[:2]) / scale
        blurred: Float32 = gaussian_filter(values, (sigma, sigma, 0), truncate=3)
        return blurred

    moved = warp(image, motion.flow, kernel="cubic", outside=None)
    weights = motion.weights[..., None]
    difference = weights * (moved - content)
    near, far = (blur(weights, scale) for scale in (_NEAR, _FAR))
    tint = (blur(difference, _NEAR) + _FAR_WEIGHT * blur(difference, _FAR)) / (
        near + _FAR_WEIGHT * far + _FAR_WEIGHT**2
    )
    known = np.clip(near / _SEAM, 0, 1) * ~is_outside(*locate(motion.flow))[..., None]
    return np.clip(known * moved + (1 - known) * (content + tint), 0, 1).astype(np.float32)


def _file_name(number: int, other: int) -> str:
    kind = "backward" if number > other else "forward"
    return f"{kind}_{number + 1}_{other + 1}.flo"


def _check_files(folder: Path, *, distances: Sequence[int], clip: Clip) -> None:
    wanted = [
        name
        for distance in sorted({1, *distances})
        for number in range(distance, clip.num_frames)
        for name in (_file_name(number, number - distance), _file_name(number - distance, number))
    ]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            expected=f"two flows for each pair of the {clip.num_frames} frames",
            remedy="write them under these names, counted from 1, or leave --flow out",
        )
    name = re.compile(r"(?:backward|forward)_(\d+)_(\d+)\.flo", re.ASCII)
    found = [name.fullmatch(path.name) for path in folder.iterdir()]
    last = max(int(number) for match in found if match for number in match.groups())
    if last > clip.num_frames:
        raise InputError(
            f"{folder} has flows of {last} frames, and {clip.name} has {clip.num_frames} to paint",
            expected="flows of the frames that are painted, after --start, --end and --every",
            remedy="compute them for these frames, or leave --flow out",
        )
