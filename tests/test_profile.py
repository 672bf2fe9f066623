"""Profiles: seconds by phase, and the parts of a step in a trace of the compiled program."""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import smooth_image

from neuart_jax.config.errors import InputError
from neuart_jax.engine import profiling
from neuart_jax.engine.profiling import count_evaluations, phase, recording, traced
from neuart_jax.io.images import load_image, save_image
from neuart_jax.runs import profile
from neuart_jax.runs.profile import find_part, read_trace, record_profile, sum_parts

TINY = {
    "content": "photo.png",
    "style": "painting.png",
    "weights": "random",
    "model": "vgg16",
    "content_layers": "relu1_1",
    "style_layers": "relu1_1",
    "optimizer": "adam",
    "scales": 1,
    "steps": 6,
    "report_every": 2,
}


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_image(Path("photo.png"), smooth_image(24, 32, seed=1))
    save_image(Path("painting.png"), smooth_image(32, 24, seed=2))


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_phase_has_its_time_without_that_of_phases_within_it(clock, tmp_path):
    @phase("input")
    def read():
        clock(1)
        with phase("output"):
            clock(10)
        clock(2)
        return "read"

    with recording(tmp_path) as recorded:
        clock(0.5)
        assert read() == "read"
        with pytest.raises(ValueError), phase("steps"):
            clock(4)
            count_evaluations(3)
            count_evaluations(2)
            raise ValueError
        clock(0.25)
    clock(1000)
    read()
    assert recorded.seconds == {"": 0.75, "input": 3, "output": 10, "steps": 4}
    assert recorded.evaluations == {"steps": 5}


def test_compilation_is_taken_out_of_the_phase_that_it_happens_in(tmp_path):
    with recording(tmp_path) as recorded, phase("steps"):
        began = time.perf_counter()
        jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((7, 7))).block_until_ready()
        took = time.perf_counter() - began
    assert 0 < recorded.seconds[profiling.PROGRAMS] < took
    assert sum(recorded.seconds.values()) == pytest.approx(took, abs=0.05)
    assert min(recorded.seconds.values()) >= 0


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        ("jit(chunk)/while/body/jvp(network)/VGG/conv1_1/dot_general", "network"),
        ("jit(chunk)/while/body/transpose(jvp(network))/VGG/mul", "network, gradient"),
        ("jit(chunk)/while/body/vmap(transpose(jvp(losses)))/sub", "losses, gradient"),
        ("jit(chunk)/while/body/jvp(losses)/transpose(x)/sub", "losses"),
        ("jit(chunk)/while/body/optimizer/jit(transpose)/fft", "optimizer"),
        ("jit(chunk)/while/body/add", "other"),
        ("", "other"),
    ],
)
def test_the_part_of_an_operation(scope, part):
    assert find_part(scope) == part


def test_a_trace_is_divided_into_the_parts_that_its_program_names(tmp_path):
    def step(image, kernel):
        def objective(image):
            with jax.named_scope("network"):
                features = jnp.tanh(image @ kernel)
            with jax.named_scope("losses"):
                return jnp.sum(jnp.sort(features) ** 2)

        gradient = jax.grad(objective)(image)
        with jax.named_scope("optimizer"):
            return image - jnp.fft.ifft(jnp.fft.fft(gradient)).real

    def steps(image, kernel):
        return jax.lax.fori_loop(0, 3, lambda _, image: step(image, kernel), image)

    fn = jax.jit(steps, donate_argnums=0)
    image, kernel = jnp.ones((256, 256)), jnp.full((256, 256), 0.01)
    with recording(tmp_path) as recorded, phase("steps at 256x256"):
        found = traced(fn, image, kernel)
        again = traced(fn, found + 0, kernel)  # Only the first call is traced.
    assert np.isfinite(again).all() and list(recorded.traces) == ["steps at 256x256"]
    trace = recorded.traces["steps at 256x256"]
    operations = read_trace(trace)
    parts = sum_parts(operations)
    assert {"network", "network, gradient", "losses", "optimizer"} <= set(parts)
    assert sum(parts.values()) <= trace.seconds * 1.05
    assert not any(each.name.startswith("while") for each in operations)
    assert [each.seconds for each in operations] == sorted(
        (each.seconds for each in operations), reverse=True
    )


def test_without_a_recording_nothing_is_traced():
    assert traced(lambda x: x + 1, 1) == 2


