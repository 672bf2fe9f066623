"""Standard output and error that end no run: closed, full, or read by nobody any more."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from neuart_jax.io.files import brief_cause


class _Lasting:
    """A text stream that drops what can't be written, and remembers why.

    Args:
      stream: to write to; None where there is none.
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
        # A text that the terminal's encoding lacks, or a closed stream, is a ValueError; a signal's
        # line that comes in the midst of another is a RuntimeError.
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, UnicodeError | RuntimeError):
                return
            self.failure = self.failure or error
            # What is still in its buffer would fail again at the process's end.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Let nothing that happens to stdout or stderr end what is done in the block."""
    before = sys.stdout, sys.stderr
    # A closed one leaves its number to the next file that is opened, into which libraries that
    # know the number only would write.
    sys.stdout, sys.stderr = (
        _Lasting(stream or open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr)
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def flush_stdout() -> str:
    """Write out what was printed; return in a few words why that failed, or nothing."""
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    return brief_cause(failure) if failure is not None else ""
