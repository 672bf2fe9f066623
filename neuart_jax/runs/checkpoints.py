"""Checkpoints of a run's state, so that a crash costs only the last seconds.

Every checkpoint is written atomically, and contains the record of its run and a checksum. The
previous one is kept until the next is complete.
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
from neuart_jax.engine.profiling import phase
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
# Largest share of the run's time: the state of a huge image takes long to write.
_SHARE_OF_TIME = 0.05


class Checkpoints:
    """The checkpoints of a run, or of a batch of pairs that run together.

    Args:
      path: folder of the checkpoints, created with the first one.
      records: records of the pairs, in order, which identify the run.
      seconds: interval between checkpoints; 0 writes none.
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
        """Return the state to resume from and log it; otherwise remove old checkpoints.

        Args:
          output: settings that say whether to resume, and whether another run's checkpoints may be
            removed.

        Returns:
          The state, or None if the run starts from the beginning.

        Raises:
          InputError: the checkpoints belong to another run.
        """
        make_folder(self._path.parent)
        # Custom parts without a label may have changed.
        resumes = output.resume and not any(record.is_unnamed for record in self._records)
        state = self.load(overwrite=output.overwrite) if resumes else None
        if state is None:
            self.remove()
        else:
            steps = min(pair.history[-1]["step"] for pair in state.pairs)
            logger.info("Resuming after step %d, from %s.", steps, self._path)
        return state

    def load(self, *, overwrite: bool = False) -> RunState | None:
        """Return the last intact state; None if there is none.

        Damaged checkpoints are skipped with a warning.

        Args:
          overwrite: whether to ignore checkpoints of another run.

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
            # A truncated file, or one from another version, may raise any exception.
            except Exception as error:
                logger.warning(
                    "Skipping checkpoint %s, which can't be used (%s).",
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
                    logger.warning(
                        "Pixels may differ slightly: the run was started with a different setup "
                        "(%s).",
                        what,
                    )
            return state
        return None

    def _compare(self, records: Sequence[Record]) -> list[str]:
        if len(records) != len(self._records):
            return [f"{len(records)} pairs there, {len(self._records)} here"]
        pairs = zip(self._records, records, strict=True)
        return [difference for here, there in pairs for difference in here.unlike(there)]

    @phase("output")
    def keep(self, fetch: Callable[[], RunState], *, now: bool = False) -> None:
        """Write a checkpoint if one is due. A failure is a warning: the run continues.

        Args:
          fetch: returns the state; see `state.CheckpointFn`.
          now: whether to write one in any case, unless checkpoints are off.
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
                    "No checkpoint could be written to %s (%s); the run continues without.",
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
        # Raises if the run's folder was removed: it isn't created again for a checkpoint.
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
            # On a full disk, the last checkpoint alone is enough.
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
        """Remove all checkpoints, once the result is saved."""
        if writes_files():
            remove_checkpoints(self._path)


def remove_checkpoints(path: Path) -> None:
    """Remove the checkpoints in a folder, and the folder if it is empty then."""
    with contextlib.suppress(OSError):
        remove_leftovers(path, seconds=0)
        for number in find_checkpoints(path):
            _file(path, number).unlink(missing_ok=True)
        path.rmdir()


def read_owners(path: Path) -> list[Record]:
    """Return the records in the last checkpoint of a folder.

    Empty if there is no checkpoint, or none that can be read.
    """
    for number in reversed(find_checkpoints(path)):
        try:
            return [Record.from_dict(each) for each in _read(path, number)[0]["records"]]
        except Exception as error:  # `Checkpoints.load` will warn of it.
            logger.debug("%s", error)
    return []


def find_checkpoints(path: Path) -> list[int]:
    """Return the numbers of the complete checkpoints in a folder, oldest first."""
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
        raise ValueError("it has another format version")
    arrays = {
        # Via bytes, for dtypes that aren't native to numpy, such as bfloat16.
        name: np.frombuffer(blobs[name], np.uint8).view(jnp.dtype(dtype)).reshape(shape)
        for name, (dtype, shape) in facts["arrays"].items()
    }
    return facts, arrays


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _to_plain(state: RunState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Split a state into named arrays, and the rest as plain JSON types."""
    arrays = {f"state{number:03d}": array for number, array in enumerate(state.arrays or [])}
    pairs = []
    for number, pair in enumerate(state.pairs):
        scales = []
        for level, result in enumerate(pair.scales):
            figures = result._asdict() | {"status": result.status.name}
            for field in _ARRAYS:
                arrays[f"pair{number}_scale{level}_{field}"] = np.asarray(figures.pop(field))
            # For a finished scale, the next scale already has it.
            del figures["opt_state"], figures["parameters"]
            scales.append(figures)
        pairs.append({**dataclasses.asdict(dataclasses.replace(pair, scales=[])), "scales": scales})
    facts = dataclasses.asdict(dataclasses.replace(state, pairs=[], arrays=None))
    return arrays, {**facts, "pairs": pairs}


_ARRAYS = ("image", "step_losses")


def _from_plain(arrays: Mapping[str, np.ndarray], run: Mapping[str, Any]) -> RunState:
    """Rebuild a state from the output of `_to_plain`."""
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
