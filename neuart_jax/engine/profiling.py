"""Where the time of a run goes: seconds by phase, and traces of compiled steps.

A function marks its phase with `phase`, and a caller that wants to know uses `recording`. Without a
recording, marks cost nothing that could be measured.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax

from neuart_jax.io.files import brief_cause

logger = logging.getLogger(__name__)

PROGRAMS = "programs"
"""Phase of tracing, lowering, compiling, and loading what an earlier run compiled."""

PROFILER = "profiler"
"""Phase of what a recording itself takes."""

# JAX reports these from whatever phase the first call of a program is in. Tracing isn't among them,
# as traces of functions within functions are reported one by one, besides their sum.
_COMPILATION = ("/jaxpr_to_mlir_module_duration", "/backend_compile_duration")


class Trace(NamedTuple):
    """A trace of a compiled chunk of steps.

    Attributes:
      folder: folder of the trace, as `jax.profiler` writes it.
      program: text of the compiled program, whose metadata name the part of each operation.
      seconds: seconds of the chunk.
    """

    folder: Path
    program: str
    seconds: float


class Recording:
    """Seconds by phase, and traces.

    Args:
      folder: folder in which traces are written.

    Attributes:
      seconds: seconds of every phase, without those of phases within it, in order of appearance.
      evaluations: number of evaluations of the objective in phases that have any.
      traces: trace of the first whole chunk at each size, by the name of its phase.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seconds: dict[str, float] = {}
        self.evaluations: dict[str, int] = {}
        self.traces: dict[str, Trace] = {}
        self._open: list[str] = []
        self._traced: set[str] = set()
        self._since = time.perf_counter()

    @property
    def phase(self) -> str:
        """Name of the innermost open phase; empty outside all phases."""
        return self._open[-1] if self._open else ""

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def switch(self) -> None:
        """Count the time since the last switch for the innermost open phase."""
        now = time.perf_counter()
        self.add(self.phase, now - self._since)
        self._since = now

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Count the time of a block for a phase."""
        self.switch()
        self._open.append(name)
        try:
            yield
        finally:
            self.switch()
            self._open.pop()

    def move(self, seconds: float) -> None:
        """Count the last seconds of the current phase as compilation."""
        if self.phase not in (PROGRAMS, PROFILER):
            self.switch()
            self.add(self.phase, -seconds)
            self.add(PROGRAMS, seconds)

    def trace(self, fn: Any, *args: Any) -> Any:
        """Call a compiled function, and trace it if this is the first time in this phase."""
        name = self.phase
        if name in self._traced:
            return fn(*args)
        self._traced.add(name)
        folder = self._folder / name.replace(" ", "_")
        with self.inside(PROFILER):
            # With arrays, as the function may donate them. Compiled already.
            program = fn.lower(*args).compile().as_text()
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            try:
                jax.profiler.start_trace(str(folder), profiler_options=options)
            except RuntimeError as error:  # Such as a profiler that another process uses.
                _warn(name, error)
                program = ""
        if not program:
            return fn(*args)
        began, seconds = time.perf_counter(), 0.0
        try:
            found = jax.block_until_ready(fn(*args))
            seconds = time.perf_counter() - began
        finally:
            with self.inside(PROFILER):
                try:
                    jax.profiler.stop_trace()
                    self.traces[name] = Trace(folder, program, seconds)
                except (OSError, RuntimeError) as error:  # Such as a full disk.
                    _warn(name, error)
        return found


def _warn(name: str, error: Exception) -> None:
    logger.warning("There is no trace of %s: %s.", name, brief_cause(error))


_current: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[Recording]:
    """Record the phases of the calling thread.

    Args:
      folder: existing folder in which traces are written.
    """
    recorded = Recording(folder)
    token = _current.set(recorded)
    _listen()
    try:
        yield recorded
    finally:
        recorded.switch()
        _current.reset(token)


@functools.cache
def _listen() -> None:
    """Count compilations, from now on in this process: JAX has no public way to end this."""

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if (recorded := _current.get()) is not None and event.endswith(_COMPILATION):
            recorded.move(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time of a block, or as a decorator of a function, for a phase of the recording."""
    recorded = _current.get()
    with contextlib.nullcontext() if recorded is None else recorded.inside(name):
        yield


def count_evaluations(number: int) -> None:
    """Add to the number of evaluations of the current phase."""
    if (recorded := _current.get()) is not None:
        counts = recorded.evaluations
        counts[recorded.phase] = counts.get(recorded.phase, 0) + number


def traced(fn: Any, *args: Any) -> Any:
    """Call a compiled function, with a trace if a recording has none of this phase yet."""
    recorded = _current.get()
    return fn(*args) if recorded is None else recorded.trace(fn, *args)
