"""Access to FFmpeg through PyAV, from the extra `video`; the only module that imports it."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import PathLike, brief_cause


def has_pyav() -> bool:
    """Return whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def load_pyav(name: PathLike) -> Any:
    """Import PyAV and silence FFmpeg's messages.

    Args:
      name: name of the file that needs PyAV, for the error message.

    Raises:
      InputError: PyAV isn't installed.
    """
    try:
        import av
        import av.logging
    except ImportError as error:
        raise InputError(
            f"{name} is a film, and films need the package PyAV",
            expected="PyAV to be installed",
            remedy='run pip install "neuart_jax[video]", or use a folder of frames instead',
        ) from error
    # FFmpeg reports every defect of a damaged file; the user gets a single sentence.
    av.logging.set_level(None)
    return av


def name_file(path: PathLike) -> str:
    """Return a path in a form that FFmpeg reads as a file's even if it contains colons."""
    return f"file:{path}"


@contextlib.contextmanager
def telling(av: Any, came: str, *, expected: str, remedy: str) -> Iterator[None]:
    """Turn FFmpeg's errors in the block into an InputError with the cause in parentheses."""
    try:
        yield
    except InputError:
        raise
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        cause = brief_cause(error)
        raise InputError(f"{came} ({cause})", expected=expected, remedy=remedy) from error


def accurate_scaling(av: Any) -> Any:
    """Return flags that make FFmpeg convert colors with rounding and interpolated chroma.

    By default, colors at edges are off by up to 25 levels of 255, as chroma is taken from the
    nearest sample.
    """
    flags = av.video.reformatter.Interpolation
    return (
        flags.BICUBIC
        | flags.ACCURATE_RND
        | flags.FULL_CHR_H_INT
        | flags.FULL_CHR_H_INP
        | flags.BITEXACT
    )
