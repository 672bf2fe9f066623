"""Folders with one writer, in which nobody else's files are touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import painter
import pytest

from neuart_jax import InputError, save_image, transfer
from neuart_jax.runs import checkpoints
from neuart_jax.runs.batch import run_batch
from neuart_jax.runs.checkpoints import find_checkpoints, remove_checkpoints
from neuart_jax.runs.manifest import Job, Manifest, make_jobs, read_manifest
from neuart_jax.runs.own_folder import MARK_NAME, OwnFolder, check_foreign, is_in_use

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config(tmp_path, monkeypatch):
    painter.install(monkeypatch)
    monkeypatch.setattr(checkpoints, "_SHARE_OF_TIME", 1e12)
    (content,), style = painter.pictures(tmp_path / "pictures")
    return painter.config_of(content, style, output=str(tmp_path / "out"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


FOREIGN = [
    "checkpoints/my_model.pt",
    "metrics.jsonl",
    "losses.png",
    "config.json",
    "result.png",
    "frames/000002.png",
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_under_our_names_are_refused_and_stay(config, tmp_path, name, overwrite):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"somebody's")
    with pytest.raises(
        InputError, match=f"out has {name.split('/m')[0]}, not written by this program"
    ):
        transfer(config.replace(overwrite=overwrite, save_every=2))
    assert contents(tmp_path / "out") == {name: b"somebody's"}


def test_files_of_others_beside_ours_stay_whatever_is_replaced(config, tmp_path):
    foreign = ["notes.txt", "frames/holiday.png", "frames/7.png", ".1234.tmp"]
    for name in foreign:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"somebody's")
    transfer(config.replace(save_every=2))
    (tmp_path / "out/checkpoints").mkdir()
    foreign += ["checkpoints/my_model.pt", "checkpoints/²/x"]
    (tmp_path / "out/checkpoints/²").mkdir()
    for name in foreign[-2:]:
        (tmp_path / "out" / name).write_bytes(b"somebody's")
    transfer(config.replace(save_every=3, overwrite=True))
    found = contents(tmp_path / "out")
    assert {n for n, content in found.items() if content == b"somebody's"} == set(foreign)
    ours = {n for n in found if n.startswith("frames/00")}
    assert ours == {"frames/000000.png", "frames/000006.png"}  # The first run's are gone.


def test_checkpoints_are_removed_by_name(tmp_path):
    for name in ("000001.checkpoint", "٣٣٣٣٣٣.checkpoint", "000002.checkpoint.bak"):
        (tmp_path / name).touch()
    assert find_checkpoints(tmp_path) == [1]
    remove_checkpoints(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["000002.checkpoint.bak", "٣٣٣٣٣٣.checkpoint"]


@pytest.mark.parametrize("name", ["checkpoints", "Summary.CSV", "gallery.html", "bad_rows.txt"])
def test_no_row_takes_a_name_of_the_batchs_own(config, tmp_path, caplog, name):
    table = tmp_path / "table.csv"
    photo, painting = "pictures/photo0.png", "pictures/painting.png"
    table.write_text(
        f"content,style,output\n{photo},{painting},{name}\nnowhere.png,{painting},other\n"
    )
    base = config.replace(content="", style=(), output="")
    with pytest.raises(InputError, match="2 of 2 rows"):
        run_batch(read_manifest(base, str(table)), tmp_path / "batch")
    assert f"Row 1: output={name!r} is the name of a file of the batch itself" in caplog.text
    assert "Row 2: " in caplog.text
    assert not (tmp_path / "batch").exists()  # Nothing was done, and nothing stays behind.


def test_a_row_whose_folder_is_somebodys_is_told_before_any_is_painted(config, tmp_path, caplog):
    jobs = [Job("one", config, 1), Job("two", config, 2)]
    (tmp_path / "batch/two").mkdir(parents=True)
    (tmp_path / "batch/two/result.png").write_bytes(b"somebody's")
    with pytest.raises(InputError, match="1 of 2 rows"):
        run_batch(Manifest("the rows", jobs, []), tmp_path / "batch")
    assert "Row 2: " in caplog.text and "two has result.png, not written by this" in caplog.text
    assert list(contents(tmp_path / "batch")) == ["two/result.png"]


def test_a_batch_leaves_files_of_others_under_its_names(config, tmp_path):
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch/summary.csv").write_text("mine")
    with pytest.raises(InputError, match="batch has summary.csv, not written"):
        run_batch(Manifest("the rows", [Job("one", config)], []), tmp_path / "batch")
    assert contents(tmp_path / "batch") == {"summary.csv": b"mine"}


def test_a_second_run_is_refused_and_told_of_the_first(config, tmp_path):
    def second(progress):
        with pytest.raises(InputError, match=rf"by process {os.getpid()} on .*; expected one run"):
            transfer(config.replace(overwrite=True, seed=3))
        assert is_in_use(tmp_path / "out")

    transfer(config, callback=second)
    assert not is_in_use(tmp_path / "out")
    assert transfer(config.replace(overwrite=True)).image_path.exists()


HOLD = """
import sys, pathlib
from neuart_jax.runs.own_folder import OwnFolder
folder = OwnFolder(pathlib.Path(sys.argv[1]))
folder.claim("a")
(folder.path / "a").touch()
print("here", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_another_process_ends_with_it(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "here\n"
        with pytest.raises(InputError, match=f"is being written by process {process.pid} on "):
            OwnFolder(tmp_path / "out")
        process.kill()
    with OwnFolder(tmp_path / "out") as folder:
        assert folder.owns("a")


def test_a_mark_cut_anywhere_is_read_as_far_as_it_goes(tmp_path):
    names = [f"frames/{number:06d}.png" for number in range(3)]
    with OwnFolder(tmp_path / "out") as folder:
        for name in names:
            folder.claim(name)
        (tmp_path / "out/frames").mkdir()
        (tmp_path / "out" / names[0]).touch()
    whole = (tmp_path / "out" / MARK_NAME).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "out" / MARK_NAME).write_bytes(whole[:length])
        with OwnFolder(tmp_path / "out") as folder:
            known = [name for name in names if folder.owns(name)]
            assert known == names[: len(known)]
            folder.claim("later")
            (tmp_path / "out/later").touch()
        with OwnFolder(tmp_path / "out") as folder:
            assert folder.owns("later") and [n for n in names if folder.owns(n)] == known
        (tmp_path / "out/later").unlink(missing_ok=True)


def test_a_damaged_place_of_a_mark_costs_nobody_a_file(tmp_path):
    names = ["result.png", "checkpoints", "frames/000000.png"]
    mark = tmp_path / "out" / MARK_NAME
    with OwnFolder(tmp_path / "out") as folder:
        folder.claim(*names[:2])
        folder.claim(names[2])
        (tmp_path / "out/result.png").touch()
    whole = mark.read_bytes()
    for place in range(len(whole)):
        for damage in (b"\0" * 8, b"\xff", bytes([whole[place] ^ 1])):
            mark.write_bytes((whole[:place] + damage + whole[place + len(damage) :])[: len(whole)])
            check_foreign(tmp_path / "out", ["result.png"])
            with OwnFolder(tmp_path / "out") as folder:
                assert all(map(folder.owns, names)), (place, damage)


def test_lines_of_another_kind_in_a_mark_are_passed_over(tmp_path):
    with OwnFolder(tmp_path / "out") as folder:
        folder.claim("a")
        (tmp_path / "out/a").touch()
    with open(tmp_path / "out" / MARK_NAME, "ab") as file:
        file.write(b'{"name": ["b"]}\n{"name": {}}\n[1]\n' + b"[" * 100_000 + b"\n")
    with OwnFolder(tmp_path / "out") as folder:
        assert folder.owns("a")


def test_a_name_is_on_the_disk_before_its_file(tmp_path, monkeypatch):
    """After a power cut, files that are there, but not in the mark, would be nobody's."""
    synced = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.fstat(file).st_ino))
    with OwnFolder(tmp_path / "out") as folder:
        folder.claim("a")
        mark = (tmp_path / "out" / MARK_NAME).stat()
        assert synced == [mark.st_ino] and mark.st_size > 0
        folder.claim("a")
        assert len(synced) == 1  # Once for a name.


