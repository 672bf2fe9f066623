"""A batch's groups on this machine, one after the other."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from neuart_jax.config.sections import NetworkConfig
from neuart_jax.models.params.load import Network, depends_on_images, load_network
from neuart_jax.runs.batch.plan import Group
from neuart_jax.runs.batch.progress import Books
from neuart_jax.runs.checkpoints import find_checkpoints
from neuart_jax.runs.folder import CHECKPOINTS
from neuart_jax.runs.prepare import Prepared
from neuart_jax.runs.scheduler import Task, run_tasks

logger = logging.getLogger(__name__)


def run_groups(
    groups: Sequence[Group], folder: Path, books: Books, *, keep_going: bool, num_devices: int
) -> None:
    """Paint groups, the next one's images being read and the last one's written meanwhile.

    Args:
      groups: with at least one pair each that isn't there.
      folder: of the pairs' folders.
      books: to be kept.
      keep_going: go on where a group fails.
      num_devices: among which each group is shared out.

    Raises:
      InputError: a group fails, and `keep_going` is off.
    """
    outcomes = run_tasks(
        [find_task(group, folder) for group in groups],
        folder,
        get_network=get_shared_network,
        observe=books.under_way,
        num_devices=num_devices,
    )
    for outcome in outcomes:
        if outcome.error is None:
            for job in outcome.jobs:
                books.finish(job.name)
        elif keep_going:
            books.fail(outcome.jobs, outcome.error)
        else:
            raise outcome.error


def find_task(group: Group, folder: Path) -> Task:
    """Return what is to be painted of a group: the pairs that aren't there.

    Where the group was cut, all of them: together they go on, and end as if never cut.
    """
    checkpoints = checkpoints_of(group, folder)
    if find_checkpoints(checkpoints):
        return Task(group.jobs, checkpoints)
    pairs = zip(group.jobs, group.finished, strict=True)
    return Task([job for job, there in pairs if not there], checkpoints)


def checkpoints_of(group: Group, folder: Path) -> Path:
    """Return where a group's checkpoints are: a single pair's where it alone would have them."""
    if len(group.jobs) == 1:
        return folder / group.jobs[0].name / CHECKPOINTS
    return folder / CHECKPOINTS / group.name


def get_shared_network(prepared: Prepared) -> Network | None:
    """Return the network of a pair, loaded once, unless it is made from the pair's images."""
    network = prepared.config.network
    return None if depends_on_images(network) else _load_once(network, prepared.plan.layers)


@functools.lru_cache(maxsize=1)
def _load_once(config: NetworkConfig, layers: tuple[str, ...]) -> Network:
    network = load_network(config, layers=layers, images=())
    logger.info(network.message)
    return network
