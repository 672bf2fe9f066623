"""Cache of lowered programs, which later processes load without tracing.

JAX's own cache of compiled programs is only looked up after tracing and lowering, which take most
of a run's start if everything is cached. So the lowered program is cached as well (`jax.export`),
under a name derived from everything its function depends on and its arguments' shapes; the compiled
program is then found in JAX's cache.
"""

import functools
import hashlib
import importlib.metadata
import logging
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import Array, export
from jax.sharding import SingleDeviceSharding

from neuart_jax.engine.plain_trees import from_plain, to_plain
from neuart_jax.engine.profiling import PROGRAMS, phase
from neuart_jax.io.sealed import DamagedError, seal, unseal

logger = logging.getLogger(__name__)

# Packages whose code is traced.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion")


class Store(Protocol):
    """Storage of programs. Its methods don't raise: a failing store only costs time."""

    def read(self, name: str) -> bytes | None:
        """Return the content stored under a name; None if there is none."""

    def keep(self, name: str, content: bytes) -> None:
        """Store bytes under a name."""


_stores: list[Store] = []


def cache_programs_in(store: Store | None) -> None:
    """Cache programs in a store, from now on in this process; None turns the cache off."""
    _stores[:] = [] if store is None else [store]


class _Program(NamedTuple):
    """A program from the leaves of the arguments to the leaves of the results."""

    call: jax.stages.Wrapped
    results: jax.tree_util.PyTreeDef


class CachedFn:
    """A jitted function whose programs are cached if there is a store.

    The cache is used if all arguments are arrays on one device; otherwise the function behaves like
    the plain jitted one.

    Args:
      fn: function from and to pytrees of arrays, with containers supported by `plain_trees`.
      key: cache key of everything the function depends on, other than its arguments and this
        package's code; see `cache_key`.
      donate: positions of donated arguments.
      options: options of `jax.jit`.
      announcement: message logged before a program is traced and compiled, which takes long; empty
        for none.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        key: str,
        donate: tuple[int, ...] = (),
        options: dict[str, Any],
        announcement: str = "",
    ) -> None:
        self._fn, self._key, self._donate, self._options = fn, key, donate, options
        self._announcement = announcement
        self._jitted = jax.jit(fn, donate_argnums=donate, **options)
        self._programs: dict[Hashable, _Program | None] = {}

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        leaves, tree = jax.tree.flatten(args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            # While another program is being traced, be a part of it.
            return self._fn(*args)
        if not _stores or not _are_simple(leaves):
            return self._jitted(*args)
        signature = tree, tuple(map(jax.typeof, leaves))
        if signature not in self._programs:
            with phase(PROGRAMS):
                self._programs[signature] = self._find(_stores[0], args, repr(signature))
        program = self._programs[signature]
        if program is None:
            return self._jitted(*args)
        return jax.tree.unflatten(program.results, program.call(*leaves))

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """Lower the program for arguments that the function was called with; see `jax.jit`."""
        leaves, tree = jax.tree.flatten(args)
        program = self._programs.get((tree, tuple(map(jax.typeof, leaves))))
        return self._jitted.lower(*args) if program is None else program.call.lower(*leaves)

    def _find(self, store: Store, args: Sequence[Any], signature: str) -> _Program | None:
        name = _name(self._key, signature)
        if (found := _recall(store, name)) is None:
            if self._announcement:
                logger.info(self._announcement)
            try:
                found = self._export(args)
            # Some operations can't be exported on some platforms, and JAX documents no exception
            # for that. An error of the function itself is raised again when it is called.
            except Exception as error:
                logger.debug("Not exported: %s", error)
                return None
            _keep(store, name, *found)
        structure, exported = found
        counts = [len(jax.tree.leaves(arg)) for arg in args]
        starts = np.cumsum([0, *counts])
        donated = [leaf for arg in self._donate for leaf in range(starts[arg], starts[arg + 1])]
        # Used even the first time, so that all runs compile the same program, bit for bit.
        call = jax.jit(
            export.deserialize(bytearray(exported)).call, donate_argnums=donated, **self._options
        )
        return _Program(call, jax.tree.structure(from_plain(structure)))

    def _export(self, args: Sequence[Any]) -> tuple[Any, bytes]:
        """Return the results' structure, as plain JSON, and the lowered program."""
        leaves, tree = jax.tree.flatten(args)
        results = []

        # Flattened, as `jax.export` only serializes Python's own containers.
        @functools.wraps(self._fn)
        def flat_fn(*leaves: Array) -> list[Array]:
            found = self._fn(*jax.tree.unflatten(tree, leaves))
            results.append(to_plain(jax.tree.map(lambda _: 0, found)))
            return jax.tree.leaves(found)

        specs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        exported = export.export(jax.jit(flat_fn, keep_unused=True))(*specs)
        return results[0], bytes(exported.serialize())


def _keep(store: Store, name: str, structure: Any, exported: bytes) -> None:
    facts = {"name": name, "results": structure}
    store.keep(name, b"".join(seal(facts, {"exported": memoryview(exported)})))


def _recall(store: Store, name: str) -> tuple[Any, bytes] | None:
    """Return the arguments of `_keep`; None if nothing is stored, or it is damaged."""
    document = store.read(name)
    if document is None:
        return None
    try:
        facts, blobs = unseal(document)
        if facts["name"] != name:
            raise DamagedError("it belongs to something else")
    except DamagedError as error:
        report_damage(str(error))
        return None
    return facts["results"], bytes(blobs["exported"])


def report_damage(cause: str) -> None:
    """Warn of damaged entries in the caches, once per process."""
    if not _reported:
        logger.warning("Cached programs are damaged and will be compiled again: %s.", cause)
        _reported.append(True)


_reported: list[bool] = []


def _are_simple(leaves: Sequence[Any]) -> bool:
    """Return whether all arguments are concrete arrays on the first device."""
    first = jax.devices()[0]
    return (
        jax.process_count() == 1
        and not any(getattr(jax.config, name) for name in ("jax_disable_jit", "jax_debug_nans"))
        and all(
            isinstance(leaf, np.ndarray)
            or (isinstance(leaf, Array) and leaf.sharding == SingleDeviceSharding(first))
            for leaf in leaves
        )
    )


def _name(*parts: str) -> str:
    settings = [f"{name}={getattr(jax.config, name)}" for name in _SETTINGS]
    text = "\n".join((_surroundings(), *settings, *parts))
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _surroundings() -> str:
    """Describe what every lowered program depends on: versions, platform, this package's code."""
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    return "\n".join([*versions, jax.default_backend(), code.hexdigest()])
