"""Compiled programs that are found by what they were made from."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import threading
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
from neuart_jax.engine.compilation_cache import FolderStore
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.plain_trees import from_plain, to_plain
from neuart_jax.engine.program_cache import KeptFn, describe, foresee, keep_programs_in, remembered
from neuart_jax.models.vgg import VGG
from neuart_jax.optimizers.protocol import Point

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def store(tmp_path):
    store = FolderStore(tmp_path / "programs")
    keep_programs_in(store)
    yield store
    keep_programs_in(None)


def files(tmp_path):
    return sorted((tmp_path / "programs").glob("*")) if (tmp_path / "programs").exists() else []


def make_counted(identity="double and add"):
    """Make a function that counts how often it is traced."""
    traced = []

    def fn(numbers, tree):
        traced.append(1)
        return {"sum": 2 * numbers + tree["more"]}

    return compile_fn(fn, identity=identity, donate_argnames="numbers"), traced


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


@pytest.mark.parametrize("change", ["identity", "shape", "dtype", "tree", "setting", "code"])
def test_another_program_is_another_file(store, tmp_path, monkeypatch, change):
    fn, _ = make_counted()
    call(fn)
    other, traced = make_counted("something else" if change == "identity" else "double and add")
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
    keep_programs_in(FolderStore(tmp_path / "file" / "programs"))
    try:
        assert call(make_counted()[0]) == [1, 3, 5]
        assert call(make_counted("another")[0]) == [1, 3, 5]
    finally:
        keep_programs_in(None)
    (line,) = caplog.messages
    assert line.startswith("Compiled programs are not kept: ")


def test_inside_of_other_programs_and_without_a_store_it_is_an_ordinary_function(store, tmp_path):
    fn, _ = make_counted()
    inside = jax.jit(lambda numbers: fn(numbers, {"more": numbers})["sum"])
    assert inside(jnp.ones(2)).tolist() == [3, 3]
    shapes = jax.eval_shape(fn, jnp.ones(2), {"more": jnp.ones(2)})
    assert shapes["sum"].shape == (2,)
    assert not files(tmp_path)
    keep_programs_in(None)
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
    spec = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16, weak_type=True)
    point = Point(jax.ShapeDtypeStruct((), np.float32), spec)
    tree = {"b": [1, 2.5, None], "a": (point, optax.EmptyState(), "text", True)}
    again = from_plain(json.loads(json.dumps(to_plain(tree))))
    assert again == tree and list(again) == ["b", "a"]
    assert type(again["a"][0]) is Point and again["a"][0][1].weak_type
    for other in ({1: 2}, {"a": object()}, State(1), jax.random.key(0), {"x": {1}}):
        with pytest.raises(TypeError):
            to_plain(other)
    for hostile in (
        ["named", ["os", "system", ["echo"]]],
        ["named", ["neuart_jax.main", "main", []]],
    ):
        with pytest.raises(TypeError):
            from_plain(dict([hostile]))


def test_no_pickle_is_read_from_a_folder(store, tmp_path, monkeypatch):
    """Whatever lies there: a hostile one is never so much as opened."""
    foresee("a run")
    call(make_counted()[0])
    forget_process(monkeypatch)
    (tmp_path / "hit").mkdir()

    class Hostile:
        def __reduce__(self):
            return os.rmdir, (str(tmp_path / "hit"),)

    for path in files(tmp_path):
        path.write_bytes(pickle.dumps((Hostile(), Hostile(), Hostile())))
    foresee("a run")
    fn, traced = make_counted()
    assert call(fn) == [1, 3, 5] and len(traced) == 1
    assert (tmp_path / "hit").is_dir()


def test_results_are_free_to_go_to_other_devices_and_as_weak_as_they_were(store):
    def make():
        return compile_fn(lambda x: (x + 1, 2.0 * jnp.asarray(1.0)), identity="two")

    plain = jax.jit(lambda x: (x + 1, 2.0 * jnp.asarray(1.0)))(jnp.ones(2))
    make()(jnp.ones(2))
    kept = make()(jnp.ones(2))
    assert [a.committed for a in kept] == [a.committed for a in plain] == [False, False]
    assert [a.weak_type for a in kept] == [a.weak_type for a in plain]
    assert [a.tolist() for a in kept] == [a.tolist() for a in plain]


def test_no_flip_and_no_cut_of_a_kept_file_changes_a_result(store, tmp_path, monkeypatch, caplog):
    @remembered
    def find(number):
        return {"shape": jax.ShapeDtypeStruct((number,), np.float32)}

    def run():
        forget_process(monkeypatch)
        find.cache_clear()
        monkeypatch.setattr(program_cache, "_damage_told", [])
        caplog.clear()
        foresee("a run")
        fn, traced = make_counted()
        return call(fn), find(2)["shape"].shape, len(traced)

    run()
    paths = files(tmp_path)
    assert len(paths) == 3  # The program, what will be needed, and what was found.
    whole = [path.read_bytes() for path in paths]
    rng = np.random.default_rng(0)
    for _ in range(60):
        number = rng.integers(len(paths))
        content = bytearray(whole[number])
        place = int(rng.integers(len(content)))
        if rng.random() < 0.7:
            content[place] ^= 1 << rng.integers(8)
        else:
            del content[place:]
        paths[number].write_bytes(content)
        numbers, shape, num_traced = run()
        assert (numbers, shape) == ([1, 3, 5], (2,))
        assert len(caplog.messages) == 1 and "made anew" in caplog.text
        assert num_traced <= 1
        assert run() == ([1, 3, 5], (2,), 0) and not caplog.messages  # It is whole again.


def test_what_does_not_tell_is_not_kept():
    module = VGG(pooling="average")
    assert describe(module, 1, ("a",)) == describe(VGG(pooling="average"), 1, ("a",))
    assert describe(module) != describe(VGG(pooling="max"))
    assert describe(module, nearest) == ""  # A function.
    assert describe(lambda params, image: {}, 1) == ""
    assert describe(Config()) and describe(apply_preset("gatys2017"))
    assert describe(np.float32(1)) == ""  # It equals 1.0 and its text does not.
    assert not isinstance(compile_fn(lambda x: x), KeptFn)


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


def test_what_a_user_wrote_is_never_told_by_its_text(store):
    first, edited = make_users_term(0.0, 1.0), make_users_term(100.0, 10.0)
    assert repr(first) == repr(edited) and " at 0x" not in repr(first)
    assert describe(first) == describe((1, {"of a user": first})) == ""
    config = Config().replace(
        **{"weights": "random", "content_layers": "relu1_1", "style_layers": "relu1_1"},
        **{"steps": 1, "scales": 1, "optimizer": "adam", "content_weight": 0, "tv_weight": 0},
        **{"style_weight": 1e-12, "memory_check": False},
    )
    picture = np.full((32, 32, 3), 0.5, np.float32)
    for term, right in ((first, 0.25), (edited, 10 * 99.5**2), (first, 0.25)):
        result = stylize(picture, picture, config, extra_terms=[term])
        np.testing.assert_allclose(result.history[0]["mine"], right, rtol=1e-6)


def test_compilations_at_the_same_time_leave_jaxs_cache_as_it_was():
    before = jax.config.jax_enable_compilation_cache
    inside, tried = threading.Event(), threading.Event()

    def first():
        with program_cache._without_jaxs_cache():
            inside.set()
            tried.wait(1)

    def second():
        inside.wait()
        tried.set()
        with program_cache._without_jaxs_cache():
            one.join()

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    for thread in (one, two):
        thread.start()
    two.join()
    assert jax.config.jax_enable_compilation_cache == before


def test_results_of_tracing_are_kept(store, tmp_path):
    asked = []

    @remembered
    def find(name, number):
        asked.append(name)
        return {"shape": jax.ShapeDtypeStruct((number,), np.float32)}

    assert find("a", 2)["shape"].shape == find("a", 2)["shape"].shape == (2,)
    find.cache_clear()
    assert find("a", 2)["shape"].shape == (2,) and asked == ["a"]
    assert find("a", 3)["shape"].shape == (3,) and len(files(tmp_path)) == 2


def forget_process(monkeypatch):
    """Begin anew, as another process would."""
    foresee(None)
    monkeypatch.setattr(program_cache, "_taken", set())


def test_what_a_run_needed_is_on_its_way_the_next_time(store, tmp_path, monkeypatch):
    loading = threading.Event()
    load = program_cache._load

    def load_and_tell(store, name):
        if threading.current_thread() is not threading.main_thread():
            loading.set()
        return load(store, name)

    monkeypatch.setattr(program_cache, "_load", load_and_tell)
    foresee("a run")
    call(make_counted("first")[0])
    call(make_counted("second")[0])
    assert not loading.is_set()
    forget_process(monkeypatch)
    call(make_counted("of nobody")[0])
    foresee("another run")
    assert not loading.wait(0.1)
    foresee("a run")
    assert loading.wait(10)
    names = [fn for fn, traced in map(make_counted, ("second", "first")) if call(fn) and not traced]
    assert len(names) == 2
    # All is in this process now.
    loading.clear()
    foresee(None)
    foresee("a run")
    assert not loading.wait(0.1)


def test_what_another_run_ended_is_loaded_when_it_is_needed(store, monkeypatch):
    foresee("a run")
    functions = [make_counted(str(number))[0] for number in range(3)]
    for fn in functions:
        call(fn)
    forget_process(monkeypatch)
    entered, may_go_on = threading.Event(), threading.Event()
    load = program_cache._load

    def wait_and_load(store, name):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            may_go_on.wait(10)
        return load(store, name)

    monkeypatch.setattr(program_cache, "_load", wait_and_load)
    foresee("a run")
    (foresight,) = program_cache._foreseen
    assert entered.wait(10)
    # Two are on their way, the third one waits for a thread.
    foresee(None)
    may_go_on.set()
    names = list(foresight._coming)
    assert len(names) == 3 and None not in map(foresight.take, names)


@pytest.mark.parametrize("damage", [b"damaged", None])
def test_a_wrong_expectation_costs_time_only(store, tmp_path, monkeypatch, damage):
    foresee("a run")
    call(make_counted()[0])
    forget_process(monkeypatch)
    for path in files(tmp_path):
        path.unlink() if damage is None else path.write_bytes(damage)
    foresee("a run")
    fn, traced = make_counted()
    assert call(fn) == [1, 3, 5] and len(traced) == 1
    # Both are whole again: the program, and that it will be needed.
    forget_process(monkeypatch)
    foresee("a run")
    fn, traced = make_counted()
    assert call(fn) == [1, 3, 5] and not traced and len(files(tmp_path)) == 2


SEVERAL_DEVICES = """
import pathlib, sys, jax, jax.numpy as jnp
from neuart_jax.engine.compilation_cache import FolderStore
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.program_cache import keep_programs_in
keep_programs_in(FolderStore(pathlib.Path(sys.argv[1])))
traced = []
def double(x):
    traced.append(1)
    return 2 * x
for _ in range(2):
    assert compile_fn(double, identity="double")(jnp.ones(3)).tolist() == [2, 2, 2]
spread = jax.device_put(jnp.ones(4), jax.sharding.NamedSharding(
    jax.make_mesh((4,), ("x",)), jax.sharding.PartitionSpec("x")))
print(len(jax.devices()), len(traced), compile_fn(double, identity="double")(spread).tolist())
"""


def test_a_program_of_one_device_among_several_is_found(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
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
