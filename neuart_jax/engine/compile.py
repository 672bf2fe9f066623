"""Compilation on CPUs: options for less memory and faster products."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import jax

from neuart_jax.engine.program_cache import CachedFn

_CPU_OPTIONS = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


_LONG_COMPILATION = 0.3
"""Seconds of compilation below which little freed memory is left behind."""


def compile_fn(
    fn: Callable[..., Any],
    *,
    key: str = "",
    donate: tuple[int, ...] = (),
    announcement: str = "",
) -> Any:
    """Return `jax.jit(fn)`, compiled for little memory and fast products.

    With a `key`, later processes find its programs again if the cache is on; see
    `program_cache.CachedFn` for the arguments.

    By default XLA's CPU compiler schedules a program for concurrency: operations that depend only
    on the network's parameters come first and their results stay alive, as do parts of gradients
    that are needed last. A loss and gradient of VGG19 at 256x256 then takes 311 MiB besides its
    arguments, of ResNet50 147 MiB; with the schedule for least memory, 100 and 72 MiB.

    Products and convolutions use Eigen instead of YNNPACK, the default: with YNNPACK a loss and
    gradient at 512x512 took 1.4 times as long with VGG19 and 1.3 times with ResNet50, batches of
    products of few channels up to twice (AMD EPYC, two cores). Only sums use YNNPACK: the
    compiler's own made the loss of a ResNet50 with random filters wrong by 4e-4, YNNPACK's by 2e-7.
    """
    options: dict[str, Any] = {"compiler_options": _compiler_options(jax.default_backend())}
    if key:
        return CachedFn(fn, key=key, donate=donate, options=options, announcement=announcement)
    return jax.jit(fn, donate_argnums=donate, **options)


@functools.cache
def _compiler_options(platform: str) -> dict[str, str] | None:
    if platform != "cpu":
        return None
    return {name: value for name, value in _CPU_OPTIONS.items() if _is_known(name, value)} or None


@functools.cache
def give_back_after_compiling() -> None:
    """Return memory freed by the compiler to the system, from now on in this process.

    Further calls do nothing: JAX has no public way to remove a listener.

    Otherwise glibc keeps the memory: a run at 512x384 then took 2.6 GiB at its peak instead of 1.8
    with VGG19, 2.5 instead of 1.7 with ResNet50. Without glibc, nothing is done.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("/backend_compile_duration") and duration_secs > _LONG_COMPILATION:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(listen)


def keep_memory_between_steps() -> None:
    """Reuse the memory of a compiled call's buffers in the next call, from now on in this process.

    glibc returns large blocks to the system as soon as they are freed, and the system zeroes their
    pages again for the next call: a third of the CPU time at 384x288 on two cores. Without glibc,
    nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # From malloc.h: no mmapped blocks, and free memory at the heap's end is kept up to a limit.
    m_mmap_max, m_trim_threshold = -4, -1
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def _is_known(option: str, value: str) -> bool:
    """Return whether this version of the compiler has an option."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
