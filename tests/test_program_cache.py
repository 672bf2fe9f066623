"""Programs that are found by what they depend on, without being traced."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from neuart_jax import Config, Term, stylize
from neuart_jax.config.fields import nearest
from neuart_jax.config.presets import apply_preset
from neuart_jax.engine import program_cache
from neuart_jax.engine.cache_key import cache_key
from neuart_jax.engine.compilation_cache import FolderStore
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.plain_trees import from_plain, to_plain
from neuart_jax.engine.program_cache import CachedFn, cache_programs_in
from neuart_jax.models.vgg import VGG
from neuart_jax.optimizers.base import Point

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def store(tmp_path):
    store = FolderStore(tmp_path / "programs")
    cache_programs_in(store)
    yield store
    cache_programs_in(None)


def files(tmp_path):
    return sorted((tmp_path / "programs").glob("*")) if (tmp_path / "programs").exists() else []


def make_counted(key="double and add"):
    """Make a function that counts how often it is traced."""
    traced = []

    def fn(numbers, tree):
        traced.append(1)
        return {"sum": 2 * numbers + tree["more"]}

    return compile_fn(fn, key=key, donate=(0,)), traced


def call(fn, size=3):
    found = fn(jnp.arange(size, dtype=jnp.float32), {"more": jnp.ones(size)})
    return found["sum"].tolist()


def test_a_program_is_traced_once_for_all_processes(store, tmp_path):
    fn, traced = make_counted()
    assert call(fn) == call(fn) == [1, 3, 5] and len(traced) == 1
    again, traced_again = make_counted()
    assert call(again) == [1, 3, 5] and not traced_again
    assert len(files(tmp_path)) == 1
    donated = jnp.arange(3.0)
    again(donated, {"more": jnp.ones(3)})
    assert donated.is_deleted()


@pytest.mark.parametrize("change", ["key", "shape", "dtype", "tree", "setting", "code"])
def test_another_program_is_another_file(store, tmp_path, monkeypatch, change):
    fn, _ = make_counted()
    call(fn)
    other, traced = make_counted("something else" if change == "key" else "double and add")
    numbers = jnp.arange(4.0 if change == "shape" else 3.0)
    if change == "dtype":
        numbers = numbers.astype(jnp.bfloat16)
    more = {"more": jnp.ones(numbers.shape)} | ({"other": numbers + 1} if change == "tree" else {})
    if change == "code":
        monkeypatch.setattr(program_cache, "_surroundings", lambda: "another version")
    with jax.default_matmul_precision("highest" if change == "setting" else None):
        other(numbers, more)
    assert len(traced) == 1 and len(files(tmp_path)) == 2


def test_a_damaged_file_costs_time_only(store, tmp_path):
    call(make_counted()[0])
    (path,) = files(tmp_path)
    path.write_bytes(b"damaged")
    fn, traced = make_counted()
    assert call(fn) == [1, 3, 5] and len(traced) == 1
    # It is whole again.
    fn, traced = make_counted()
    assert call(fn) == [1, 3, 5] and not traced


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache_programs_in(FolderStore(tmp_path / "file" / "programs"))
    try:
        assert call(make_counted()[0]) == [1, 3, 5]
        assert call(make_counted("another")[0]) == [1, 3, 5]
    finally:
        cache_programs_in(None)
    (line,) = caplog.messages
    assert line.startswith("Compiled programs are not cached: ")


def test_inside_of_other_programs_and_without_a_store_it_is_an_ordinary_function(store, tmp_path):
    fn, _ = make_counted()
    inside = jax.jit(lambda numbers: fn(numbers, {"more": numbers})["sum"])
    assert inside(jnp.ones(2)).tolist() == [3, 3]
    shapes = jax.eval_shape(fn, jnp.ones(2), {"more": jnp.ones(2)})
    assert shapes["sum"].shape == (2,)
    assert not files(tmp_path)
    cache_programs_in(None)
    fn, traced = make_counted()
    assert call(fn) == call(fn) == [1, 3, 5] and len(traced) == 1
    assert not files(tmp_path)


def test_the_oldest_go(tmp_path):
    store = FolderStore(tmp_path / "programs", max_bytes=250)
    a, b, c, d = (64 * name for name in "abcd")
    for age, name in enumerate((a, b, c)):
        store.keep(name, bytes(100))
        os.utime(tmp_path / "programs" / name, (age, age))
    assert store.read(a) is None
    store.read(b)  # Is newer than c by that.
    (tmp_path / "programs/notes.txt").write_text("x" * 300)
    store.keep(d, bytes(100))
    assert {path.name for path in files(tmp_path)} == {b, d, "notes.txt"}


def test_what_a_killed_process_has_left_half_written_goes_after_a_day(tmp_path):
    store = FolderStore(tmp_path / "programs")
    store.keep("a" * 64, b"x")
    names = [f".neuart_jax-{digit * 16}.tmp" for digit in "01"]
    for name in (*names, ".mine.tmp"):
        (tmp_path / "programs" / name).touch()
    for name in (names[0], ".mine.tmp"):
        os.utime(tmp_path / "programs" / name, (0, 0))
    store.keep("b" * 64, b"x")
    hidden = {path.name for path in files(tmp_path) if path.name.startswith(".")}
    assert hidden == {names[1], ".mine.tmp"}


class State(NamedTuple):
    """Looks like one of this package's containers, and is none."""

    numbers: object