def test_a_system_without_locks_keeps_nobody_out(config, tmp_path, monkeypatch):
    monkeypatch.setattr("neuart_jax.runs.own_folder.fcntl", None)
    with OwnFolder(tmp_path / "out"), OwnFolder(tmp_path / "out"):
        assert not is_in_use(tmp_path / "out")
    assert transfer(config).image_path.exists()


WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None
import neuart_jax.main
from neuart_jax.runs import own_folder
print(own_folder.fcntl)
"""


def test_the_command_line_starts_where_there_are_no_locks():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FCNTL],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"


def test_a_mark_of_somebody_elses_is_refused(tmp_path):
    (tmp_path / MARK_NAME).write_text("my notes on this program")
    with pytest.raises(InputError, match="was not written by this program"):
        OwnFolder(tmp_path)
    (tmp_path / MARK_NAME).unlink()
    (tmp_path / "target").write_text("")
    (tmp_path / MARK_NAME).symlink_to(tmp_path / "target")
    with pytest.raises(InputError, match="can't be written"):
        OwnFolder(tmp_path)
    assert (tmp_path / "target").read_text() == ""


def test_a_folder_in_which_nothing_was_written_is_as_before(tmp_path):
    with OwnFolder(tmp_path / "new") as folder:
        folder.claim("a")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with OwnFolder(tmp_path / "old"):
        pass
    assert os.listdir(tmp_path / "old") == []


def test_half_written_files_of_a_killed_run_are_removed(config, tmp_path):
    (tmp_path / "out/frames").mkdir(parents=True)
    for name in ("", "frames/"):
        (tmp_path / f"out/{name}.neuart_jax-0123456789abcdef.tmp").touch()
        (tmp_path / f"out/{name}.0123456789abcdef.tmp").touch()
        (tmp_path / f"out/{name}.of_mine.tmp").touch()
    transfer(config)
    hidden = {n for n in contents(tmp_path / "out") if n.endswith(".tmp")}
    assert hidden == {".of_mine.tmp", "frames/.of_mine.tmp"}


def test_who_takes_a_folder_that_was_removed_meanwhile_is_not_told_lies(tmp_path):
    with OwnFolder(tmp_path / "out") as folder:
        folder.claim("a", "b")
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/b").write_text("somebody's")
        folder.make_again()
        assert folder.owns("a") and not folder.owns("b")
        with pytest.raises(InputError, match="out has b, not written"):
            check_foreign(tmp_path / "out", ["a", "b"])


@pytest.mark.parametrize("name", ["result.png", "result.jpg", "result.webp", "result.tif"])
def test_a_picture_cut_short_is_painted_again(config, tmp_path, name):
    jobs = make_jobs(
        config.replace(output="", image_name=name),
        str(tmp_path / "pictures/photo0.png"),
        [str(tmp_path / "pictures/painting.png")],
        pair="zip",
    )
    manifest, folder = Manifest("the rows", jobs, []), tmp_path / "batch"
    run_batch(manifest, folder)
    path = folder / jobs[0].name / name
    whole = path.read_bytes()
    for length in (0, 100, len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert run_batch(manifest, folder).lines[0].status == "completed"
        assert path.read_bytes() == whole, length
    # Who works on a picture keeps it.
    save_image(path, np.zeros((12, 16, 3), np.float32))
    edited = path.read_bytes()
    run_batch(manifest, folder)
    assert path.read_bytes() == edited
