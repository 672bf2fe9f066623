"""The folder of a painted clip: frames, state for resuming, figures, and the record.

A frame counts as painted once its state is on the disk, which is written after its PNG file and its
line in metrics.jsonl. A frame that was interrupted is painted again, with the same bytes.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.engine.profiling import phase
from neuart_jax.io.clips.frame_files import FrameFolder
from neuart_jax.io.decoding import Float32
from neuart_jax.io.files import brief_cause, dump_json, remove_leftovers, write_atomically
from neuart_jax.io.sealed import seal, unseal
from neuart_jax.runs.checkpoints import remove_checkpoints
from neuart_jax.runs.own_folder import OwnFolder
from neuart_jax.runs.record import RECORD_NAME, Record, read_record, refuse

logger = logging.getLogger(__name__)

FRAMES_NAME, METRICS_NAME, STATE_NAME = "frames", "metrics.jsonl", "state"
"""Names in a painted clip's folder."""

_STATE = re.compile(r"([0-9]{6,})\.state", re.ASCII)
_FRAME = re.compile(r"frame_([0-9]{6,})\.png", re.ASCII)
_PNG_BYTES, _STATE_BYTES = 3, 12  # Per pixel, up to an overhead of a few bytes in a thousand.

Line = dict[str, Any]
"""Figures of one painted frame, as written to metrics.jsonl."""


