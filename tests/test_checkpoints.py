"""A run that is cut goes on and ends with the very picture that it would have ended with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_array_equal

from neuart_jax import Config, InputError, Status, save_image, transfer
from neuart_jax.io.images import load_image
from neuart_jax.runs import checkpoints
from neuart_jax.runs.checkpoints import find_checkpoints
from neuart_jax.runs.painting import paint
from neuart_jax.runs.prepare import prepare

pytestmark = pytest.mark.slow


class Crash(Exception):
    """What ends a run at a moment of the test's choice."""


def crash_at(step):
    def callback(progress):
        if progress.num_steps >= step:
            raise Crash

    return callback


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        save_image(folder / f"photo{number}.png", smooth_image(48, 52, seed=number))
    save_image(folder / "painting.png", smooth_image(50, 48, seed=9))
    return folder


@pytest.fixture(autouse=True)
def every_chunk(monkeypatch):
    """Keep a checkpoint after every chunk, however long it takes."""
    monkeypatch.setattr(checkpoints, "_SHARE_OF_TIME", 1e12)


def config_for(pictures, output, *, photo=0, **settings):
    defaults = {
        "content": str(pictures / f"photo{photo}.png"),
        "style": str(pictures / "painting.png"),
        "output": str(output),
        "content_layers": "relu2_1",
        "style_layers": "relu1_1,relu2_1",
        "weights": "random",
        "steps": 6,
        "report_every": 2,
        "checkpoint_seconds": 1e-6,
    }
    return Config().replace(**{**defaults, **settings})


def check_equal(result, whole):
    assert_array_equal(result.image, whole.image)
    assert_array_equal(result.step_losses, whole.step_losses)
    assert result.losses == whole.losses
    assert result.num_evaluations == whole.num_evaluations
    lines = [[{**line, "seconds": 0} for line in r.history] for r in (result, whole)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adam", "average": 0.5},
        {"optimizer": "lbfgs_fixed", "stop_patience": 4},
        {"coarse_steps": 4, "carry_state": True},
    ],
    ids=["lbfgs", "adam", "fixed", "scales"],
)
def test_a_run_that_crashed_goes_on_bit_for_bit(settings, pictures, tmp_path, monkeypatch):
    if "coarse_steps" in settings:
        monkeypatch.setattr("neuart_jax.engine.scales.SMALLEST_SIDE", 16)
    config = config_for(pictures, tmp_path / "cut", save_every=2, **settings)
    whole = transfer(config.replace(output=str(tmp_path / "whole"))).result
    # With two scales, once at each.
    for step in range(4, whole.num_steps + 1, 4):
        with pytest.raises(Crash):
            transfer(config, callback=crash_at(step))
    assert not (tmp_path / "cut/result.png").exists()
    check_equal(transfer(config).result, whole)
    names = [sorted(p.name for p in (tmp_path / n).rglob("*")) for n in ("cut", "whole")]
    assert names[0] == names[1]


def test_the_step_that_a_run_goes_on_after_is_logged(pictures, tmp_path, caplog):
    config = config_for(pictures, tmp_path / "cut")
    with pytest.raises(Crash):
        transfer(config, callback=crash_at(6))
    steps = []
    caplog.set_level("INFO", logger="neuart_jax")
    transfer(config, callback=lambda progress: steps.append(progress.num_steps))
    assert steps == [6]
    assert "Resuming after step 4" in caplog.text


def test_a_run_that_was_stopped_has_a_picture_and_goes_on(pictures, tmp_path):
    # Long enough that only the stop itself writes a checkpoint.
    config = config_for(pictures, tmp_path / "cut", checkpoint_seconds=1000)
    whole = transfer(config.replace(output=str(tmp_path / "whole"))).result
    stopped = transfer(config, callback=lambda progress: progress.num_steps >= 2)
    assert stopped.result.status == Status.STOPPED
    assert stopped.image_path.exists()
    assert find_checkpoints(tmp_path / "cut/checkpoints") == [1]
    check_equal(transfer(config).result, whole)
    assert not (tmp_path / "cut/checkpoints").exists()
    with pytest.raises(InputError, match="already holds a result"):
        transfer(config)


@pytest.mark.parametrize("settings", [{"resume": False}, {"checkpoint_seconds": 0}])
def test_noresume_and_no_checkpoints_start_anew(settings, pictures, tmp_path):
    config = config_for(pictures, tmp_path / "cut", **settings)
    with pytest.raises(Crash):
        transfer(config, callback=crash_at(6))
    steps = []
    transfer(config, callback=lambda progress: steps.append(progress.num_steps))
    assert steps == [0, 2, 4, 6]


