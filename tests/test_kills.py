"""Whatever moment a run is killed at, the same command ends with all the files of a whole run."""

import dataclasses
import os
import re
import shutil
import sys
import types

import numpy as np
import painter
import pytest

from neuart_jax import InputError, save_image, transfer
from neuart_jax.runs import checkpoints, destination, painting
from neuart_jax.runs.batch import plan, run_batch
from neuart_jax.runs.checkpoints import find_checkpoints
from neuart_jax.runs.manifest import Manifest, make_jobs
from neuart_jax.runs.own_folder import MARK_NAME
from neuart_jax.runs.video import paint_film, passes
from neuart_jax.runs.video import run as film_run

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """What ends a run at a file operation of the test's choice; nothing catches it."""


class Killer:
    """Lets no file operation below a folder happen from the n-th on, as after `kill -9`.

    It hears of every file that Python opens to write, renames or removes, and of every folder
    made or removed, whoever asks for it.
    """

    def __init__(self):
        self.folder, self.left, self.count = None, None, 0
        sys.addaudithook(self._hear)  # For good: there is no way to take it off.

    def arm(self, folder, left=None):
        self.folder, self.left, self.count = str(folder), left, 0

    def _hear(self, event, args):
        if self.folder is None or event not in _EVENTS:
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = args[0]
        if isinstance(path, int) or not os.fsdecode(path).startswith(self.folder):
            return
        self.count += 1
        if self.left is not None and self.count > self.left:
            raise Killed(f"before {event} of {path}")


_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}


@pytest.fixture(scope="session")
def installed_killer():
    return Killer()


@pytest.fixture
def killer(installed_killer, monkeypatch):
    painter.install(monkeypatch)
    monkeypatch.setattr(checkpoints, "_SHARE_OF_TIME", 1e12)
    yield installed_killer
    installed_killer.folder = None


