"""One picture on several devices, of one machine or of several: rows are shared out among them.

The compiler does the rest: convolutions exchange the rows at their borders, sums over positions
are added up, so that losses and gradients are those of one device, up to rounding. Each machine
runs the same program on the same files; what only one of them knows, such as the time, the first
decides.
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
    """Check that a picture's rows can be shared out.

    Args:
      num_devices: among how many devices.
      height: of the picture, in pixels.

    Raises:
      InputError: there are fewer devices, or rows would be left over.
    """
    there = jax.device_count()
    if num_devices > there:
        raise InputError(
            f"--shard_rows={num_devices} came where there are {there} devices",
            expected=f"1 to {there}",
            remedy="give a smaller number, or start more processes",
        )
    if height % num_devices:
        step = math.lcm(num_devices, 16)
        raise InputError(
            f"--shard_rows={num_devices} came with a picture of {height} rows",
            expected="a height that is a multiple of it",
            remedy=f"add --size_step={step}, which rounds the sides while it is painted",
        )


def share_rows(image: Any, num_devices: int) -> Array:
    """Put a picture on several devices, some rows on each; on one where rows would be left over.

    Args:
      image: float[height, width, channels].
      num_devices: of all processes; 1 leaves it where it is.
    """
    if num_devices == 1:
        return image
    divisible = len(image) % num_devices == 0
    return jax.device_put(image, _sharding(num_devices, "rows" if divisible else None))


def share_copies(tree: Any, num_devices: int) -> Any:
    """Put a copy of every array on several devices."""
    return tree if num_devices == 1 else jax.device_put(tree, _sharding(num_devices, None))


def _sharding(num_devices: int, axis: str | None) -> NamedSharding:
    mesh = Mesh(np.asarray(jax.devices()[:num_devices]), ("rows",))
    return NamedSharding(mesh, PartitionSpec(axis))


def fetch(tree: Any) -> Any:
    """Return arrays as numpy's, put together from all machines; each of them has to call it."""
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
    """Return what the first machine decided; each of them has to call it."""
    if jax.process_count() == 1:
        return decision
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(decision)))


def describe_devices() -> str:
    """Say what is computed on: "the CPU", or a card's name, and how many."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return "the CPU"
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    return f"{count}{devices[0].device_kind} ({devices[0].platform})"


def writes_files() -> bool:
    """Tell whether this is the machine that writes: the first one."""
    return jax.process_index() == 0
