"""Optical flow in the files of the Middlebury benchmark, which most programs write.

"PIEH", the width and the height as 32-bit integers, then two 32-bit floats a pixel, to the right
and down, row by row, all little-endian. Numbers above 1e9 mean that nothing is known.
"""

import struct

import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.io.decoding import MAX_PIXELS, Float32
from neuart_jax.io.files import PathLike, brief_cause
from neuart_jax.io.paths import read_whole

_MAGIC, _HEADER = b"PIEH", struct.Struct("<4sii")
_UNKNOWN = 1e9


def load_flow(path: PathLike) -> Float32:
    """Read a flow.

    Args:
      path: a .flo file.

    Returns:
      float32[height, width, 2], in pixels to the right and down.

    Raises:
      InputError: it can't be read, is damaged, or isn't known everywhere.
    """
    remedy = "write it anew, as Middlebury's .flo"
    try:
        data = read_whole(path, most=_HEADER.size + 8 * MAX_PIXELS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} can't be read ({brief_cause(error)})",
            expected="a .flo file",
            remedy="check the name and its permissions",
        ) from error
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise InputError(f"{path} is no flow", expected="a .flo file", remedy=remedy)
    _, width, height = _HEADER.unpack_from(data)
    expected = _HEADER.size + 8 * width * height
    if width < 1 or height < 1 or len(data) != expected:
        raise InputError(
            f"{path} has {len(data)} bytes for {width}x{height} pixels",
            expected=f"{max(expected, 0)} bytes, and sides of at least 1",
            remedy=remedy,
        )
    flow = np.frombuffer(data, "<f4", offset=_HEADER.size).reshape(height, width, 2)
    if not (np.abs(flow) < _UNKNOWN).all():
        raise InputError(
            f"{path} doesn't know the flow of every pixel",
            expected="finite numbers below 1e9",
            remedy="fill the gaps, or let the flow be found from the frames",
        )
    return flow.astype(np.float32)
