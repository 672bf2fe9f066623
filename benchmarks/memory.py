"""How much memory a process has taken: of the standard library alone, for torch's script, too."""

import re
from pathlib import Path


def peak_resident_bytes() -> int | None:
    """Return the most memory that this process ever held; None where the system doesn't say.

    Not getrusage's figure, which counts the process that started this one.
    """
    return _read_status("VmHWM")


def resident_bytes() -> int | None:
    """Return the memory that this process holds; None where the system doesn't say."""
    return _read_status("VmRSS")


def _read_status(name: str) -> int | None:
    status = Path("/proc/self/status")
    match = re.search(rf"{name}:\s*(\d+) kB", status.read_text() if status.exists() else "")
    return 1024 * int(match[1]) if match else None
