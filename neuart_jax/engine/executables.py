"""Compiled programs of one device as plain facts and the compiler's own bytes, and back.

What JAX has for this (`jax.experimental.serialize_executable`) is a pickle, which may run anything
when it is read. Here only the compiler's bytes are handed on, and what surrounds them is JSON.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array
from jax._src.array import ArrayImpl
from jax.core import ShapedArray
from jax.sharding import SingleDeviceSharding
from jaxlib.xla_client import DeviceList

from neuart_jax.engine.plain_trees import from_plain, to_plain


def write_down(traced: Any, compiled: Any) -> tuple[dict[str, Any], bytes]:
    """Return what a compiled program is made again from.

    Args:
      traced: a `jax.stages.Traced` of a function that was jitted with ``keep_unused=True``.
      compiled: it, lowered and compiled for the first device.

    Raises:
      Exception: of nearly any kind, where that can't be done: on some platforms, and for functions
        with effects, such as callbacks.
    """
    if traced.jaxpr.effects:
        raise TypeError(f"the program has effects: {traced.jaxpr.effects}")
    return {"outputs": to_plain(traced.out_info)}, compiled.runtime_executable().serialize()


def load(facts: Mapping[str, Any], executable: Any) -> Callable[..., Any]:
    """Make a function of what `write_down` returned.

    It takes what the function took, with leaves of the same shapes and types, as arrays of numpy's
    or of the first device.

    Args:
      facts: from `write_down`.
      executable: the bytes from `write_down`, unchanged: others can crash the process.

    Raises:
      Exception: of nearly any kind, where another version wrote it.
    """
    device = jax.devices()[0]
    sharding = SingleDeviceSharding(device)
    outputs, tree = jax.tree.flatten(from_plain(facts["outputs"]))
    avals = [ShapedArray(o.shape, o.dtype, weak_type=o.weak_type) for o in outputs]
    program = device.client.deserialize_executable(
        bytes(executable), executable_devices=DeviceList((device,))
    )

    def call(*args: Any) -> Any:
        leaves = [a if isinstance(a, Array) else jax.device_put(a) for a in jax.tree.leaves(args)]
        results = program.execute_sharded(leaves).disassemble_into_single_device_arrays()
        # Free to be moved to other devices, as those of a jitted function are.
        arrays = [
            ArrayImpl(aval, sharding, [array], committed=False, _skip_checks=True)
            for aval, (array,) in zip(avals, results, strict=True)
        ]
        return jax.tree.unflatten(tree, arrays)

    return call
