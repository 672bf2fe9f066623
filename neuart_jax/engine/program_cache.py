"""Programs that later processes find without tracing them.

JAX's own cache of compiled programs is asked once a function has been traced and lowered, which
takes most of a run's start where everything is in that cache. Here the lowered program is kept as
well (`jax.export`), under a name made of what its function depends on and of its arguments' shapes;
JAX's cache then has what was compiled of it.
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
from neuart_jax.io.sealed import DamagedError, seal, unseal

logger = logging.getLogger(__name__)

# Whose code is traced.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion")


class Store(Protocol):
    """Where programs are kept. Neither method raises: a store that fails costs time only."""

    def read(self, name: str) -> bytes | None:
        """Return what was kept under a name."""

    def keep(self, name: str, content: bytes) -> None:
        """Keep bytes under a name."""


_stores: list[Store] = []


def cache_programs_in(store: Store | None) -> None:
    """Keep programs in a store, from now on in this process; None keeps none."""
    _stores[:] = [] if store is None else [store]


class _Program(NamedTuple):
    """A program that takes its arguments' leaves and gives its results'."""

    call: Callable[..., Sequence[Array]]
    results: jax.tree_util.PyTreeDef


class CachedFn:
    """A jitted function whose programs are found again where there is a store.

    Its arguments are arrays on one device, or it does what the jitted function does.

    Args:
      fn: takes and returns pytrees of arrays whose containers `plain_trees` knows.
      key: names all that the function depends on besides its arguments and this package's own code;
        see `cache_key`.
      donate: positions of arguments that are used up.
      options: of `jax.jit`.
      announcement: logged before a program is traced and compiled, which takes long; empty says
        nothing.
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
            # A part of another program, which is compiled in its own way.
            return self._fn(*args)
        if not _stores or not _are_simple(leaves):
            return self._jitted(*args)
        signature = tree, tuple(map(jax.typeof, leaves))
        if signature not in self._programs:
            self._programs[signature] = self._find(_stores[0], args, repr(signature))
        program = self._programs[signature]
        if program is None:
            return self._jitted(*args)
        return jax.tree.unflatten(program.results, program.call(*leaves))

    def _find(self, store: Store, args: Sequence[Any], signature: str) -> _Program | None:
        name = _name(self._key, signature)
        if (found := _recall(store, name)) is None:
            if self._announcement:
                logger.info(self._announcement)
            try:
                found = self._export(args)
            # Some operations of some platforms can't be exported, and JAX names no kind of error
            # for it. An error of the function itself comes again when it is called.
            except Exception as error:
                logger.debug("Not exported: %s", error)
                return None
            _keep(store, name, *found)
        structure, exported = found
        counts = [len(jax.tree.leaves(arg)) for arg in args]
        starts = np.cumsum([0, *counts])
        donated = [leaf for arg in self._donate for leaf in range(starts[arg], starts[arg + 1])]
        # The first time as well: what is compiled is the same program then, bit for bit.
        call = jax.jit(
            export.deserialize(bytearray(exported)).call, donate_argnums=donated, **self._options
        )
        return _Program(call, jax.tree.structure(from_plain(structure)))

    def _export(self, args: Sequence[Any]) -> tuple[Any, bytes]:
        """Return the results' structure, as plain JSON, and the lowered program."""
        leaves, tree = jax.tree.flatten(args)
        results = []

        # Flat: `jax.export` writes down no containers but Python's own.
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
    """Return what `_keep` was given; None if there is nothing, or it isn't that any more."""
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
    """Say that something in the caches is damaged; once in a process is enough."""
    if not _reported:
        logger.warning("Kept programs are damaged, and are made anew: %s.", cause)
        _reported.append(True)


_reported: list[bool] = []


def _are_simple(leaves: Sequence[Any]) -> bool:
    """Tell whether all arguments are arrays, with values, on the first device."""
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