@pytest.mark.parametrize("call", ["start_trace", "stop_trace"])
def test_a_failing_profiler_costs_the_trace_and_nothing_else(monkeypatch, caplog, tmp_path, call):
    work = getattr(jax.profiler, call)

    def fail(*args, **options):
        if call == "stop_trace":
            work(*args, **options)
        raise RuntimeError("Only one profile may be run at a time.")

    monkeypatch.setattr(jax.profiler, call, fail)
    with recording(tmp_path) as recorded, phase("steps"):
        assert traced(jax.jit(lambda x: x + 1), jnp.float32(1)) == 2
    assert recorded.traces == {}
    assert "There is no trace of steps: Only one profile" in caplog.text


def test_a_run_from_the_command_line_is_profiled(run_main, capsys):
    assert run_main(**TINY, output="painted", profile="where") == 0
    said = capsys.readouterr()
    assert said.out == "painted/result.png\n"
    assert "| network" in said.err and said.err.endswith("where/profile.md\n")
    assert Path("where/profile.md").read_text() in said.err
    document = json.loads(Path("where/profile.json").read_text())
    seconds = document["seconds"]
    phases = {"start of Python and JAX", "input", "weights", "programs", "targets", "output"}
    assert phases | {"steps at 32x24"} <= set(seconds)
    assert sum(seconds.values()) == pytest.approx(document["total_seconds"], rel=0.02)
    # One more at the start and one at the end, for the losses of the result.
    assert document["evaluations"] == {"steps at 32x24": 8}
    trace = document["traces"]["steps at 32x24"]
    assert {"network", "network, gradient", "losses", "optimizer"} <= set(trace["parts"])
    assert list(Path("where", trace["folder"]).rglob("*.xplane.pb"))

    # Equal pixels without it, and no record of it.
    assert run_main(**TINY, output="plain") == 0
    images = [load_image(Path(name, "result.png")).image for name in ("painted", "plain")]
    np.testing.assert_array_equal(*images)
    records = [json.loads(Path(name, "config.json").read_text()) for name in ("painted", "plain")]
    assert records[0]["result"]["losses"] == records[1]["result"]["losses"]
    assert "where" not in json.dumps(records[0])


def test_other_machines_profile_nothing(run_main, monkeypatch):
    monkeypatch.setattr("neuart_jax.cli.flags.writes_files", lambda: False)
    assert run_main(**TINY, output="painted", profile="where") == 0
    assert not Path("where").exists()


def test_a_profile_replaces_nothing(run_main, capsys):
    Path("where").mkdir()
    Path("where/notes.txt").write_text("mine")
    assert run_main(**TINY, output="painted", profile="where") == 2
    assert capsys.readouterr().err == (
        "--profile=where is there already; expected a new folder, or an empty one; "
        "give another name.\n"
    )
    Path("file").write_text("mine")
    assert run_main(**TINY, output="painted", profile="file") == 2
    assert not Path("painted").exists()
    assert not Path("output").exists()


def test_a_refused_run_leaves_no_profile(run_main):
    assert run_main(**TINY | {"content": "no.png"}, output="painted", profile="where") == 2
    assert not Path("where").exists()


def test_the_age_of_a_process_is_unknown_elsewhere(monkeypatch):
    assert 0 < profile._find_age() < 1e6
    monkeypatch.setattr(profile, "Path", lambda *_: Path("nowhere"))
    assert profile._find_age() == 0


def test_an_old_program_has_no_parts(tmp_path):
    with recording(tmp_path) as recorded, phase("steps"):
        traced(jax.jit(lambda x: jnp.fft.fft(x @ x)), jnp.ones((64, 64)))
    operations = read_trace(recorded.traces["steps"])
    assert set(sum_parts(operations)) == {"other"}
    text = profile._describe(recorded, {"steps": operations}, total=1.0)
    assert "compiled by an earlier version" in text


def test_the_folder_must_be_one_that_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="--profile=.*created.*give another --profile"),
    ):
        record_profile(lambda: 0, tmp_path / "file" / "where")


def test_a_report_that_cannot_be_written_costs_the_report_only(monkeypatch, caplog, tmp_path):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profile, "write_atomically", fail)
    assert record_profile(lambda: 3, tmp_path / "where") == (3, None)
    assert "can't be written" in caplog.text and "No space left on device" in caplog.text


def test_a_run_that_fails_leaves_no_traces(tmp_path):
    def fail():
        with phase("steps"):
            traced(jax.jit(lambda x: x + 1), jnp.float32(1))
        assert (tmp_path / "where" / "steps").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_profile(fail, tmp_path / "where")
    assert not (tmp_path / "where").exists()
