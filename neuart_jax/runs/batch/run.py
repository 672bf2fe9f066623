"""Run many pairs, group by group on this machine or distributed over a cluster."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest
from neuart_jax.engine.sharding import check_devices, describe_devices
from neuart_jax.runs.batch import local_engine
from neuart_jax.runs.batch.names import OWN_NAMES
from neuart_jax.runs.batch.plan import (
    GROUP_NAME,
    Group,
    advise_on_sizes,
    check_jobs,
    check_without_weights,
    make_groups,
)
from neuart_jax.runs.batch.progress import BatchObserver, BatchTracker
from neuart_jax.runs.batch.summary import SummaryLine, write_bad_rows
from neuart_jax.runs.checkpoints import remove_checkpoints
from neuart_jax.runs.folder import CHECKPOINTS
from neuart_jax.runs.manifest import BadRow, Manifest
from neuart_jax.runs.own_folder import OwnFolder, is_in_use

logger = logging.getLogger(__name__)

_READERS = 4
_MOST_TOLD = 20


class BatchResult(NamedTuple):
    """The outcome of a batch.

    Attributes:
      folder: the folder of all files.
      lines: lines of the summary, in the order of the rows.
      stopped: whether the batch was stopped on request.
    """

    folder: Path
    lines: list[SummaryLine]
    stopped: bool

    @property
    def failed(self) -> int:
        """Number of rows without a usable result, not counting those left undone by a stop."""
        return sum(
            line.status not in ("completed", "plateau", "stopped", "") for line in self.lines
        )


def run_batch(
    manifest: Manifest,
    folder: Path,
    *,
    keep_going: bool = False,
    overwrite: bool = False,
    batch: int = 0,
    num_devices: int = 0,
    engine: str = "local",
    observer: BatchObserver | None = None,
) -> BatchResult:
    """Run every pair of a manifest into a folder of its own, with a summary and a gallery.

    Existing results with the same settings and images are kept. Interrupted runs are resumed. Each
    image equals that of `transfer` for the pair alone, up to rounding.

    Args:
      manifest: the pairs, from `manifest.find_jobs`.
      folder: folder of all results.
      keep_going: whether to run the good rows if others are bad, and to continue when a group
        fails.
      overwrite: whether to replace results of other runs.
      batch: largest number of pairs per device that run together; 0 takes as many as fit into an
        accelerator's memory, and 1 on CPUs.
      num_devices: number of each machine's devices to use; 0 takes all.
      engine: "local", or "ray" for the machines of a cluster.
      observer: called with a `BatchProgress`; returning True stops the batch.

    Returns:
      The outcome of the batch.

    Raises:
      InputError: rows are bad, a folder holds a result of another run, the folder is in use, or
        this process is one of several.
    """
    if jax.process_count() > 1:
        raise InputError(
            f"many pairs came with {jax.process_count()} processes (--coordinator)",
            expected="one image, which they share",
            remedy="leave out --coordinator; --engine=ray distributes pairs over machines",
        )
    run_groups = _engine(engine)
    num_devices = num_devices or jax.local_device_count()
    check_devices(num_devices)
    with OwnFolder(folder) as own:
        own.claim(*OWN_NAMES)
        early = check_without_weights(manifest.jobs, num_threads=_READERS)
        if early and not keep_going:
            told = sorted([*manifest.bad_rows, *early])
            num_good = len(manifest.jobs) - len(early)
            _tell(told, manifest.source, folder, num_good=num_good, keep_going=False)
        checked, bad_rows = check_jobs(
            manifest.jobs, folder, overwrite=overwrite, num_threads=_READERS
        )
        bad_rows = sorted([*manifest.bad_rows, *bad_rows])
        _tell(bad_rows, manifest.source, folder, num_good=len(checked), keep_going=keep_going)
        logger.info("Computing on %s.", describe_devices())
        if advice := advise_on_sizes([one for one in checked if one.record is None]):
            logger.info(advice)
        groups = make_groups(checked, batch=batch, num_devices=num_devices)
        tracker = BatchTracker(folder, checked, bad_rows, observer)
        waiting = [group for group in groups if not all(group.finished)]
        try:
            run_groups(waiting, folder, tracker, keep_going=keep_going, num_devices=num_devices)
        finally:
            lines = tracker.write_reports()
        if not tracker.stopped and not tracker.failures:
            _remove_checkpoints(groups, folder)
        return BatchResult(folder, lines, tracker.stopped)


def _engine(name: str) -> Callable[..., None]:
    if name == "local":
        return local_engine.run_groups
    if name != "ray":
        raise InputError(
            f"--engine={name} is not known",
            expected="local or ray",
            remedy=f"did you mean {nearest(name, ('local', 'ray'))}",
        )
    from neuart_jax.runs.batch import ray_engine

    return ray_engine.run_groups


def _remove_checkpoints(groups: Sequence[Group], folder: Path) -> None:
    """Remove checkpoints of finished groups, left by a kill, and of groups that no longer exist."""
    for group in groups:
        if not is_in_use(folder / group.jobs[0].name):
            remove_checkpoints(local_engine.checkpoints_of(group, folder))
    shared = folder / CHECKPOINTS
    with contextlib.suppress(OSError):
        for path in shared.iterdir():
            if GROUP_NAME.fullmatch(path.name):
                remove_checkpoints(path)
        shared.rmdir()


def _tell(
    bad_rows: Sequence[BadRow], source: str, folder: Path, *, num_good: int, keep_going: bool
) -> None:
    for bad in bad_rows[:_MOST_TOLD]:
        logger.error("Row %d: %s", bad.row, bad.reason)
    if len(bad_rows) > _MOST_TOLD:
        more = len(bad_rows) - _MOST_TOLD
        try:
            logger.error("And %d more, all listed in %s.", more, write_bad_rows(folder, bad_rows))
        except InputError as error:
            logger.error("And %d more; %s.", more, error.came)
    if not bad_rows or (keep_going and num_good):
        return
    raise InputError(
        f"{len(bad_rows)} of {len(bad_rows) + num_good} rows of {source} can't be used, as told "
        "above",
        expected="rows without a mistake",
        remedy="fix them" + (", or add --keep_going to paint the others" if num_good else ""),
    )
