"""Shard the rows of an image over the devices of one or several machines.

The compiler does the rest: convolutions exchange rows at their borders, and sums over positions are
reduced, so that losses and gradients are those of one device, up to rounding. All machines run the
same program on the same files; decisions that depend on local facts, such as the time, are made by
the first.
"""

import math
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from neuart_jax.config.errors import InputError


def check_rows(num_devices: int, *, height: int) -> None:
    """Check that an image's rows can be sharded.

    Args:
      num_devices: number of devices.
      height: height of the image, in pixels.

    Raises:
      InputError: there are fewer devices, or the height is not a multiple of their number.
    """
    there = jax.device_count()
    if num_devices > there:
        raise InputError(
            f"--shard_rows={num_devices} came, but there are {there} devices",
            expected=f"1 to {there}",
            remedy="give a smaller number, or start more processes",
        )
    if height % num_devices:
        step = math.lcm(num_devices, 16)
        raise InputError(
            f"--shard_rows={num_devices} came with an image of {height} rows",
            expected="a height that is a multiple of it",
            remedy=f"add --size_step={step}, which rounds the sides during the run",
        )


def share_rows(image: Any, num_devices: int) -> Array:
    """Shard an image's rows over several devices, or use one if they can't be divided evenly.

    Args:
      image: float[height, width, channels].
      num_devices: number of devices of all processes; 1 leaves the image where it is.
    """
    if num_devices == 1:
        return image
    divisible = len(image) % num_devices == 0
    return jax.device_put(image, _sharding(num_devices, "rows" if divisible else None))


def share_copies(tree: Any, num_devices: int) -> Any:
    """Replicate every array on several devices."""
    return tree if num_devices == 1 else jax.device_put(tree, _sharding(num_devices, None))


def _sharding(num_devices: int, axis: str | None) -> NamedSharding:
    mesh = Mesh(np.asarray(jax.devices()[:num_devices]), ("rows",))
    return NamedSharding(mesh, PartitionSpec(axis))


def fetch(tree: Any) -> Any:
    """Gather arrays from all machines as numpy arrays; every machine must call this."""
    return jax.tree.map(_fetch_array, tree) if jax.process_count() > 1 else jax.device_get(tree)


def _fetch_array(array: Any) -> np.ndarray:
    if (
        isinstance(array, Array)
        and not array.is_fully_addressable
        and not array.is_fully_replicated
    ):
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def agree(decision: bool) -> bool:
    """Return the decision of the first machine; every machine must call this."""
    if jax.process_count() == 1:
        return decision
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(decision)))


def check_devices(num_devices: int) -> None:
    """Check that this machine has enough devices.

    Raises:
      InputError: it has fewer than `num_devices`.
    """
    there = jax.local_device_count()
    if not 1 <= num_devices <= there:
        raise InputError(
            f"--devices={num_devices}",
            expected=f"1 to {there}, the {jax.default_backend()} devices of this machine",
            remedy="give another number, or leave the flag out to use all",
        )


def describe_devices() -> str:
    """Describe the devices: "the CPU", or the number and name of accelerators."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return "the CPU"
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    return f"{count}{devices[0].device_kind} ({devices[0].platform})"


def writes_files() -> bool:
    """Return whether this machine writes files, as only the first one does."""
    return jax.process_index() == 0