def test_containers_come_back_as_what_they_were():
    tree = {"b": [1, 2.5, None], "a": (Point(0, 1), optax.EmptyState(), "text", True)}
    again = from_plain(json.loads(json.dumps(to_plain(tree))))
    assert again == tree and list(again) == ["b", "a"] and type(again["a"][0]) is Point
    for other in ({1: 2}, {"a": object()}, State(1), np.ones(2), {"x": {1}}):
        with pytest.raises(TypeError):
            to_plain(other)
    for hostile in (
        ["named", ["os", "system", ["echo"]]],
        ["named", ["neuart_jax.main", "main", []]],
    ):
        with pytest.raises(TypeError):
            from_plain(dict([hostile]))


def test_no_pickle_is_read_from_a_folder(store, tmp_path):
    """Whatever lies there: a hostile one is never so much as opened."""
    call(make_counted()[0])
    (tmp_path / "hit").mkdir()

    class Hostile:
        def __reduce__(self):
            return os.rmdir, (str(tmp_path / "hit"),)

    for path in files(tmp_path):
        path.write_bytes(pickle.dumps((Hostile(), Hostile(), Hostile())))
    fn, traced = make_counted()
    assert call(fn) == [1, 3, 5] and len(traced) == 1
    assert (tmp_path / "hit").is_dir()


def test_no_flip_and_no_cut_of_a_kept_file_changes_a_result(store, tmp_path, monkeypatch, caplog):
    def run():
        monkeypatch.setattr(program_cache, "_reported", [])
        caplog.clear()
        fn, traced = make_counted()
        return call(fn), len(traced)

    run()
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        place = int(rng.integers(len(content)))
        if rng.random() < 0.7:
            content[place] ^= 1 << rng.integers(8)
        else:
            del content[place:]
        path.write_bytes(content)
        assert run() == ([1, 3, 5], 1)
        assert len(caplog.messages) == 1 and "compiled again" in caplog.text
        assert run() == ([1, 3, 5], 0) and not caplog.messages  # It is whole again.


@pytest.mark.lenient
def test_what_cannot_be_exported_is_compiled_as_ever(store, tmp_path):
    seen = []

    def fn(x):
        jax.debug.callback(lambda value: seen.append(float(value)), jnp.sum(x))
        return (2 * x, State(x))

    twice, _ = compile_fn(fn, key="with an effect")(jnp.ones(3))
    jax.effects_barrier()
    assert twice.tolist() == [2, 2, 2] and seen == [3.0] and not files(tmp_path)
    with pytest.raises(ZeroDivisionError):
        compile_fn(lambda x: 1 / 0, key="broken")(jnp.ones(3))


