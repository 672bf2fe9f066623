"""Optical flow files in the Middlebury format (.flo), which most programs write.

A file has "PIEH", the width and the height as 32-bit integers, then two 32-bit floats per pixel, to
the right and down, row by row, all little-endian. Values above 1e9 mark unknown flow.
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
    """Load an optical flow.

    Args:
      path: path of a .flo file.

    Returns:
      float32[height, width, 2], in pixels to the right and down.

    Raises:
      InputError: the file can't be read or is damaged, or the flow of some pixels is unknown.
    """
    remedy = "write it again, as Middlebury's .flo"
    try:
        data = read_whole(path, most=_HEADER.size + 8 * MAX_PIXELS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} can't be read ({brief_cause(error)})",
            expected="a .flo file",
            remedy="check the name and its permissions",
        ) from error
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise InputError(f"{path} is not a flow file", expected="a .flo file", remedy=remedy)
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
            f"{path} lacks the flow of some pixels",
            expected="finite numbers below 1e9",
            remedy="fill the gaps, or have the flow estimated from the frames",
        )
    return flow.astype(np.float32)
