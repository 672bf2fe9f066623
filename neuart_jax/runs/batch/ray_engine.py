"""Run the groups of a batch on a Ray cluster, whose machines share the folder of the results.

If a worker dies, others resume its groups at the last checkpoint. Results aren't sent back: every
worker writes its pairs' folders itself, atomically, so that each exists once.
"""

import logging
import os
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from neuart_jax.config.errors import InputError
from neuart_jax.engine.compilation_cache import use_compilation_cache
from neuart_jax.engine.distributed import parse_address
from neuart_jax.io.files import brief_cause, user_cache
from neuart_jax.runs.batch.local_engine import find_task, get_shared_network
from neuart_jax.runs.batch.plan import Group
from neuart_jax.runs.batch.progress import BatchTracker
from neuart_jax.runs.scheduler import paint_task, read_task

_MAX_RETRIES = 5
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_CONNECT = 10.0


def run_groups(
    groups: Sequence[Group],
    folder: Path,
    tracker: BatchTracker,
    *,
    keep_going: bool,
    num_devices: int,
) -> None:
    """Run each group as a Ray task, on the cluster at RAY_ADDRESS or on a new one here.

    A task takes `num_devices` GPUs if this machine has any, else as many CPUs.

    Args:
      groups: groups with at least one unfinished pair each.
      folder: folder of the batch, which all machines see under this path.
      tracker: tracker to update.
      keep_going: whether to continue when a group fails.
      num_devices: number of devices over which each group is sharded.

    Raises:
      InputError: Ray isn't installed, no cluster can be reached, or a group fails.
    """
    ray = _start()
    resources: dict[str, Any] = {"num_cpus": num_devices}
    if jax.default_backend() == "gpu":
        resources = {"num_gpus": num_devices}
    paint = ray.remote(max_retries=_MAX_RETRIES, **resources)(_paint)
    folder = folder.resolve()
    pending = {paint.remote(group, folder, num_devices): group for group in groups}
    try:
        while pending and not tracker.stopped:
            ready, _ = ray.wait(list(pending), timeout=_SECONDS_BETWEEN_LOOKS)
            for reference in ready:
                group = pending.pop(reference)
                try:
                    painted = ray.get(reference)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None)
                    failure = cause if isinstance(cause, InputError) else _crash(error)
                    if not keep_going:
                        raise failure from error
                    tracker.fail(group.jobs, failure)
                else:
                    for name in painted:
                        tracker.finish(name)
            tracker.under_way("", None)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _paint(group: Group, folder: Path, num_devices: int) -> list[str]:
    # A worker is a separate process without compiled programs.
    if group.jobs[0].config.compute.compilation_cache:
        use_compilation_cache(user_cache("jit"))
    task = find_task(group, folder)
    prepared = read_task(task, folder)
    paint_task(prepared, task, get_network=get_shared_network, num_devices=num_devices).save()
    return [job.name for job in task.jobs]


def _start() -> Any:
    # Imported here, as it is an extra that only clusters need.
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--engine=ray came, but Ray isn't installed",
            expected="the extra ray",
            remedy='install it with: pip install "neuart_jax[ray]"',
        ) from error
    address = os.environ.get("RAY_ADDRESS")
    try:
        _check_address(address)
        with warnings.catch_warnings():
            # JAX warns of forks; those of Ray exec another program immediately.
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(
            f"RAY_ADDRESS={address} can't be reached ({brief_cause(error)})",
            expected="the address of a running cluster's head node, or none",
            remedy="check the address, or unset it to start a cluster here",
        ) from error
    return ray


def _check_address(address: str | None) -> None:
    # Ray itself would retry for many minutes.
    if address and ":" in address:
        place = parse_address(address.removeprefix("ray://"))
        socket.create_connection(place, timeout=_SECONDS_TO_CONNECT).close()


def _crash(error: Exception) -> InputError:
    return InputError(
        f"a group's worker died {_MAX_RETRIES + 1} times ({type(error).__name__})",
        expected="a worker with enough memory",
        remedy="use a smaller --batch or --size, and run it again: it resumes where it was",
    )
