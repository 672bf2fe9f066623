"""Progress of a batch: finished pairs, failures, reports."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.errors import InputError
from neuart_jax.engine.result import Progress
from neuart_jax.engine.step import Status
from neuart_jax.runs.batch.plan import CheckedJob
from neuart_jax.runs.batch.summary import SummaryLine, write_gallery, write_summary
from neuart_jax.runs.manifest import BadRow, Job
from neuart_jax.runs.record import RECORD_NAME, read_record

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_REPORTS = 10.0


class BatchProgress(NamedTuple):
    """Progress of a batch.

    Attributes:
      num_pairs: total number of pairs.
      num_done: number of finished pairs.
      num_found: number of pairs that were finished at the start.
      part: progress of the running pairs, in units of pairs.
      seconds: seconds since the first group began.
      name: name of a running pair.
      progress: progress of that pair, if the engine reports it.
    """

    num_pairs: int
    num_done: int
    num_found: int
    part: float
    seconds: float
    name: str
    progress: Progress | None

    @property
    def pairs_per_hour(self) -> float:
        """Pairs finished per hour so far; 0 at the start."""
        made = self.num_done - self.num_found + self.part
        return 3600 * made / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left at this pace; None while the pace is unknown."""
        missing = self.num_pairs - self.num_done - self.part
        return 3600 * missing / self.pairs_per_hour if self.pairs_per_hour else None


BatchObserver = Callable[[BatchProgress], bool | None]
"""Called often; returning True stops the batch."""


class BatchTracker:
    """Tracks every row, notifies the observer, and writes the reports periodically."""

    def __init__(
        self,
        folder: Path,
        checked: Sequence[CheckedJob],
        bad_rows: Sequence[BadRow],
        observer: BatchObserver | None,
    ) -> None:
        self.stopped = False
        self.failures: dict[str, str] = {}
        self._folder = folder
        self._jobs = [one.job for one in checked]
        self._bad_rows = list(bad_rows)
        self._records = {one.job.name: one.record for one in checked if one.record is not None}
        self._num_found = len(self._records)
        self._parts: dict[str, float] = {}
        self._observer = observer
        self._told: set[str] = set()
        self._began = time.monotonic()
        self._last_report = self._began

    def under_way(self, name: str, progress: Progress | None) -> bool:
        """Record the progress of a pair; return whether to stop."""
        if progress is not None:
            self._parts[name] = progress.share
        self._observe(name, progress)
        return self.stopped

    def finish(self, name: str) -> None:
        """Record that a pair's folder is complete."""
        record = read_record(self._folder / name / RECORD_NAME)
        self._records[name] = record
        self._parts.pop(name, None)
        outcome = record.outcome
        if outcome.get("status") == Status.STOPPED.name.lower():
            return  # It is resumed in the next run.
        total = outcome.get("losses", {}).get("total")
        loss = "not finite" if total is None else f"{total:.4g}"
        logger.info(
            "%d/%d %s took %.0f s; total loss %s",
            self._num_done(),
            len(self._jobs),
            name,
            outcome["seconds"],
            loss,
        )
        self._observe(name, None)
        if time.monotonic() - self._last_report > _SECONDS_BETWEEN_REPORTS:
            self._write(write_summary, self._lines())
            self._last_report = time.monotonic()

    def fail(self, jobs: Sequence[Job], error: Exception) -> None:
        """Record that pairs failed."""
        for job in jobs:
            self.failures[job.name] = " ".join(str(error).split())
            self._parts.pop(job.name, None)
            logger.error("Row %d, %s: %s", job.row, job.name, self.failures[job.name])

    def write_reports(self) -> list[SummaryLine]:
        """Write summary and gallery; return the summary's lines.

        A report that can't be written is a warning, logged once: the images matter more.
        """
        lines = self._lines()
        self._write(write_summary, lines)
        self._write(write_gallery, lines)
        return lines

    def _write(
        self, write: Callable[[Path, Sequence[SummaryLine]], Path], lines: Sequence[SummaryLine]
    ) -> None:
        try:
            write(self._folder, lines)
        except InputError as error:
            if error.came not in self._told:
                logger.warning("The batch continues without a report: %s.", error.came)
            self._told.add(error.came)

    def _observe(self, name: str, progress: Progress | None) -> None:
        if self._observer is None:
            return
        now = BatchProgress(
            num_pairs=len(self._jobs),
            num_done=self._num_done(),
            num_found=self._num_found,
            part=sum(self._parts.values()),
            seconds=time.monotonic() - self._began,
            name=name,
            progress=progress,
        )
        self.stopped = bool(self._observer(now)) or self.stopped

    def _num_done(self) -> int:
        stopped = Status.STOPPED.name.lower()
        return sum(record.outcome.get("status") != stopped for record in self._records.values())

    def _lines(self) -> list[SummaryLine]:
        lines = [
            SummaryLine(row=bad.row, status="bad row", remark=bad.reason) for bad in self._bad_rows
        ]
        for job in self._jobs:
            record = self._records.get(job.name)
            lines.append(SummaryLine.of_job(job, record, failure=self.failures.get(job.name, "")))
        return sorted(lines, key=lambda line: line.row)