def test_what_has_no_key_is_not_kept():
    module = VGG(pooling="average")
    assert cache_key(module, 1, ("a",)) == cache_key(VGG(pooling="average"), 1, ("a",))
    assert cache_key(module) != cache_key(VGG(pooling="max"))
    assert cache_key(module, nearest) == ""  # A function.
    assert cache_key(lambda params, image: {}, 1) == ""
    assert cache_key(Config()) and cache_key(apply_preset("gatys2017"))
    assert cache_key(np.float32(1)) == ""  # It equals 1.0 and its text does not.
    assert not isinstance(compile_fn(lambda x: x), CachedFn)


def make_users_term(target, factor):
    """Define a loss as a notebook's cell does: its text is the same however it is edited."""

    @dataclasses.dataclass(frozen=True)
    class Target:
        scale: float = 1.0

        def __call__(self, inputs):
            return jnp.float32(target) * self.scale

    @dataclasses.dataclass(frozen=True)
    class Loss:
        def __call__(self, image, features, target):
            return factor * jnp.sum((jnp.mean(image) - target) ** 2)

    return Term(name="mine", weight=1.0, make_target=Target(), loss_fn=Loss())


def test_what_a_user_wrote_is_never_identified_by_its_text(store):
    first, edited = make_users_term(0.0, 1.0), make_users_term(100.0, 10.0)
    assert repr(first) == repr(edited) and " at 0x" not in repr(first)
    assert cache_key(first) == cache_key((1, {"of a user": first})) == ""
    config = Config().replace(
        **{"weights": "random", "content_layers": "relu1_1", "style_layers": "relu1_1"},
        **{"steps": 1, "scales": 1, "optimizer": "adam", "content_weight": 0, "tv_weight": 0},
        **{"style_weight": 1e-12, "memory_check": False},
    )
    picture = np.full((32, 32, 3), 0.5, np.float32)
    for term, right in ((first, 0.25), (edited, 10 * 99.5**2), (first, 0.25)):
        result = stylize(picture, picture, config, extra_terms=[term])
        np.testing.assert_allclose(result.history[0]["mine"], right, rtol=1e-6)


SEVERAL_DEVICES = """
import pathlib, sys, jax, jax.numpy as jnp
from neuart_jax.engine.compilation_cache import FolderStore
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.program_cache import cache_programs_in
cache_programs_in(FolderStore(pathlib.Path(sys.argv[1])))
traced = []
def double(x):
    traced.append(1)
    return 2 * x
for _ in range(2):
    assert compile_fn(double, key="double")(jnp.ones(3)).tolist() == [2, 2, 2]
spread = jax.device_put(jnp.ones(4), jax.sharding.NamedSharding(
    jax.make_mesh((4,), ("x",)), jax.sharding.PartitionSpec("x")))
print(len(jax.devices()), len(traced), compile_fn(double, key="double")(spread).tolist())
"""


def test_a_program_of_one_device_among_several_is_found(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL_DEVICES, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "4 1 [2.0, 2.0, 2.0, 2.0]\n"
    assert len(list(tmp_path.iterdir())) == 1


RUN = """
import pathlib, sys, jax, numpy as np
from neuart_jax import Config, stylize
from neuart_jax.engine.compilation_cache import use_compilation_cache
use_compilation_cache(pathlib.Path(sys.argv[1]))
traced = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **about: traced.append(about.get("fun_name")) if "trace" in name else None
)
picture = np.random.default_rng(0).random((48, 48, 3), np.float32)
config = Config().replace(
    weights="random", content_layers="relu1_1", style_layers="relu1_1", steps=3, scales=1
)
result = stylize(picture, picture[::-1], config)
parts = {"transform", "target_features", "init", "chunk"} & set(traced)
print(sorted(parts), result.step_losses.tolist())
"""


def test_a_second_run_traces_nothing_and_paints_the_same(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["PYTHONPATH"] = str(ROOT)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", RUN, str(tmp_path / "cache")],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    first, second = (output.partition("]") for output in outputs)
    assert "'chunk'" in first[0] and "'init'" in first[0]
    assert second[0] == "["
    assert first[2] == second[2]
