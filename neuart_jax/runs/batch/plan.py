"""Check all pairs before the first step, and group those that can run together.

Groups depend only on the manifest, not on what an earlier run has finished, so that an interrupted
batch has the same groups when it is resumed.
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

# Larger groups use accelerators no better, and leave fewer groups to distribute among machines.
_LARGEST_GROUP = 16
# Number of sizes above which advice is given, and a size_step that leaves a handful at 512 pixels.
_MANY_SIZES, _SIZE_STEP = 8, 64


GROUP_NAME = re.compile("[0-9a-f]{16}", re.ASCII)
"""Pattern of the names of groups."""


class CheckedJob(NamedTuple):
    """A pair that passed all checks.

    Attributes:
      job: the job, with its weights resolved.
      key: grouping key, equal for pairs that can run together.
      size: height and width at which the pair is painted.
      record: record of the result, if it exists already.
      at_once: number of such pairs that fit into memory.
    """

    job: Job
    key: Hashable
    size: tuple[int, int]
    record: Record | None
    at_once: int


class Group(NamedTuple):
    """Pairs that run together.

    Attributes:
      jobs: the pairs, at least one.
      finished: whether each pair's result exists.
    """

    jobs: tuple[Job, ...]
    finished: tuple[bool, ...]

    @property
    def name(self) -> str:
        """Name of the group, made from its pairs and usable as a folder name."""
        names = "\n".join(job.name for job in self.jobs)
        return hashlib.sha256(names.encode()).hexdigest()[:16]


class _Settled(NamedTuple):
    """The resolved network of settings, and the identity of its weights file."""

    model: str
    weights: str
    identity: dict[str, str]


def check_without_weights(jobs: Sequence[Job], *, num_threads: int) -> list[BadRow]:
    """Check what can be checked of jobs whose weights would have to be downloaded.

    Args:
      jobs: jobs of a `manifest.Manifest`.
      num_threads: number of threads that read images.

    Returns:
      The bad rows, which `check_jobs` would report as well.
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
    """Read all images and check everything that can be checked without a network.

    Args:
      jobs: jobs of a `manifest.Manifest`.
      folder: parent of the pairs' folders.
      overwrite: whether to ignore existing results of other runs.
      num_threads: number of threads that read images.
      on_checked: called after every job.

    Returns:
      The good jobs and the bad rows, in order.
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
        with lock:  # A single download for all threads.
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
    # On case-insensitive file systems the two names would be the same.
    if job.name.lower() in OWN_NAMES:
        raise InputError(
            f"output={job.name!r} is the name of a file of the batch itself",
            expected=f"a name other than {', '.join(OWN_NAMES)}",
            remedy="give another name, or none",
        )
    settled = settle(job.config.network)
    job = job._replace(config=job.config.replace(model=settled.model, weights=settled.weights))
    prepared = prepare(job.config)
    network = prepared.config.network
    # Filters made from a pair's images can't be shared, and sharded rows leave no device free.
    alone = depends_on_images(network) or prepared.config.compute.shard_rows > 1
    own = job.row if alone else None
    at_once = 1
    if jax.default_backend() != "cpu":
        prediction = prepared.plan.prediction
        assert prediction is not None  # None only for custom networks.
        room = (free_memory() - prediction.constant) // max(prediction.growing, 1)
        at_once = max(1, min(_LARGEST_GROUP, int(room)))
    # The seed is data of the compiled program, but random filters depend on it.
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
    """Group pairs that can run together, in the order of their first members.

    Args:
      checked: pairs from `check_jobs`.
      batch: largest number of pairs per device; 0 takes as many as fit into an accelerator's
        memory, and 1 on CPUs, which a single pair keeps busy.
      num_devices: number of devices over which a group is sharded.
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
    """Return advice on the cost of compiling for many sizes; empty if there are few sizes.

    Args:
      checked: the unfinished pairs.
    """
    sizes = {one.size for one in checked}
    fewer = {round_sides(height, width, _SIZE_STEP) for height, width in sizes}
    if len(sizes) < _MANY_SIZES or 2 * len(fewer) > len(sizes):
        return ""
    return (
        f"The images have {len(sizes)} sizes, each of which takes a compilation; "
        f"--size_step={_SIZE_STEP} reduces them to {len(fewer)}."
    )


def _batched(members: Sequence[CheckedJob], size: int) -> Iterator[list[CheckedJob]]:
    iterator = iter(members)
    while part := list(itertools.islice(iterator, size)):
        yield part
