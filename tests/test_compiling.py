"""Programs compiled for little memory."""

import jax
import jax.numpy as jnp
import pytest

from neuart_jax import compiling
from neuart_jax.compiling import compile_fn


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
    known = dict(compiling._CPU_OPTIONS)
    monkeypatch.setattr(compiling, "_CPU_OPTIONS", {"xla_no_such_option": "1", **known})
    compiling._compiler_options.cache_clear()
    try:
        assert compile_fn(lambda x: x + 1)(1) == 2
        # ... but keeps the others.
        assert "xla_no_such_option" not in (compiling._compiler_options("cpu") or {})
        if jax.default_backend() == "cpu":
            assert set(compiling._compiler_options("cpu") or {}) <= set(known)
    finally:
        compiling._compiler_options.cache_clear()
