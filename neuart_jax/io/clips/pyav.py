"""FFmpeg by way of PyAV, which the extra `video` brings: the one module that imports it."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import PathLike, brief_cause


def has_pyav() -> bool:
    """Tell whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def load_pyav(name: PathLike) -> Any:
    """Import PyAV and keep FFmpeg's messages in.

    Args:
      name: the file that it is wanted for, for the message.

    Raises:
      InputError: it isn't installed.
    """
    try:
        import av
        import av.logging
    except ImportError as error:
        raise InputError(
            f"{name} is a film, which takes an extra to read and to write",
            expected="PyAV beside this package",
            remedy='install it with pip install "neuart_jax[video]", or take the pictures out into '
            "a folder",
        ) from error
    # Each oddity of a damaged file, of which one sentence has to be enough.
    av.logging.set_level(None)
    return av


def name_file(path: PathLike) -> str:
    """Return a path so that FFmpeg takes it for a file's, whatever colons are in it."""
    return f"file:{path}"


@contextlib.contextmanager
def telling(av: Any, came: str, *, expected: str, remedy: str) -> Iterator[None]:
    """Turn FFmpeg's errors in the block into an InputError with the cause in brackets."""
    try:
        yield
    except InputError:
        raise
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        cause = brief_cause(error)
        raise InputError(f"{came} ({cause})", expected=expected, remedy=remedy) from error


def accurate_scaling(av: Any) -> Any:
    """Return what makes FFmpeg convert colors with rounding, and with every pixel's own color.

    By default colors are off by up to 25 levels of 255 at edges, since each is that of the nearest
    of the pixels that have one.
    """
    flags = av.video.reformatter.Interpolation
    return (
        flags.BICUBIC
        | flags.ACCURATE_RND
        | flags.FULL_CHR_H_INT
        | flags.FULL_CHR_H_INP
        | flags.BITEXACT
    )