def test_a_default_folder_with_the_same_run_is_taken_again(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_for(pictures, "")
    for changes in ({}, {"seed": 3}, {}, {"seed": 3}):
        with pytest.raises(Crash):
            transfer(config.replace(**changes), callback=crash_at(6))
    assert sorted(p.name for p in Path("output").iterdir()) == [
        "photo0_painting",
        "photo0_painting_2",
    ]
    assert transfer(config).image_path.parent.name == "photo0_painting"


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"content_weight": 3.0}, "content_weight: 8.0 there, 3.0 here"),
        ({"photo": 1}, "another content image"),
        ({"seed": 5}, "seed: 0 there, 5 here; weights: random.* there, random.* here"),
    ],
)
def test_another_run_is_refused_with_the_difference(changes, phrase, pictures, tmp_path):
    config = config_for(pictures, tmp_path / "cut")
    with pytest.raises(Crash):
        transfer(config, callback=crash_at(6))
    other = config_for(pictures, tmp_path / "cut", **changes)
    with pytest.raises(InputError, match=phrase):
        transfer(other)
    assert find_checkpoints(tmp_path / "cut/checkpoints")
    steps = []
    transfer(other.replace(overwrite=True), callback=lambda p: steps.append(p.num_steps))
    assert steps[0] == 0


def checkpoint(folder, number):
    return folder / f"{number:06d}.checkpoint"


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


def change_the_arrays(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty_a_history(path):
    """A change of the facts alone, that is valid JSON."""
    content = path.read_bytes()
    assert content.count(b'"history": [{') == 1
    start = content.index(b'"history": [{')
    end = content.index(b"}]", start) + 2
    nothing = b'"history": []'.ljust(end - start)
    path.write_bytes(content[:start] + nothing + content[end:])


@pytest.mark.parametrize("damage", [cut_short, change_the_arrays, empty_a_history, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(damage, pictures, tmp_path, caplog):
    config = config_for(pictures, tmp_path / "cut", steps=8)
    whole = transfer(config.replace(output=str(tmp_path / "whole"))).result
    with pytest.raises(Crash):
        transfer(config, callback=crash_at(8))
    folder = tmp_path / "cut/checkpoints"
    numbers = find_checkpoints(folder)
    assert len(numbers) == 2
    damage(checkpoint(folder, numbers[-1]))
    caplog.clear()
    steps = []
    check_equal(transfer(config, callback=lambda p: steps.append(p.num_steps)).result, whole)
    assert steps == [6, 8]
    assert damage is Path.unlink or "can't be used" in caplog.text


def test_a_run_without_any_good_checkpoint_starts_anew_and_says_so(pictures, tmp_path, caplog):
    config = config_for(pictures, tmp_path / "cut")
    with pytest.raises(Crash):
        transfer(config, callback=crash_at(6))
    folder = tmp_path / "cut/checkpoints"
    for number in find_checkpoints(folder):
        cut_short(checkpoint(folder, number))
    steps = []
    transfer(config, callback=lambda progress: steps.append(progress.num_steps))
    assert steps[0] == 0
    assert caplog.text.count("can't be used") == 2


def test_a_checkpoint_that_cannot_be_written_is_a_warning(pictures, tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "seal", full)
    transfer(config_for(pictures, tmp_path / "a"))
    assert (tmp_path / "a/result.png").exists()
    [warning] = [r for r in caplog.messages if "checkpoint" in r]
    assert "(No space left on device); the run continues without" in warning


def test_a_batch_goes_on_with_every_pair_where_it_was(pictures, tmp_path):
    """Also one that had ended before."""

    def run(name, callback):
        # With coefficients as different, the pairs end at different steps.
        configs = [
            config_for(pictures, "", photo=n, style_weight=10.0 ** (3 * n - 2), stop_patience=2)
            for n in range(3)
        ]
        painted = paint(
            [
                prepare(config.replace(stop_tolerance=0.3, steps=12, optimizer="adam"))
                for config in configs
            ],
            [tmp_path / name / str(n) for n in range(3)],
            checkpoints=tmp_path / name / "checkpoints",
            callback=callback,
        )
        return list(zip(painted.results, painted.save(), strict=True))

    whole = [result for result, _ in run("whole", None)]
    assert len({result.num_steps for result in whole}) > 1
    steps = sorted({result.num_steps for result in whole})
    for step in (2, *steps):
        with pytest.raises(Crash):
            run("cut", lambda number, progress, step=step: crash_at(step)(progress))
    for (result, image_path), expected in zip(run("cut", None), whole, strict=True):
        check_equal(result, expected)
        saved = load_image(image_path).image
        assert np.abs(saved - expected.image).max() < 0.51 / 255


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_killed_goes_on(number, pictures, tmp_path):
    config = config_for(pictures, tmp_path / "cut", steps=30, report_every=1, optimizer="adam")
    plain = config.to_dict()
    names = ("content", "style", "output", "weights", "steps", "report_every", "optimizer")
    values = {n: v for section in plain.values() for n, v in section.items() if n in names}
    flags = [f"--{n}={v[0] if isinstance(v, list) else v}" for n, v in values.items()]
    flags += ["--content_layers=relu2_1", "--style_layers=relu1_1,relu2_1"]
    command = [sys.executable, "-m", "neuart_jax.main", *flags, "--checkpoint_seconds=0.01"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not find_checkpoints(tmp_path / "cut/checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert (tmp_path / "cut/result.png").exists() == (number != signal.SIGKILL)
    steps = []
    config = config.replace(checkpoint_seconds=0)
    result = transfer(config, callback=lambda progress: steps.append(progress.num_steps)).result
    assert steps[0] > 1
    assert result.num_steps == 30
