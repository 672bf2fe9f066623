"""Groups spread over a Ray cluster; the folder of the results is one that all its machines see.

A worker that dies leaves its groups to others, which go on at the last checkpoint. Results aren't
sent: every worker writes its pairs' folders itself, whole or not at all, so that each exists once.
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
from neuart_jax.runs.batch.progress import Books
from neuart_jax.runs.scheduler import paint_task, read_task

_MAX_RETRIES = 5
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_CONNECT = 10.0


def run_groups(
    groups: Sequence[Group], folder: Path, books: Books, *, keep_going: bool, num_devices: int
) -> None:
    """Paint groups, each by one task: on RAY_ADDRESS' cluster, or one that is started here.

    A task takes `num_devices` GPUs where this machine has any, else one CPU for each.

    Args:
      groups: as in `local_engine.run_groups`.
      folder: of the batch; seen by all machines under this path.
      books: of the batch.
      keep_going: whether the others are painted where one can't be.
      num_devices: that a group is shared out among.

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
        while pending and not books.stopped:
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
                    books.fail(group.jobs, failure)
                else:
                    for name in painted:
                        books.finish(name)
            books.under_way("", None)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _paint(group: Group, folder: Path, num_devices: int) -> list[str]:
    # A worker is a process of its own, and begins without any program.
    if group.jobs[0].config.compute.compilation_cache:
        use_compilation_cache(user_cache("jit"))
    task = find_task(group, folder)
    prepared = read_task(task, folder)
    paint_task(prepared, task, get_network=get_shared_network, num_devices=num_devices).save()
    return [job.name for job in task.jobs]


def _start() -> Any:
    # An extra that only clusters need.
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--engine=ray came where Ray isn't installed",
            expected="the extra ray",
            remedy='install it with: pip install "neuart_jax[ray]"',
        ) from error
    address = os.environ.get("RAY_ADDRESS")
    try:
        _check_address(address)
        with warnings.catch_warnings():
            # JAX warns of forks; Ray's start another program at once.
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(
            f"RAY_ADDRESS={address} can't be reached ({brief_cause(error)})",
            expected="the address of a running cluster's head, or none",
            remedy="check it, or unset it to start a cluster here",
        ) from error
    return ray


def _check_address(address: str | None) -> None:
    # Ray itself tries for many minutes.
    if address and ":" in address:
        place = parse_address(address.removeprefix("ray://"))
        socket.create_connection(place, timeout=_SECONDS_TO_CONNECT).close()


def _crash(error: Exception) -> InputError:
    return InputError(
        f"a group's worker died {_MAX_RETRIES + 1} times ({type(error).__name__})",
        expected="a worker with enough memory",
        remedy="take a smaller --batch or --size, and run it again: it goes on where it was",
    )
