"""Entry point of a measured process: reads a job from stdin and writes its figures to a file."""

import json
import os
import sys
from pathlib import Path

from benchmarks.device_jobs import DEVICE_JOBS
from benchmarks.jobs import JOBS
from neuart_jax.config.errors import InputError
from neuart_jax.engine.compilation_cache import use_compilation_cache
from neuart_jax.engine.compile import give_back_after_compiling
from neuart_jax.io.files import dump_json


def main(import_seconds: float) -> None:
    """Run one job.

    Args:
      import_seconds: time of the package's import, measured by the caller.
    """
    # As commands do.
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        use_compilation_cache(Path(folder))
    give_back_after_compiling()
    job = json.load(sys.stdin) | {"import_seconds": import_seconds}
    try:
        figures = (JOBS | DEVICE_JOBS)[job["kind"]](job)
    except InputError as error:
        bad = {"came": error.came, "expected": error.expected, "remedy": error.remedy}
        figures = {"bad_input": bad}
    # Mostly running out of memory; the error is shown in the table, and other jobs continue.
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        figures = {"error": f"{type(error).__name__}: {text}"}
    # Renamed at the end, so that an existing file is complete.
    temporary = Path(job["result"] + ".tmp")
    temporary.write_text(dump_json(figures))
    os.replace(temporary, job["result"])
