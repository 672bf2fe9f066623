"""Compiled programs that later processes find by what they were made from.

JAX's own cache is asked once a program has been traced and lowered, which takes most of a run's
start where everything is in it. Here a program is found before: by a text that says what its
function depends on, and by the arguments' shapes. Whatever is read back is checked first, and made
anew if a byte of it has changed.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import SingleDeviceSharding

from neuart_jax.engine import executables
from neuart_jax.engine.plain_trees import from_plain, to_plain
from neuart_jax.io.sealed import DamagedError, seal, unseal

logger = logging.getLogger(__name__)

LOADED = "/neuart_jax/compile/load_duration"
"""Event of `jax.monitoring` for each program that was found, with the seconds to load it."""

_OWN = __name__.partition(".")[0]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion")
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


class ProgramStore(Protocol):
    """Where programs are kept. Neither method raises: a store that fails costs time only."""

    def read(self, name: str) -> bytes | None:
        """Return what was kept under a name."""

    def keep(self, name: str, program: bytes) -> None:
        """Keep a program under a name."""


_stores: list[ProgramStore] = []


def keep_programs_in(store: ProgramStore | None) -> None:
    """Keep programs, from now on in this process; None keeps none."""
    foresee(None)
    _stores[:] = [] if store is None else [store]


def _keep(store: ProgramStore, name: str, facts: Any, executable: bytes = b"") -> None:
    document = seal({"name": name, "kept": facts}, {"executable": memoryview(executable)})
    store.keep(name, b"".join(document))


def _recall(store: ProgramStore, name: str) -> tuple[Any, memoryview] | None:
    """Return what `_keep` was given; None if there is nothing, or it isn't that any more."""
    document = store.read(name)
    if document is None:
        return None
    try:
        facts, blobs = unseal(document)
        if facts["name"] != name:
            raise DamagedError("it belongs to something else")
        return facts["kept"], blobs["executable"]
    except DamagedError as error:
        if not _damage_told:
            logger.warning("Kept programs are damaged, and are made anew: %s.", error)
            _damage_told.append(True)
        return None


def keep_bytes(store: ProgramStore, name: str, content: bytes) -> None:
    """Keep bytes of any kind under a name."""
    _keep(store, name, None, content)


def recall_bytes(store: ProgramStore, name: str) -> bytes | None:
    """Return what `keep_bytes` was given; None if there is nothing, or it isn't that any more."""
    found = _recall(store, name)
    return None if found is None else bytes(found[1])


_damage_told: list[bool] = []
"""Once in a process is enough."""