class PaintedFrames:
    """The folder of a painted clip, locked against other runs until it is closed.

    Several threads can save frames at the same time. Units and their numbers: see `units.Unit`.

    Args:
      path: path of the folder, which is created if missing.
      record: record of the run.
      film_name: name of the film, if the film is in the folder.
      overwrite: whether to replace the frames of another run.
      resume: whether to continue from existing frames of the same run.

    Raises:
      InputError: the folder can't be written, is in use by another run, or holds something else.
    """

    def __init__(
        self, path: Path, record: Record, *, film_name: str, overwrite: bool, resume: bool
    ) -> None:
        self.path = path
        self.lines: dict[int, Line] = {}
        self._writes = threading.Lock()
        self._record = record
        identity = {**record.to_dict(), "versions": {}, "device": "", "predicted_bytes": 0}
        identity["config"] = {}
        self._key = hashlib.sha256(dump_json(identity).encode()).hexdigest()
        self._own = OwnFolder(path)
        try:
            self._check(overwrite=overwrite, resume=resume)
            names = (RECORD_NAME, METRICS_NAME, FRAMES_NAME, STATE_NAME)
            self._own.claim(*names, *([film_name] if film_name else []))
            for folder in (FRAMES_NAME, STATE_NAME):
                (path / folder).mkdir(exist_ok=True)
                remove_leftovers(path / folder, seconds=0)
        except OSError as error:
            self.close()
            raise InputError(
                f"{path} can't be written ({brief_cause(error)})",
                expected="a writable folder with free space",
                remedy="check its permissions and the free space, or give another --output",
            ) from error
        except BaseException:
            self.close()
            raise

    def _check(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse frames of another run, continue from those of this one, or remove them."""
        there: Record | None = None
        if (self.path / RECORD_NAME).exists():
            try:
                there = read_record(self.path / RECORD_NAME)
            except InputError:
                there = None  # Damaged; its owner is found when the names are claimed.
        differences = self._record.unlike(there) if there is not None else []
        if differences and not overwrite:
            refuse(self.path, differences)
        is_this_run = there is not None and not differences
        is_finished = there is not None and there.outcome.get("status") == "completed"
        if is_this_run and resume and not (is_finished and overwrite):
            self.lines = self._read_lines()
            return
        if self._own.owns(FRAMES_NAME):
            self._remove(FRAMES_NAME, _FRAME)
            self._remove(STATE_NAME, _STATE)
            with contextlib.suppress(OSError):
                (self.path / METRICS_NAME).unlink()

    def _read_lines(self) -> dict[int, Line]:
        """Read the lines of metrics.jsonl, by unit, up to the first damaged one."""
        lines: dict[int, Line] = {}
        try:
            text = (self.path / METRICS_NAME).read_text(encoding="utf-8")
            for line in text.splitlines():
                entry = json.loads(line)
                lines[int(entry["unit"])] = entry
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return lines

    def frame_path(self, frame: int) -> Path:
        """Return the path of a frame's file; frames are numbered from 0."""
        return self.path / FRAMES_NAME / f"frame_{frame + 1:06d}.png"

    @phase("output")
    def save(
        self,
        image: Float32,
        line: Line,
        *,
        finished: Float32 | None,
        alpha: Float32 | None = None,
        obsolete: Collection[int],
    ) -> None:
        """Write a painted frame, and remove states that are no longer needed.

        Args:
          image: optimized image, from which other frames continue, float32[height, width, 3].
          line: figures of the frame.
          finished: postprocessed image; None if a later pass paints the frame again.
          alpha: opacity, float32[height, width].
          obsolete: units whose states are no longer needed.

        Raises:
          InputError: the frame can't be written.
        """
        unit = line["unit"]
        if finished is not None:
            FrameFolder(self.path / FRAMES_NAME, first=line["frame"] - 1).add(finished, alpha)
        with self._writes:
            self.lines[unit] = line
            lines = [dump_json(self.lines[number]) + "\n" for number in sorted(self.lines)]
            with write_atomically(self.path / METRICS_NAME) as file:
                file.write("".join(lines).encode())
        facts = {"unit": unit, "run": self._key, "shape": list(image.shape)}
        pixels = np.ascontiguousarray(image, "<f4").reshape(-1).view(np.uint8).data
        with write_atomically(self._state_path(unit)) as file:
            file.writelines(seal(facts, {"image": pixels}))
        self._remove(STATE_NAME, _STATE, numbers=obsolete)

    def load_state(self, unit: int) -> Float32 | None:
        """Load the optimized image of a unit; None if its state is missing or damaged."""
        try:
            facts, blobs = unseal(self._state_path(unit).read_bytes())
            if (facts["unit"], facts["run"]) != (unit, self._key):
                return None
            return np.frombuffer(blobs["image"], "<f4").reshape(facts["shape"]).astype(np.float32)
        # A truncated file can fail in any of these ways.
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.debug("%s", error)
            return None

    def begin(self, document: Mapping[str, Any]) -> None:
        """Write the record before the first frame."""
        self._write_record(document)

    def finish(self, document: Mapping[str, Any]) -> None:
        """Write the record of a complete film, and remove the state for resuming."""
        self._remove(STATE_NAME, _STATE)
        with contextlib.suppress(OSError):
            for folder in (self.path / STATE_NAME).iterdir():
                remove_checkpoints(folder)  # Left by a frame that was interrupted.
        # Last, as a complete record means that nothing is left to do.
        self._write_record(document)

    def forget(self, units: Iterable[int]) -> None:
        """Drop the figures of units that are painted again."""
        with self._writes:
            for unit in units:
                self.lines.pop(unit, None)

    def check_room(self, num_bytes: int) -> None:
        """Check that the disk has room for the remaining files.

        Raises:
          InputError: the disk hasn't.
        """
        free = shutil.disk_usage(self.path).free
        if num_bytes > free:
            raise InputError(
                f"{self.path} has only {free >> 20} MiB of free disk space",
                expected=f"{num_bytes >> 20} MiB, the most that the frames and the film can take",
                remedy="free some space, give another --output, or use a smaller --size, an "
                "earlier --end or a larger --every",
            )

    def close(self) -> None:
        """Release the folder for other runs."""
        try:
            for folder in (FRAMES_NAME, STATE_NAME):
                with contextlib.suppress(OSError):
                    (self.path / folder).rmdir()  # If it is empty.
        finally:
            self._own.close()

    def _write_record(self, document: Mapping[str, Any]) -> None:
        text = dump_json({**self._record.to_dict(), **document}, indent=2)
        with write_atomically(self.path / RECORD_NAME) as file:
            file.write(text.encode() + b"\n")

    def _state_path(self, unit: int) -> Path:
        return self.path / STATE_NAME / f"{unit:06d}.state"

    def _remove(
        self, folder: str, names: re.Pattern[str], *, numbers: Collection[int] | None = None
    ) -> None:
        """Remove this program's numbered files: those of some numbers, or all."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path / folder):
                found = names.fullmatch(name)
                if found and (numbers is None or int(found[1]) in numbers):
                    (self.path / folder / name).unlink()


def count_bytes(height: int, width: int, *, num_frames: int, num_states: int) -> int:
    """Return the largest number of bytes that frames and states take."""
    pixels = height * width
    each = pixels * _PNG_BYTES, pixels * _STATE_BYTES
    return num_frames * (each[0] + each[0] // 64) + num_states * each[1]


def describe_result(lines: Mapping[int, Line]) -> dict[str, Any]:
    """Summarize a film's figures, by unit, for its record."""
    shown = {line["frame"]: line for _, line in sorted(lines.items())}
    errors = [line["e_warp"] for line in shown.values() if line.get("e_warp") is not None]
    sources = [line["e_warp_source"] for line in shown.values() if line.get("e_warp") is not None]
    return {
        "status": "completed",
        "frames": len(shown),
        "cuts": sorted({line["shot"] for line in shown.values()} - {1}),
        "steps": sum(line["steps"] for line in lines.values()),
        "evaluations": sum(line["evaluations"] for line in lines.values()),
        "seconds": round(sum(line["seconds"] for line in lines.values()), 3),
        "e_warp": float(np.mean(errors)) if errors else None,
        "e_warp_source": float(np.mean(sources)) if sources else None,
    }
