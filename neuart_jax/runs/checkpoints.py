"""Checkpoints: where a run is, on the disk, so that a crash costs its last seconds only.

Each is whole or not there at all, and says itself what it belongs to and whether it is intact. The
one before it stays until the next is complete.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import OutputConfig
from neuart_jax.engine.sharding import agree, writes_files
from neuart_jax.engine.state import PairState, RunState, ScaleResult
from neuart_jax.engine.step import Status
from neuart_jax.io.files import brief_cause, make_folder, remove_leftovers, write_atomically
from neuart_jax.io.sealed import seal, unseal
from neuart_jax.runs.record import Record, refuse

logger = logging.getLogger(__name__)

_VERSION = 4
_NAME = re.compile(r"([0-9]{6,18})\.checkpoint", re.ASCII)
_KEPT = 2
# Of the run's time, at the most: a huge image's state takes long to write.
_SHARE_OF_TIME = 0.05


class Checkpoints:
    """The checkpoints of one run, or of a batch that runs as one.

    Args:
      path: their folder; made with the first one.
      records: of the batch's pairs, in their order: what the checkpoints belong to.
      seconds: between two of them; 0 writes none.
    """

    def __init__(self, path: Path, records: Sequence[Record], *, seconds: float) -> None:
        self._path = path
        self._records = list(records)
        self._seconds = seconds
        self._last = time.monotonic()
        self._cost = 0.0
        self._number = 0
        self._failed = False

    def restore(self, output: OutputConfig) -> RunState | None:
        """Return where to go on, which is said; else None, and what is there is removed.

        Args:
          output: of the run: whether it is to go on, and whether another run's may be dropped.

        Raises:
          InputError: the checkpoints belong to another run.
        """
        make_folder(self._path.parent)
        # Parts of one's own that nobody has named may be others by now.
        resumes = output.resume and not any(record.is_unnamed for record in self._records)
        state = self.load(overwrite=output.overwrite) if resumes else None
        if state is None:
            self.remove()
        else:
            steps = min(pair.history[-1]["step"] for pair in state.pairs)
            logger.info("Going on after step %d, from %s.", steps, self._path)
        return state

    def load(self, *, overwrite: bool = False) -> RunState | None:
        """Return the last intact state; None if there is none.

        One that is damaged is passed over, with a warning that says so.

        Args:
          overwrite: take those of another run for none.

        Raises:
          InputError: the checkpoints belong to another run.
        """
        numbers = find_checkpoints(self._path)
        self._number = max(numbers, default=0)
        for number in reversed(numbers):
            try:
                facts, arrays = _read(self._path, number)
                records = [Record.from_dict(each) for each in facts["records"]]
                state = _from_plain(arrays, facts["run"])
            # Anything may be wrong with a file that was cut short, or that another version wrote.
            except Exception as error:
                logger.warning(
                    "Checkpoint %s can't be used (%s).",
                    _file(self._path, number),
                    brief_cause(error),
                )
                continue
            if differences := self._compare(records):
                if not overwrite:
                    refuse(self._path.parent, differences)
                return None
            for there, here in zip(records, self._records, strict=True):
                if changed := here.differences(there):
                    what = ", ".join(changed)
                    logger.warning("Pixels may differ: the run was begun with other %s.", what)
            return state
        return None

    def _compare(self, records: Sequence[Record]) -> list[str]:
        if len(records) != len(self._records):
            return [f"{len(records)} pairs there, {len(self._records)} here"]
        pairs = zip(self._records, records, strict=True)
        return [difference for here, there in pairs for difference in here.unlike(there)]

    def keep(self, fetch: Callable[[], RunState], *, now: bool = False) -> None:
        """Write a checkpoint if it is time for one. A failure is a warning: the run goes on.

        Args:
          fetch: see `state.CheckpointFn`.
          now: whether it is time in any case, but for runs that keep none.
        """
        waited = time.monotonic() - self._last
        due = waited >= max(self._seconds, self._cost / _SHARE_OF_TIME)
        if not self._seconds or not agree(now or due):
            return
        began = time.monotonic()
        state = fetch()
        try:
            if writes_files():
                self._write(state)
        except (OSError, InputError) as error:
            if not self._failed:
                logger.warning(
                    "No checkpoint could be written to %s (%s); the run goes on without.",
                    self._path,
                    brief_cause(error.__cause__ or error),
                )
            self._failed = True
        self._last = time.monotonic()
        self._cost = self._last - began

    def _write(self, state: RunState) -> None:
        arrays, run = _to_plain(state)
        facts = {
            "version": _VERSION,
            "records": [record.to_dict() for record in self._records],
            "run": run,
            "arrays": {name: [array.dtype.name, array.shape] for name, array in arrays.items()},
        }
        # Not made again where somebody has removed it: the result would have no place either.
        self._path.parent.stat()
        self._path.mkdir(exist_ok=True)
        self._number += 1
        blobs = {name: _bytes_of(array) for name, array in arrays.items()}
        try:
            self._write_file(facts, blobs)
        except InputError as error:
            full = getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if not full or len(find_checkpoints(self._path)) < _KEPT:
                raise
            # The last one is enough to go on from.
            self._drop_old(1)
            self._write_file(facts, blobs)
        self._drop_old(_KEPT)

    def _write_file(self, facts: Mapping[str, Any], blobs: Mapping[str, memoryview]) -> None:
        with write_atomically(_file(self._path, self._number)) as file:
            for part in seal(facts, blobs):
                file.write(part)

    def _drop_old(self, count: int) -> None:
        for number in find_checkpoints(self._path)[:-count]:
            _file(self._path, number).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of them; the result is there."""
        if writes_files():
            remove_checkpoints(self._path)


