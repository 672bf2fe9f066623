"""Groups one after the other in this process: pictures are read ahead and written behind."""

import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.engine.result import Progress
from neuart_jax.models.params.load import Network, depends_on_pictures, load_network
from neuart_jax.runs.batch.plan import Group
from neuart_jax.runs.batch.progress import Books
from neuart_jax.runs.checkpoints import find_checkpoints
from neuart_jax.runs.driver import transfer_group
from neuart_jax.runs.folder import CHECKPOINTS
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.prepare import Prepared, prepare

logger = logging.getLogger(__name__)


def run_groups(
    groups: Sequence[Group], folder: Path, books: Books, *, keep_going: bool, num_devices: int
) -> None:
    """Paint groups, the next one's pictures being read and the last one's written meanwhile.

    Args:
      groups: with at least one pair each that isn't there.
      folder: of the pairs' folders.
      books: to be kept.
      keep_going: go on where a group fails.
      num_devices: among which each group is shared out.

    Raises:
      InputError: a group fails, and `keep_going` is off.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        jobs = [jobs_to_run(group, folder) for group in groups]
        ahead = [reader.submit(read_group, part, folder) for part in jobs[:1]]
        behind: list[tuple[list[Job], Future[Any]]] = []
        for number, (group, part) in enumerate(zip(groups, jobs, strict=True)):
            pictures = ahead.pop()
            ahead += [reader.submit(read_group, p, folder) for p in jobs[number + 1 : number + 2]]
            try:
                write = paint_group(
                    pictures.result(),
                    folder,
                    checkpoints=checkpoints_of(group, folder),
                    num_devices=num_devices,
                    observe=books.under_way,
                )
            except InputError as error:
                if not keep_going:
                    raise
                books.fail(part, error)
                continue
            # Before another's failure ends all: what is painted is written.
            earlier, behind = behind, [(part, writer.submit(write))]
            _finish(earlier, books, keep_going=keep_going)
            if books.stopped:
                break
        _finish(behind, books, keep_going=keep_going)


def _finish(
    behind: list[tuple[list[Job], "Future[Any]"]], books: Books, *, keep_going: bool
) -> None:
    while behind:
        jobs, written = behind.pop()
        try:
            written.result()
        except InputError as error:
            if not keep_going:
                raise
            books.fail(jobs, error)
        else:
            for job in jobs:
                books.finish(job.name)


def jobs_to_run(group: Group, folder: Path) -> list[Job]:
    """Return which of a group's pairs are to be painted: those that aren't there.

    Where the group was cut, all of them: together they go on, and end as if never cut.
    """
    if find_checkpoints(checkpoints_of(group, folder)):
        return list(group.jobs)
    return [job for job, there in zip(group.jobs, group.finished, strict=True) if not there]


def checkpoints_of(group: Group, folder: Path) -> Path:
    """Return where a group's checkpoints are: a single pair's where it alone would have them."""
    if len(group.jobs) == 1:
        return folder / group.jobs[0].name / CHECKPOINTS
    return folder / CHECKPOINTS / group.name


def read_group(jobs: Sequence[Job], folder: Path) -> list[Prepared]:
    """Read the pictures of pairs, each of which is to be put into its folder."""
    return [prepare(job.config.replace(output=str(folder / job.name))) for job in jobs]


def paint_group(
    group: Sequence[Prepared],
    folder: Path,
    *,
    checkpoints: Path,
    num_devices: int,
    observe: Callable[[str, Progress], bool] = lambda name, progress: False,
) -> Callable[[], None]:
    """Paint pairs together; return what writes their results.

    Args:
      group: see `read_group`.
      folder: as in `run_groups`.
      checkpoints: see `checkpoints_of`.
      num_devices: as in `run_groups`.
      observe: called with a pair's name and progress; returning True stops all of them.
    """
    folders = [Path(prepared.config.output.output) for prepared in group]
    first = group[0].config
    shared = not depends_on_pictures(first.network)
    deferred: list[Callable[[], None]] = []
    transfer_group(
        group,
        folders,
        checkpoints=checkpoints,
        # Whatever is there was looked at before the first group.
        replace=True,
        network=_load_once(first.network, group[0].plan.layers) if shared else None,
        callback=lambda number, progress: observe(folders[number].name, progress),
        num_devices=num_devices,
        defer=deferred.append,
    )
    [write] = deferred
    return write


@functools.lru_cache(maxsize=1)
def _load_once(config: NetworkConfig, layers: tuple[str, ...]) -> Network:
    network = load_network(config, layers=layers, images=())
    logger.info(network.message)
    return network
