"""Programs compiled for little memory."""

import types

import jax
import jax.numpy as jnp
import pytest

from neuart_jax.engine import compile
from neuart_jax.engine.compile import (
    compile_fn,
    give_back_after_compiling,
    keep_memory_between_steps,
)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="CPUs only")
def test_less_memory_and_the_same_numbers():
    """Of many large arrays, each made from one number, two at a time are enough."""

    def fn(scalars):
        total = jnp.zeros((256, 256))
        for index in range(8):
            square = jnp.full((256, 256), scalars[index])
            total = jnp.sin(total @ square)
        return total

    scalars = jnp.linspace(0.1, 1, 8)
    frugal, default = (
        jit(fn).lower(scalars).compile().memory_analysis().temp_size_in_bytes
        for jit in (compile_fn, jax.jit)
    )
    assert frugal < default
    assert jnp.array_equal(compile_fn(fn)(scalars), jax.jit(fn)(scalars))


def test_a_compiler_without_the_option_does_without(monkeypatch):
    known = dict(compile._CPU_OPTIONS)
    monkeypatch.setattr(compile, "_CPU_OPTIONS", {"xla_no_such_option": "1", **known})
    compile._compiler_options.cache_clear()
    try:
        assert compile_fn(lambda x: x + 1)(1) == 2
        # ... but keeps the others.
        assert "xla_no_such_option" not in (compile._compiler_options("cpu") or {})
        if jax.default_backend() == "cpu":
            assert set(compile._compiler_options("cpu") or {}) <= set(known)
    finally:
        compile._compiler_options.cache_clear()


def test_what_a_long_compilation_leaves_is_given_back(monkeypatch):
    listeners, trimmed = [], []
    library = types.SimpleNamespace(malloc_trim=trimmed.append)
    monkeypatch.setattr(compile.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", listeners.append)
    give_back_after_compiling.cache_clear()
    for _ in range(3):  # Every command of a process asks for it.
        give_back_after_compiling()
    [listen] = listeners
    listen("/jax/core/compile/backend_compile_duration", 0.01)
    listen("/jax/core/compile/jaxpr_trace_duration", 10.0)
    assert not trimmed
    # The event is JAX's own: a real compilation is heard, too.
    heard = []
    monkeypatch.undo()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: heard.append(event)
    )
    jax.jit(lambda x: x * 3 + 1)(2)
    assert any(event.endswith("/backend_compile_duration") for event in heard)
    listen("/jax/core/compile/backend_compile_duration", 10.0)
    assert trimmed == [0]


def test_where_nothing_can_be_given_back_nothing_is_done(monkeypatch):
    monkeypatch.setattr(compile.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", pytest.fail)
    give_back_after_compiling.cache_clear()
    give_back_after_compiling()


def test_freed_memory_is_kept_for_the_next_call(monkeypatch):
    """As malloc.h numbers them: M_MMAP_MAX is -4, M_TRIM_THRESHOLD -1; both take an int."""
    opened, options = [], []
    library = types.SimpleNamespace(mallopt=lambda *option: options.append(option))
    monkeypatch.setattr(compile.ctypes, "CDLL", lambda name: opened.append(name) or library)
    keep_memory_between_steps()
    assert opened == [None]  # The process itself.
    assert options == [(-4, 0), (-1, 2**31 - 1)]


def test_without_mallopt_memory_is_nobodys_matter(monkeypatch):
    monkeypatch.setattr(compile.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    keep_memory_between_steps()
    for error in (OSError, TypeError):  # Without dlopen, and on Windows.

        def fail(name, error=error):
            raise error

        monkeypatch.setattr(compile.ctypes, "CDLL", fail)
        keep_memory_between_steps()


def test_a_command_keeps_memory_and_gives_back_what_the_compiler_leaves(monkeypatch, run_main):
    from neuart_jax.cli import flags

    called = []
    for name in ("keep_memory_between_steps", "give_back_after_compiling"):
        monkeypatch.setattr(flags, name, lambda name=name: called.append(name))
    assert run_main(content="nowhere.png", style="nowhere.png", compilation_cache="false") == 2
    assert sorted(called) == ["give_back_after_compiling", "keep_memory_between_steps"]