def remove_checkpoints(path: Path) -> None:
    """Remove the checkpoints in a folder, and the folder if there is nothing else in it."""
    with contextlib.suppress(OSError):
        remove_leftovers(path, seconds=0)
        for number in find_checkpoints(path):
            _file(path, number).unlink(missing_ok=True)
        path.rmdir()


def read_owners(path: Path) -> list[Record]:
    """Return the records of the run that the last checkpoint in a folder belongs to.

    Empty if there is none, or none that can be read.
    """
    for number in reversed(find_checkpoints(path)):
        try:
            return [Record.from_dict(each) for each in _read(path, number)[0]["records"]]
        except Exception as error:  # As in `Checkpoints.load`, which says so.
            logger.debug("%s", error)
    return []


def find_checkpoints(path: Path) -> list[int]:
    """Return the numbers of the complete checkpoints in a folder, the oldest first."""
    with contextlib.suppress(OSError):
        return sorted(
            int(found[1]) for name in os.listdir(path) if (found := _NAME.fullmatch(name))
        )
    return []


def _file(path: Path, number: int) -> Path:
    return path / f"{number:06d}.checkpoint"


def _read(path: Path, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    facts, blobs = unseal(_file(path, number).read_bytes())
    if facts["version"] != _VERSION:
        raise ValueError("it is of another version")
    arrays = {
        # Also of types that aren't numpy's own, such as bfloat16.
        name: np.frombuffer(blobs[name], np.uint8).view(jnp.dtype(dtype)).reshape(shape)
        for name, (dtype, shape) in facts["arrays"].items()
    }
    return facts, arrays


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _to_plain(state: RunState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Take a state apart: named arrays, and the rest as JSON."""
    arrays = {f"state{number:03d}": array for number, array in enumerate(state.arrays or [])}
    pairs = []
    for number, pair in enumerate(state.pairs):
        scales = []
        for level, result in enumerate(pair.scales):
            figures = result._asdict() | {"status": result.status.name}
            for field in _ARRAYS:
                arrays[f"pair{number}_scale{level}_{field}"] = np.asarray(figures.pop(field))
            # Of a scale that is done the next one has it already.
            del figures["opt_state"], figures["parameters"]
            scales.append(figures)
        pairs.append({**dataclasses.asdict(dataclasses.replace(pair, scales=[])), "scales": scales})
    facts = dataclasses.asdict(dataclasses.replace(state, pairs=[], arrays=None))
    return arrays, {**facts, "pairs": pairs}


_ARRAYS = ("image", "step_losses")


def _from_plain(arrays: Mapping[str, np.ndarray], run: Mapping[str, Any]) -> RunState:
    """Put a state together again."""
    pairs = []
    for number, pair in enumerate(run["pairs"]):
        scales = [
            ScaleResult(
                **figures
                | {"status": Status[figures["status"]]}
                | {field: arrays[f"pair{number}_scale{level}_{field}"] for field in _ARRAYS}
            )
            for level, figures in enumerate(pair["scales"])
        ]
        pairs.append(PairState(**{**pair, "scales": scales}))
    leaves = [arrays[name] for name in sorted(arrays) if name.startswith("state")]
    return RunState(**{**run, "pairs": pairs, "arrays": leaves})
