"""Every pair checked before the first step, and the pairs that can be painted together.

What is decided here depends on the manifest alone, not on what an earlier run has finished, so that
a run that was cut has the same groups again.
"""

import functools
import hashlib
import itertools
import logging
import re
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.engine.memory import free_memory
from neuart_jax.inputs.pair import round_sides
from neuart_jax.models.params.load import (
    depends_on_images,
    identify_weights,
    may_download,
    settle_network,
)
from neuart_jax.runs.batch.names import OWN_NAMES
from neuart_jax.runs.finished import find_finished
from neuart_jax.runs.folder import check_names
from neuart_jax.runs.manifest import BadRow, Job
from neuart_jax.runs.prepare import prepare
from neuart_jax.runs.record import Record

logger = logging.getLogger(__name__)

# More fill no accelerator better, and fewer groups can be shared out among machines.
_LARGEST_GROUP = 16
# So many sizes are worth a word, and this much makes them a handful at 512 pixels.
_MANY_SIZES, _SIZE_STEP = 8, 64


GROUP_NAME = re.compile("[0-9a-f]{16}", re.ASCII)
"""What the names of groups are like."""


class CheckedJob(NamedTuple):
    """A pair that can be run.

    Attributes:
      job: as it was named, with its weights settled.
      key: equal for pairs that can be painted together.
      size: height and width at which it is painted.
      record: of its result, if that is there already.
      at_once: how many of its kind fit into the memory.
    """

    job: Job
    key: Hashable
    size: tuple[int, int]
    record: Record | None
    at_once: int


class Group(NamedTuple):
    """Pairs that are painted together.

    Attributes:
      jobs: one at least.
      finished: of each, whether its result is there.
    """

    jobs: tuple[Job, ...]
    finished: tuple[bool, ...]

    @property
    def name(self) -> str:
        """Name the group by its pairs, fit for a folder."""
        names = "\n".join(job.name for job in self.jobs)
        return hashlib.sha256(names.encode()).hexdigest()[:16]


class _Settled(NamedTuple):
    """Which network settings mean, and what identifies the file of its weights."""

    model: str
    weights: str
    identity: dict[str, str]


def check_without_weights(jobs: Sequence[Job], *, num_threads: int) -> list[BadRow]:
    """Find what can be told of jobs without weights, where these would have to be downloaded.

    Args:
      jobs: see `manifest.Manifest`.
      num_threads: that read images at the same time.

    Returns:
      The bad ones; `check_jobs` tells them, too.
    """

    def check(job: Job) -> BadRow | None:
        try:
            prepare(job.config)
        except InputError as error:
            return BadRow(job.row, str(error))
        return None

    networks = {job.config.network for job in jobs}
    if not any(map(may_download, networks)):
        return []
    with ThreadPoolExecutor(num_threads) as threads:
        return [bad for bad in threads.map(check, jobs) if bad is not None]


def check_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    overwrite: bool,
    num_threads: int,
    on_checked: Callable[[], None] = lambda: None,
) -> tuple[list[CheckedJob], list[BadRow]]:
    """Read all images and check all that can be checked without a network.

    Args:
      jobs: see `manifest.Manifest`.
      folder: the pairs' folders are in it.
      overwrite: take results of something else for none.
      num_threads: that read images at the same time.
      on_checked: called after every job.

    Returns:
      The good ones and the bad ones, in order.
    """
    lock = threading.Lock()

    @functools.cache
    def settle_once(network: NetworkConfig) -> _Settled:
        settled = settle_network(network)
        if settled.reason:
            logger.info("Weights: %s; %s.", settled.config.weights, settled.reason)
        network = settled.config
        return _Settled(network.model, network.weights, identify_weights(network))

    def settle(network: NetworkConfig) -> _Settled:
        with lock:  # One download for all.
            return settle_once(network)

    def check(job: Job) -> CheckedJob | BadRow:
        try:
            return _check(job, folder / job.name, overwrite=overwrite, settle=settle)
        except InputError as error:
            return BadRow(job.row, str(error))
        finally:
            on_checked()

    with ThreadPoolExecutor(num_threads) as threads:
        checked = list(threads.map(check, jobs))
    return (
        [one for one in checked if isinstance(one, CheckedJob)],
        [one for one in checked if isinstance(one, BadRow)],
    )


def _check(
    job: Job, folder: Path, *, overwrite: bool, settle: Callable[[NetworkConfig], _Settled]
) -> CheckedJob:
    # Where case doesn't count, two names would be one.
    if job.name.lower() in OWN_NAMES:
        raise InputError(
            f"output={job.name!r} is the name of what the batch itself writes there",
            expected=f"another name than {', '.join(OWN_NAMES)}",
            remedy="give another, or none",
        )
    settled = settle(job.config.network)
    job = job._replace(config=job.config.replace(model=settled.model, weights=settled.weights))
    prepared = prepare(job.config)
    network = prepared.config.network
    # Filters made from one pair's images are no others', and shared rows leave no device free.
    alone = depends_on_images(network) or prepared.config.compute.shard_rows > 1
    own = job.row if alone else None
    at_once = 1
    if jax.default_backend() != "cpu":
        prediction = prepared.plan.prediction
        assert prediction is not None  # It is None for networks of one's own.
        room = (free_memory() - prediction.constant) // max(prediction.growing, 1)
        at_once = max(1, min(_LARGEST_GROUP, int(room)))
    # The seed is data of a run, but also of filters that are drawn.
    key = (own, tuple(prepared.plan.traits.values()))
    record = find_finished(folder, prepared, overwrite=overwrite, weights=settled.identity)
    if record is None:
        output = prepared.config.output
        check_names(
            folder,
            image_name=output.image_name,
            frames=output.wants_frames,
            animation=output.animation,
        )
    height, width, _ = prepared.plan.pair.content.shape
    return CheckedJob(job, key, (height, width), record, at_once)


def make_groups(checked: Sequence[CheckedJob], *, batch: int, num_devices: int) -> list[Group]:
    """Put together what can be painted together, in the order of the first of each kind.

    Args:
      checked: see `check_jobs`.
      batch: pairs per device at the most; 0 takes what fits into an accelerator's memory, and 1 on
        CPUs, which a single pair keeps busy.
      num_devices: that share a group.
    """
    kinds: dict[Hashable, list[CheckedJob]] = {}
    for one in checked:
        kinds.setdefault(one.key, []).append(one)
    groups = []
    for kind in kinds.values():
        size = num_devices * (batch or kind[0].at_once)
        for members in _batched(kind, size):
            finished = tuple(one.record is not None for one in members)
            groups.append(Group(tuple(one.job for one in members), finished))
    return groups


def advise_on_sizes(checked: Sequence[CheckedJob]) -> str:
    """Return a sentence on what compiling for many sizes costs; none where there are few.

    Args:
      checked: what is still to be painted.
    """
    sizes = {one.size for one in checked}
    fewer = {round_sides(height, width, _SIZE_STEP) for height, width in sizes}
    if len(sizes) < _MANY_SIZES or 2 * len(fewer) > len(sizes):
        return ""
    return (
        f"The pictures have {len(sizes)} sizes, and each is compiled for; "
        f"--size_step={_SIZE_STEP} makes them {len(fewer)}."
    )


def _batched(members: Sequence[CheckedJob], size: int) -> Iterator[list[CheckedJob]]:
    iterator = iter(members)
    while part := list(itertools.islice(iterator, size)):
        yield part