def all_files(folder):
    """Return name to content of everything in a folder, but for who wrote there."""
    return {
        str(path.relative_to(folder)): b"" if path.name == MARK_NAME else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def kill_everywhere(killer, run, folder, *, before=lambda: None):
    """Kill a run at its first file operation, its second, ... and let it end each time.

    Args:
      run: paints into the folder; raises InputError if its result is there already.
      folder: of its files.
      before: what was done there before the run.

    Returns:
      How many operations there are.
    """
    before()
    run()
    expected = all_files(folder)
    for number in range(1000):
        shutil.rmtree(folder)
        before()
        killer.arm(folder, number)
        try:
            run()
        except Killed:
            killer.folder = None
        else:
            killer.folder = None
            return number
        try:
            run()
        except InputError as error:
            # It was killed with nothing left to do.
            assert re.search("already holds a result|there already", str(error)), error
        found = all_files(folder)
        assert found.keys() == expected.keys(), number
        assert [name for name in found if found[name] != expected[name]] == [], number
    raise AssertionError("it never ends")


@pytest.mark.parametrize("name", ["result.png", "result.tif"])
@pytest.mark.parametrize("seconds", [1e-9, 0])
def test_a_run_killed_at_any_file_operation_is_completed(killer, tmp_path, name, seconds):
    (content,), style = painter.pictures(tmp_path / "pictures")
    config = painter.config_of(
        content,
        style,
        output=str(tmp_path / "out"),
        image_name=name,
        save_every=4,
        checkpoint_seconds=seconds,
    )
    count = kill_everywhere(killer, lambda: transfer(config), tmp_path / "out")
    assert count > (40 if seconds else 25)


def test_a_picture_beside_its_folder_is_there_whatever_moment_it_was_killed_at(
    killer, tmp_path, monkeypatch
):
    monkeypatch.setattr(destination, "_SECONDS_OF_A_COPY", 0)
    (content,), style = painter.pictures(tmp_path / "pictures")
    config = painter.config_of(content, style, output=str(tmp_path / "out/painted.png"))
    assert kill_everywhere(killer, lambda: transfer(config), tmp_path / "out") > 40


def test_a_run_that_replaces_another_and_is_killed_is_completed(killer, tmp_path):
    """Where two results' files lie side by side for a moment, and no checkpoint is there."""
    (content,), style = painter.pictures(tmp_path / "pictures")
    config = painter.config_of(
        content, style, output=str(tmp_path / "out"), save_every=2, checkpoint_seconds=0
    )
    new = config.replace(seed=5, save_every=4, overwrite=True)
    count = kill_everywhere(
        killer, lambda: transfer(new), tmp_path / "out", before=lambda: transfer(config)
    )
    assert count > 25
    assert sorted(p.name for p in (tmp_path / "out/frames").iterdir()) == [
        "000000.png",
        "000004.png",
    ]


def test_a_run_that_goes_on_after_a_stop_and_is_killed_is_completed(killer, tmp_path):
    (content,), style = painter.pictures(tmp_path / "pictures")
    config = painter.config_of(content, style, output=str(tmp_path / "out"))

    def stop():
        stopped = transfer(config, callback=lambda progress: progress.num_steps >= 2)
        assert stopped.result.status.name == "STOPPED"

    assert kill_everywhere(killer, lambda: transfer(config), tmp_path / "out", before=stop) > 20


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_killed_at_any_file_operation_is_completed(killer, tmp_path, monkeypatch, batch):
    contents, style = painter.pictures(tmp_path / "pictures", count=3)
    config = painter.config_of(contents[0], style, weights="random")
    if batch > 1:  # As with weights that pairs share.
        monkeypatch.setattr(plan, "depends_on_images", lambda config: False)
    jobs = make_jobs(config, str(tmp_path / "pictures/photo*.png"), [str(style)], pair="cross")
    painted = []

    def run():
        painted.append(run_batch(Manifest("the rows", jobs, []), tmp_path / "out", batch=batch))

    assert kill_everywhere(killer, run, tmp_path / "out") > 80
    assert all(line.status == "completed" for result in painted for line in result.lines)
    # The next run paints nothing again.
    before = all_files(tmp_path / "out")
    monkeypatch.setattr(painting, "stylize_pairs", None)
    run()
    assert all_files(tmp_path / "out") == before


def test_every_checkpoint_is_the_one_a_killed_run_goes_on_from(killer, tmp_path):
    (content,), style = painter.pictures(tmp_path / "pictures")
    config = painter.config_of(content, style, output=str(tmp_path / "out"))
    steps = []
    for number in range(0, 60, 3):
        killer.arm(tmp_path / "out", number)
        try:
            transfer(config)
        except Killed:
            killer.folder = None
        else:
            break
        there = find_checkpoints(tmp_path / "out/checkpoints")
        if there and there[-1] == 3:  # Of the last step: nothing is left to be looked at.
            break
        seen = []
        with pytest.raises(Killed):  # Nothing changes: this only looks.

            def look(progress, seen=seen):
                seen.append(progress.num_steps)
                raise Killed

            transfer(config, callback=look)
        steps.append((len(there) > 0, seen[0]))
        shutil.rmtree(tmp_path / "out")
    # From the start as long as there is none, and from the last one else.
    assert {step for has_one, step in steps if not has_one} == {0}
    assert {step for has_one, step in steps if has_one} >= {4, 6}


def paint_frame(plans, params, *, heritage, finishes, style_targets, **options):
    """Do what `stylize_bound` does with a frame, which goes on from where it is told to."""
    [result] = painter.paint(plans, **options)
    start = heritage[0].start
    image = result.image if start is None else 0.5 * result.image + 0.5 * start
    return [dataclasses.replace(result, image=image)]


@pytest.mark.parametrize(("name", "passes_"), [("film.mkv", 2), ("film.gif", 1)])
def test_a_film_killed_at_any_file_operation_is_completed(
    killer, tmp_path, monkeypatch, name, passes_
):
    monkeypatch.setattr(passes, "stylize_bound", paint_frame)
    monkeypatch.setattr(film_run, "_SECONDS_OF_A_FILM", 0)
    monkeypatch.setattr(film_run, "bind_network", lambda plan, network: (plan, None))
    monkeypatch.setattr(
        film_run, "load_run_network", lambda plans: painter.network(plans[0].config)
    )
    still = types.SimpleNamespace(perf_counter=lambda: 0.0, monotonic=lambda: 0.0)
    monkeypatch.setattr(passes, "time", still)
    _, style = painter.pictures(tmp_path / "pictures")
    (tmp_path / "clip").mkdir()
    wide = np.random.default_rng(4).random((40, 60, 3), np.float32)
    for number in range(3):
        save_image(tmp_path / f"clip/frame{number}.png", wide[:, 4 * number : 4 * number + 40])
    config = painter.config_of(
        *(tmp_path / "clip", style), output=str(tmp_path / "out" / name), passes=passes_
    )
    count = kill_everywhere(killer, lambda: paint_film(config), tmp_path / "out")
    assert count > 40
    assert sorted(p.name for p in (tmp_path / "out/film").iterdir()) == [
        *(MARK_NAME, "config.json", "frames", "metrics.jsonl")
    ]
