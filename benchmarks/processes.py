"""Measured processes: a fresh one for every job, so that jobs don't affect each other."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause

Figures = dict[str, Any]

TORCH_SCRIPT = Path(__file__).with_name("torch_objective.py")

_ENTER = """
import time
began = time.perf_counter()
seconds = time.perf_counter() - began
from benchmarks import child
child.main(seconds)
"""


class Job(NamedTuple):
    """A job for a process.

    Attributes:
      task: description of the job, for `jobs` or `torch_objective`.
      interpreter: empty for this one, with jax, or another one for `TORCH_SCRIPT`.
      cache: folder for compiled programs; empty for no cache.
      time_limit: seconds after which the process is killed; None waits.
      environment: environment variables in addition to those of this process.
    """

    task: Mapping[str, Any]
    interpreter: str = ""
    cache: str = ""
    time_limit: float | None = None
    environment: Mapping[str, str] = MappingProxyType({})


RunJob = Callable[[Job], Figures]


def run_job(job: Job) -> Figures:
    """Run a job in a separate process.

    Returns:
      The figures of the job, or an "error" with a sentence.

    Raises:
      InputError: the job raised one, or the interpreter can't be run.
    """
    command = [sys.executable, "-c", _ENTER]
    if job.interpreter:
        command = [job.interpreter, str(TORCH_SCRIPT)]
    environment = {
        name: text for name, text in os.environ.items() if "COMPILATION_CACHE" not in name
    }
    environment |= job.environment
    if job.cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = job.cache
    if not job.interpreter:
        # This package, whatever the process's working folder.
        root = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [root, os.environ.get("PYTHONPATH")])
        )
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        task = {**job.task, "result": str(result), "spawned": time.time()}
        try:
            done = subprocess.run(
                command,
                input=json.dumps(task),
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                timeout=job.time_limit,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"the process was ended after {job.time_limit:g} s"}
        except OSError as error:
            raise InputError(
                f"{command[0]} can't be run ({brief_cause(error)})",
                expected="a Python interpreter",
                remedy="check --torch_python",
            ) from error
        if not result.exists():
            return {"error": _describe_end(done)}
        figures: Figures = json.loads(result.read_text())
    if "bad_input" in figures:
        raise InputError(**figures["bad_input"])
    return figures


def run_rounds(
    jobs: Mapping[str, Job], *, rounds: int, run: RunJob = run_job
) -> dict[str, list[Figures]]:
    """Run jobs interleaved, A B C A B C, so that changes in the machine's speed affect all equally.

    A failed job isn't repeated.

    Args:
      jobs: jobs by name.
      rounds: number of runs of each job.
      run: runs a job.

    Returns:
      The figures of every round, by name.
    """
    found: dict[str, list[Figures]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            if not any("error" in figures for figures in found[name]):
                found[name].append(run(job))
    return found


def _describe_end(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"the process was killed by signal {-done.returncode}; was the memory enough?"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return f"the process ended with {done.returncode}: {lines[-1][:300] if lines else 'no word'}"
