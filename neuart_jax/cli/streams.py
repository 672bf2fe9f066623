"""Make stdout and stderr safe to write: closed, full or broken streams don't end a run."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from neuart_jax.io.files import brief_cause


class _Lasting:
    """A text stream that drops text it can't write, and keeps the first error.

    Args:
      stream: the stream to write to.
    """

    def __init__(self, stream: Any) -> None:
        self.failure: Exception | None = None
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        # Unencodable text and closed streams raise ValueError; a signal handler that prints while
        # another line is being written raises RuntimeError.
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, UnicodeError | RuntimeError):
                return
            self.failure = self.failure or error
            # Text left in the buffer would fail again when the process exits.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Ignore errors of stdout and stderr within the block."""
    before = sys.stdout, sys.stderr
    # A closed stream's file descriptor would be reused by the next file that is opened, and
    # libraries that write to descriptor 1 or 2 would write into that file.
    sys.stdout, sys.stderr = (
        _Lasting(stream or open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr)
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def flush_stdout() -> str:
    """Flush stdout; return the cause of a failure in a few words, or an empty string."""
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    return brief_cause(failure) if failure is not None else ""