class KeptFn:
    """A jitted function whose programs are found again where there is a store.

    Its arguments are arrays on one device, or it does what the jitted function does.

    Args:
      jitted: what `jax.jit` returned, with ``keep_unused=True``.
      identity: tells all that the function depends on besides its arguments and this package's own
        code: equal texts, equal programs.
      announcement: logged before a program is compiled that takes long; empty says nothing.
    """

    def __init__(self, jitted: Any, identity: str, announcement: str = "") -> None:
        self._jitted, self._identity = jitted, identity
        self._announcement = announcement
        self._programs: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        leaves, tree = jax.tree.flatten(args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            # A part of another program, which is compiled in its own way.
            return self._jitted.__wrapped__(*args)
        if not _stores or not _are_simple(leaves):
            return self._jitted(*args)
        signature = tree, tuple(map(jax.typeof, leaves))
        program = self._programs.get(signature)
        if program is None:
            [store] = _stores
            program = self._programs[signature] = self._find(store, args, repr(signature))
        return program(*args)

    def _find(self, store: ProgramStore, args: Any, signature: str) -> Callable[..., Any]:
        name = _name(self._identity, signature)
        # Once, since another thread's run may end it.
        foresight = next(iter(_foreseen), None)
        program = _load(store, name) if foresight is None else foresight.take(name)
        if program is not None:
            return program
        if self._announcement:
            logger.info(self._announcement)
        with _without_jaxs_cache():
            traced = self._jitted.trace(*args)
            compiled = traced.lower().compile()
        # Some platforms can't write their programs down.
        with contextlib.suppress(Exception):
            _keep(store, name, *executables.write_down(traced, compiled))
        return compiled


def _load(store: ProgramStore, name: str) -> Callable[..., Any] | None:
    """Return what was kept under a name as a function, or None."""
    began = time.perf_counter()
    if (found := _recall(store, name)) is not None:
        # Written by another version of something that isn't in the name.
        with contextlib.suppress(Exception):
            program = executables.load(*found)
            jax.monitoring.record_event_duration_secs(LOADED, time.perf_counter() - began)
            return program
    return None


class _Foresight:
    """The programs that a run is going to need, on their way from a store."""

    def __init__(self, store: ProgramStore, text: str) -> None:
        self.text = text
        self._store, self._name = store, _name("foresee", text)
        found = _recall(store, self._name)
        self._wanted: list[str] = list(found[0]) if found is not None else []
        # Two of a run's programs are large, those of the features and of the steps.
        self._pool = ThreadPoolExecutor(2)
        self._coming = {
            name: self._pool.submit(_load, store, name)
            for name in self._wanted
            if name not in _taken
        }

    def take(self, name: str) -> Callable[..., Any] | None:
        _taken.add(name)
        if name not in self._wanted:
            self._wanted.append(name)
            _keep(self._store, self._name, self._wanted)
        if coming := self._coming.pop(name, None):
            # It wasn't begun if this has ended since.
            with contextlib.suppress(CancelledError):
                return coming.result()
        return _load(self._store, name)

    def end(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


_foreseen: list[_Foresight] = []
_taken: set[str] = set()
"""Names of programs that this process has."""


def foresee(text: str | None) -> None:
    """Load what the last run of that text needed, in threads of their own, while this one prepares.

    A program takes a core half a second and more to load, and no Python. What is asked for from now
    on is loaded like that the next time, until this is called with another text. Where there is no
    store this does nothing.

    Args:
      text: tells what a run's programs depend on; None ends it.
    """
    if _foreseen and text == _foreseen[0].text:
        return
    for foresight in _foreseen:
        foresight.end()
    _foreseen[:] = [_Foresight(_stores[0], text)] if _stores and text is not None else []


_compiling = threading.RLock()
"""Held while the setting is changed: it is the whole process's, and has to be restored in turn."""


@contextlib.contextmanager
def _without_jaxs_cache() -> Iterator[None]:
    """Have programs compiled: one that comes from JAX's cache can't be written down on CPUs."""
    setting = "jax_enable_compilation_cache"
    with _compiling:
        before = getattr(jax.config, setting)
        jax.config.update(setting, False)
        # Whether there is a cache is looked up once.
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            jax.config.update(setting, before)
            compilation_cache.reset_cache()


def remembered(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a pure function finds by tracing, too; its arguments are numbers and texts.

    What it returns is plain; see `plain_trees.to_plain`. In a process it is a `functools.cache`.
    """

    @functools.cache
    @functools.wraps(fn)
    def recall(*args: Any) -> Any:
        if not _stores:
            return fn(*args)
        [store] = _stores
        name = _name(f"{fn.__module__}.{fn.__qualname__}", repr(args))
        with contextlib.suppress(Exception):
            if (found := _recall(store, name)) is not None:
                return from_plain(found[0])
        result = fn(*args)
        _keep(store, name, to_plain(result))
        return result

    return recall


def _name(*parts: str) -> str:
    text = "\n".join((_surroundings(), _settings(), *parts))
    return hashlib.sha256(text.encode()).hexdigest()


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


def _settings() -> str:
    settings = [f"{name}={getattr(jax.config, name)}" for name in _SETTINGS]
    return "\n".join(settings + [f"{name}={os.environ.get(name, '')}" for name in _VARIABLES])


@functools.cache
def _surroundings() -> str:
    """Describe what every program depends on: versions, device, processor, this package's code."""
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    device = jax.devices()[0]
    return "\n".join(
        [
            *(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES),
            f"{device.platform} {device.device_kind} {device.client.platform_version}",
            f"{platform.machine()} {_processor()} {_num_cores()}",
            code.hexdigest(),
        ]
    )


def _processor() -> str:
    """Name the processor and what it can do: programs for CPUs hold instructions of this one."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(dict.fromkeys(line for line in text.splitlines() if line.startswith(wanted)))


def _num_cores() -> int:
    # Compiled loops are cut into as many parts.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(*parts: Any) -> str:
    """Return a text that is equal where all parts are, or "" if one of them isn't told by a text.

    Told are numbers, strings, None, and tuples, mappings and dataclasses of this package's own
    classes that hold nothing else; their code is part of a kept program's name. Whatever a user
    wrote isn't: its text may stay the same when its code changes.
    """
    try:
        return repr([_plain(part) for part in parts])
    except TypeError:
        return ""


def _plain(value: Any) -> Any:
    """Return a value as plain tuples, of which equal ones mean equal values.

    Raises:
      TypeError: it is of a class that isn't this package's, or a function.
    """
    # Exactly: a subclass may mean something else.
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind in (tuple, list, set, frozenset, dict):
        items = value.items() if kind is dict else value
        plain = [_plain(item) for item in items]
        return name, tuple(sorted(plain, key=repr) if kind in (set, frozenset) else plain)
    if kind.__module__.partition(".")[0] != _OWN:
        raise TypeError(f"{name} isn't one of this package's classes")
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = list(value._fields)
    elif isinstance(value, enum.Enum):
        return name, value.name
    else:
        raise TypeError(f"{name} doesn't say what it holds")
    return name, tuple((field, _plain(getattr(value, field))) for field in fields)
