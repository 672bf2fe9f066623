"""Read a user's files in a separate process.

A crash, a hang or an enormous allocation caused by a damaged file happens in that process only, and
is reported here as one sentence.
"""

import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuart_jax.models.params.formats import raw_layers

ReadFn = Callable[[str, Path], dict[str, Any]]
"""Type of `read_in_process`."""

MOST_SECONDS = 60.0
"""Time limit for a small file."""

_BYTES_PER_SECOND = 4e6  # Of a slow disk or network.
# Memory beyond the libraries: the contents of a compressed file twice, and working space.
_MOST_EXPANSION = 10
_ROOM_BYTES = 2**28


def read_in_process(kind: str, path: Path) -> dict[str, Any]:
    """Read an untrusted file in a separate process with limits on memory and time.

    Args:
      kind: key of `raw_layers.READERS`, whose functions document the result.
      path: the file.

    Raises:
      ValueError: the file is damaged or of another format, with the reason in a few words.
      OSError: the file doesn't exist.
    """
    num_bytes = path.stat().st_size
    seconds = MOST_SECONDS + num_bytes / _BYTES_PER_SECOND
    most_bytes = _ROOM_BYTES + _MOST_EXPANSION * num_bytes
    # -P keeps this folder off the child's module path; the path of this process is passed on.
    command = [sys.executable, "-P", raw_layers.__file__, kind, os.fspath(path), str(most_bytes)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Threads would use up address space, which is limited.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        # For 80 MB of arrays a file takes less time and memory than a pipe.
        with tempfile.TemporaryFile(prefix="neuart_jax-") as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                check=False,
                timeout=seconds,
                env=environment,
            )
            output.seek(0)
            if done.returncode == raw_layers.REFUSED:
                raise ValueError(output.read().decode(errors="replace"))
            if done.returncode:
                raise ValueError(_describe_end(done))
            return raw_layers.load_document(output)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"its reader did not end within {seconds:.0f} seconds") from error
    except OSError as error:
        raise ValueError(f"its reader can't be started: {error}") from error


def remember_readings() -> ReadFn:
    """Return a memoized `read_in_process`, which caches failures as well."""

    @functools.cache
    def attempt(kind: str, path: Path) -> dict[str, Any] | Exception:
        try:
            return read_in_process(kind, path)
        except (OSError, ValueError) as error:
            return error

    def read(kind: str, path: Path) -> dict[str, Any]:
        result = attempt(kind, path)
        if isinstance(result, Exception):
            raise result
        return result

    return read


def _describe_end(done: subprocess.CompletedProcess[bytes]) -> str:
    code = -done.returncode
    if code in set(signal.Signals):
        return f"its reader crashed: {signal.strsignal(code) or signal.Signals(code).name}"
    lines = done.stderr.decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f"its reader failed: {said[-1] if said else f'exit code {done.returncode}'}"
