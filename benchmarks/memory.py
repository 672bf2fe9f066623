"""Memory of a process, with the standard library alone, as torch's script uses it as well."""

import re
from pathlib import Path


def peak_resident_bytes() -> int | None:
    """Return the peak resident memory of this process; None if the system doesn't report it.

    Not the value of getrusage, which includes the process that started this one.
    """
    return _read_status("VmHWM")


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None if the system doesn't report it."""
    return _read_status("VmRSS")


def _read_status(name: str) -> int | None:
    status = Path("/proc/self/status")
    match = re.search(rf"{name}:\s*(\d+) kB", status.read_text() if status.exists() else "")
    return 1024 * int(match[1]) if match else None
