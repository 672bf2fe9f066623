"""A report of where the time of a run went, as tables, JSON and traces."""

import contextlib
import itertools
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from neuart_jax.config.errors import InputError
from neuart_jax.engine.profiling import Recording, Trace, recording
from neuart_jax.engine.step import OPTIMIZER
from neuart_jax.io.files import brief_cause, dump_json, make_folder, write_atomically
from neuart_jax.objective.term import LOSSES, NETWORK
from neuart_jax.runs.tables import Row, to_markdown

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

REPORT_NAME = "profile.md"
"""Name of the tables' file in the folder of a profile."""

_JSON_NAME = "profile.json"
_OTHER = "other"
_GRADIENT = "{}, gradient"
# An operation's metadata have the scopes that it was traced in: those of the parts, and what JAX
# made of them, such as transpose(jvp(network)).
_PART = re.compile(rf"\b({NETWORK}|{LOSSES}|{OPTIMIZER})\b")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?(\S+) = (?:\(.*?\) |\S+ )([a-z][\w-]*)\(")
_SCOPE = re.compile(r'op_name="([^"]*)"')
# Operations whose time is that of the operations within them.
_CONTAINERS = {"while", "conditional", "call"}
# Lines of devices that don't show operations, or show them a second time.
_SUMMARIES = {"XLA Modules", "Framework Ops", "Framework Name Scope", "Steps", "Source code"}
_MOST_OPERATIONS = 12
_UNNAMED = (
    "This program was compiled by an earlier version, which didn't name the parts of a step; "
    "--nocompilation_cache compiles it again."
)


class Operation(NamedTuple):
    """A kind of operation in a trace.

    Attributes:
      name: name in the compiled program.
      part: part of the step that it belongs to.
      scope: where it was traced.
      seconds: seconds of all its calls.
    """

    name: str
    part: str
    scope: str
    seconds: float


def read_trace(trace: Trace) -> list[Operation]:
    """Return the operations of a trace, the longest first.

    Fused operations belong to the part of their result. On accelerators, seconds are those that
    each operation reports. On CPUs, an operation reports only a part of the work that it leaves to
    other threads, and operations follow one another: there, seconds are those from the start of an
    operation to the start of the next one.
    """
    scopes = _read_scopes(trace.program)
    seconds: dict[str, float] = dict.fromkeys(scopes, 0.0)
    for path in trace.folder.rglob("*.xplane.pb"):
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        for name, spent in _read_durations(devices) if devices else _read_order(planes):
            if name in seconds:
                seconds[name] += spent
    found = [
        Operation(name, find_part(scopes[name]), scopes[name], spent)
        for name, spent in seconds.items()
        if spent
    ]
    return sorted(found, key=lambda each: -each.seconds)


def _read_durations(planes: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """Yield the name and the seconds of every event of an operation."""
    for event, name in _read_events(planes):
        yield name, event.duration_ns / 1e9


def _read_order(planes: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """Yield operations in the order of their starts, with the seconds until the next one starts."""
    events = list(_read_events(planes))
    starts = sorted((event.start_ns, name) for event, name in events)
    end = max((event.end_ns for event, _ in events), default=0.0)
    for (start, name), (following, _) in itertools.pairwise([*starts, (end, "")]):
        yield name, (following - start) / 1e9


def _read_events(planes: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Yield the events of operations that contain no others, with the operations' names."""
    for plane in planes:
        for line in plane.lines:
            if line.name in _SUMMARIES:
                continue
            for event in line.events:
                name = str(dict(event.stats).get("hlo_op", ""))
                if name and name.partition(".")[0] not in _CONTAINERS:
                    yield event, name


def _read_scopes(program: str) -> dict[str, str]:
    """Return where each operation of a compiled program was traced, by its name."""
    scopes = {}
    for line in program.splitlines():
        match = _OPERATION.match(line)
        if match is not None and match[2] not in _CONTAINERS:
            scope = _SCOPE.search(line)
            scopes[match[1]] = scope[1] if scope is not None else ""
    return scopes


def find_part(scope: str) -> str:
    """Return the part of the step that a scope of an operation belongs to."""
    match = _PART.search(scope)
    if match is None:
        return _OTHER
    is_gradient = match[1] != OPTIMIZER and "transpose(" in scope[: match.start()]
    return _GRADIENT.format(match[1]) if is_gradient else match[1]


def sum_parts(operations: Sequence[Operation]) -> dict[str, float]:
    """Return the seconds of every part of the step, for those that have any."""
    parts = (NETWORK, _GRADIENT.format(NETWORK), LOSSES, _GRADIENT.format(LOSSES), OPTIMIZER)
    seconds = dict.fromkeys((*parts, _OTHER), 0.0)
    for operation in operations:
        seconds[operation.part] += operation.seconds
    return {part: spent for part, spent in seconds.items() if spent}


class Profile(NamedTuple):
    """A finished profile.

    Attributes:
      path: path of the report.
      text: the report, in Markdown.
    """

    path: Path
    text: str


def record_profile(fn: Callable[[], _T], folder: Path) -> tuple[_T, Profile | None]:
    """Call a function, and write where its time went to a folder.

    Args:
      fn: the function.
      folder: folder of the report and the traces, new or empty.

    Returns:
      The function's result, and the profile; None, and a log line, if it can't be written. If the
      function raises, nothing is left in the folder.

    Raises:
      InputError: the folder can't be made, or isn't empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"--profile={folder} is there already",
            expected="a new folder, or an empty one",
            remedy="give another name",
        )
    was_there = folder.exists()
    make_folder(folder, name="profile")
    began, age = time.perf_counter(), _find_age()
    with recording(folder) as recorded:
        try:
            found = fn()
        except BaseException:
            for trace in recorded.traces.values():
                shutil.rmtree(trace.folder, ignore_errors=True)
            if not was_there:
                with contextlib.suppress(OSError):  # Somebody else's files may be there by now.
                    folder.rmdir()
            raise
    recorded.add("start of Python and JAX", age)
    try:
        return found, _report(recorded, folder, total=age + time.perf_counter() - began)
    # The work is done; a full disk or a damaged trace must not make a failure of it.
    except (OSError, RuntimeError) as error:
        logger.warning("The profile can't be written to %s: %s.", folder, brief_cause(error))
        return found, None


def _report(recorded: Recording, folder: Path, *, total: float) -> Profile:
    traces = {name: read_trace(trace) for name, trace in recorded.traces.items()}
    text = _describe(recorded, traces, total=total)
    document = {
        "total_seconds": total,
        "seconds": {name or _OTHER: spent for name, spent in recorded.seconds.items()},
        "evaluations": recorded.evaluations,
        "traces": {
            name: {
                "folder": recorded.traces[name].folder.name,
                "seconds": recorded.traces[name].seconds,
                "parts": sum_parts(operations),
                "operations": [each._asdict() for each in operations],
            }
            for name, operations in traces.items()
        },
    }
    for name, content in {REPORT_NAME: text, _JSON_NAME: dump_json(document, indent=2)}.items():
        with write_atomically(folder / name) as file:
            file.write(content.encode())
    return Profile(folder / REPORT_NAME, text)


def _find_age() -> float:
    """Return the seconds since this process began; 0 where the system doesn't tell."""
    try:
        # The process's name, the second field, may have spaces and parentheses.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


def _describe(
    recorded: Recording, traces: Mapping[str, Sequence[Operation]], *, total: float
) -> str:
    """Return the report in Markdown."""
    rows: list[Row] = []
    for name, spent in sorted(recorded.seconds.items(), key=lambda item: -item[1]):
        row: dict[str, Any] = {"phase": name or _OTHER, "seconds": spent}
        row["share"] = f"{spent / total:.1%}"
        if number := recorded.evaluations.get(name):
            row |= {"evaluations": number, "seconds each": spent / number}
        rows.append(row)
    parts = [f"{to_markdown(rows)}\n{total:.1f} seconds altogether.\n"]
    for name, operations in traces.items():
        seconds = sum_parts(operations)
        busy = sum(seconds.values()) or 1e-9
        parts.append(
            f"A chunk of {name}, traced: {recorded.traces[name].seconds:.2f} s, {busy:.2f} s of it "
            "in these parts.\n"
        )
        if list(seconds) == [_OTHER]:
            parts.append(f"{_UNNAMED}\n")
        shares = {part: f"{spent / busy:.1%}" for part, spent in seconds.items()}
        parts.append(
            to_markdown([{"part": n, "seconds": s, "share": shares[n]} for n, s in seconds.items()])
        )
        parts.append(
            to_markdown(
                [
                    {
                        "operation": each.name,
                        "part": each.part,
                        "seconds": each.seconds,
                        "share": f"{each.seconds / busy:.1%}",
                    }
                    for each in operations[:_MOST_OPERATIONS]
                ]
            )
        )
    return "\n".join(parts)
