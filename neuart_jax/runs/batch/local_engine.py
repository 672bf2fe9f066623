"""Run the groups of a batch on this machine, one after another."""

import contextlib
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from neuart_jax.config.sections import NetworkConfig
from neuart_jax.models.params.load import Network, depends_on_images, load_network
from neuart_jax.runs.batch.plan import Group
from neuart_jax.runs.batch.progress import BatchTracker
from neuart_jax.runs.checkpoints import find_checkpoints
from neuart_jax.runs.folder import CHECKPOINTS
from neuart_jax.runs.prepare import Prepared
from neuart_jax.runs.scheduler import Task, run_tasks

logger = logging.getLogger(__name__)


def run_groups(
    groups: Sequence[Group],
    folder: Path,
    tracker: BatchTracker,
    *,
    keep_going: bool,
    num_devices: int,
) -> None:
    """Run groups, reading the images of the next group and writing the last results meanwhile.

    Args:
      groups: groups with at least one unfinished pair each.
      folder: parent of the pairs' folders.
      tracker: tracker to update.
      keep_going: whether to continue when a group fails.
      num_devices: number of devices over which each group is sharded.

    Raises:
      InputError: a group failed, and `keep_going` is off.
    """
    outcomes = run_tasks(
        [find_task(group, folder) for group in groups],
        folder,
        get_network=get_shared_network,
        observe=tracker.under_way,
        num_devices=num_devices,
    )
    # Closed here: the collector may do it in one of its own threads, which can't join itself.
    with contextlib.closing(outcomes):
        for outcome in outcomes:
            if outcome.error is None:
                for job in outcome.jobs:
                    tracker.finish(job.name)
            elif keep_going:
                tracker.fail(outcome.jobs, outcome.error)
            else:
                raise outcome.error


def find_task(group: Group, folder: Path) -> Task:
    """Return the unfinished pairs of a group.

    If the group was interrupted, return all of its pairs: they are resumed together, with the same
    results as without the interruption.
    """
    checkpoints = checkpoints_of(group, folder)
    if find_checkpoints(checkpoints):
        return Task(group.jobs, checkpoints)
    pairs = zip(group.jobs, group.finished, strict=True)
    return Task([job for job, there in pairs if not there], checkpoints)


def checkpoints_of(group: Group, folder: Path) -> Path:
    """Return a group's checkpoint folder; a group of one uses that of the pair's single run."""
    if len(group.jobs) == 1:
        return folder / group.jobs[0].name / CHECKPOINTS
    return folder / CHECKPOINTS / group.name


def get_shared_network(prepared: Prepared) -> Network | None:
    """Return a pair's network, loaded once; None if it is made from the pair's images."""
    network = prepared.config.network
    return None if depends_on_images(network) else _load_once(network, prepared.plan.layers)


@functools.lru_cache(maxsize=1)
def _load_once(config: NetworkConfig, layers: tuple[str, ...]) -> Network:
    network = load_network(config, layers=layers, images=())
    logger.info(network.message)
    return network
