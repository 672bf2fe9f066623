"""Files that a user names, read in a process of their own.

Whatever a damaged file does to the library that reads it, a crash, a hang or an enormous
allocation, it does to that process, and this one gets a sentence.
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
"""What `read_in_process` is."""

MOST_SECONDS = 60.0
"""That reading a small file may take."""

_BYTES_PER_SECOND = 4e6  # Of a slow disk or network.
# Beyond the libraries themselves: a packed file's contents twice, and room to work.
_MOST_EXPANSION = 10
_ROOM_BYTES = 2**28


def read_in_process(kind: str, path: Path) -> dict[str, Any]:
    """Read a file without trusting it.

    Args:
      kind: of `raw_layers.READERS`, whose functions say what is returned.
      path: the file.

    Raises:
      ValueError: it is damaged, or no such file; with the reason, which is fit for brackets.
      OSError: there is no such file.
    """
    num_bytes = path.stat().st_size
    seconds = MOST_SECONDS + num_bytes / _BYTES_PER_SECOND
    most_bytes = _ROOM_BYTES + _MOST_EXPANSION * num_bytes
    # -P: modules of this folder are nobody else's. What can be imported here can be there.
    command = [sys.executable, "-P", raw_layers.__file__, kind, os.fspath(path), str(most_bytes)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Threads would take address space, which is what is limited.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        # A file takes less time and memory than a pipe: the arrays are 80 MB.
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
        raise ValueError(f"its reader can't be run: {error}") from error


def remember_readings() -> ReadFn:
    """Return a `read_in_process` that reads each file once, and remembers its failures, too."""

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
