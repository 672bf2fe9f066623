"""A run outlives its surroundings: full disks, folders that go, streams that nobody reads."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import painter
import pytest
from numpy.testing import assert_array_equal

from neuart_jax import InputError, transfer
from neuart_jax.io.images import load_image
from neuart_jax.runs import checkpoints
from neuart_jax.runs.batch import run_batch
from neuart_jax.runs.checkpoints import find_checkpoints
from neuart_jax.runs.manifest import Job, Manifest
from neuart_jax.runs.record import read_record

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config(tmp_path, monkeypatch):
    painter.install(monkeypatch)
    monkeypatch.setattr(checkpoints, "_SHARE_OF_TIME", 1e12)
    (content,), style = painter.pictures(tmp_path / "pictures")
    return painter.config_of(content, style, output=str(tmp_path / "out"), save_every=2)


@pytest.fixture
def whole(config, tmp_path):
    """What the run gives that nothing gets in the way of."""
    return transfer(config.replace(output=str(tmp_path / "whole"))).result.image


def limit(monkeypatch, folder, *, num_bytes=1 << 60, num_files=1 << 60):
    """Let a folder hold so much and no more, as a disk of that size."""

    def check(*_):
        paths = [path for path in folder.rglob("*") if path.is_file()]
        if len(paths) > num_files or sum(path.stat().st_size for path in paths) > num_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

    def allocate(file, start, size):
        os.truncate(file, size)
        check()

    monkeypatch.setattr("os.posix_fallocate", allocate)
    monkeypatch.setattr("os.fsync", check)


def causes(caplog):
    return [message.partition(" (")[0] for message in caplog.messages if "continues" in message]


def test_on_a_disk_without_room_for_checkpoints_all_the_rest_is_written(
    config, whole, tmp_path, monkeypatch, caplog
):
    """The rooms for the result are kept, so that what comes before it gives way."""
    limit(monkeypatch, tmp_path / "out", num_bytes=103_000)
    monkeypatch.setattr(checkpoints, "seal", lambda facts, blobs: [memoryview(bytes(100_000))])
    transfer(config)
    assert_array_equal(
        load_image(tmp_path / "out/result.png").image,
        load_image(tmp_path / "whole/result.png").image,
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"result.png", "config.json", "metrics.jsonl", "losses.png", "frames"} <= names
    (message,) = [text for text in caplog.messages if "continues" in text]
    assert "No checkpoint could be written" in message and "No space left on device" in message


@pytest.mark.parametrize("size", [{"num_bytes": 20_000}, {"num_files": 2}])
def test_on_a_disk_with_room_for_the_picture_only_that_is_written(
    config, whole, tmp_path, monkeypatch, caplog, size
):
    config = config.replace(checkpoint_seconds=0)
    limit(monkeypatch, tmp_path / "out", **size)
    transfer(config)
    assert_array_equal(
        load_image(tmp_path / "out/result.png").image,
        load_image(tmp_path / "whole/result.png").image,
    )
    said = [
        message for message in caplog.messages if message.startswith("The run continues without")
    ]
    assert said and len(said) == len(set(said))  # Each once.
    assert all("No space left on device" in message for message in said)
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_where_the_picture_has_no_room_nothing_is_painted(config, tmp_path, monkeypatch):
    limit(monkeypatch, tmp_path / "out", num_bytes=10_000)
    painted = []
    with pytest.raises(InputError, match="out has no room for the image .No space left"):
        transfer(config, callback=painted.append)
    assert not painted and not (tmp_path / "out").exists()


def test_a_full_disk_keeps_the_last_checkpoint_only(config, tmp_path, monkeypatch):
    """Three are there for a moment where there is room for them."""
    sizes = []

    def note(progress):
        folder = tmp_path / "out/checkpoints"
        sizes.append(find_checkpoints(folder))
        if progress.num_steps == 4:
            used = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
            one = (folder / "000001.checkpoint").stat().st_size
            limit(monkeypatch, tmp_path / "out", num_bytes=used + one + one // 2)
        return progress.num_steps == 6

    transfer(config.replace(steps=6, save_every=0), callback=note)
    assert sizes == [[], [], [1], [1, 2]]


def test_a_folder_that_is_removed_is_made_again_for_the_result(config, whole, tmp_path, caplog):
    def remove(progress):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    transfer(config, callback=remove)
    assert_array_equal(
        load_image(tmp_path / "out/result.png").image,
        load_image(tmp_path / "whole/result.png").image,
    )
    assert len([text for text in caplog.messages if "No checkpoint could be written" in text]) == 1
    assert len([text for text in caplog.messages if "without the frames" in text]) == 1
    with pytest.raises(InputError, match="already holds a result"):
        transfer(config)


def test_a_picture_that_its_folder_doesnt_take_is_kept_elsewhere(
    config, whole, tmp_path, monkeypatch
):
    def remove(progress):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").touch()

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match="out can't be created.*is kept as .*: move it from there"):
        transfer(config, callback=remove)
    [kept] = tmp_path.glob("neuart_jax-*/result.png")
    assert_array_equal(load_image(kept).image, load_image(tmp_path / "whole/result.png").image)
    assert read_record(kept).outcome["status"] == "completed"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    (tmp_path / "out").unlink()
    with pytest.raises(InputError, match="out can't be created.*; give another --output"):
        transfer(config, callback=remove)


def test_a_batch_without_room_for_its_reports_has_its_pictures(
    config, tmp_path, monkeypatch, caplog
):
    def full(*_):
        raise InputError("summary.csv can't be written", expected="room", remedy="free some")

    for name in ("write_summary", "write_gallery"):
        monkeypatch.setattr(f"neuart_jax.runs.batch.progress.{name}", full)
    result = run_batch(Manifest("the rows", [Job("one", config)], []), tmp_path / "batch")
    assert result.failed == 0 and (tmp_path / "batch/one/result.png").exists()
    assert caplog.text.count("The batch continues without a report: summary.csv can't be") == 1


def test_who_quits_at_once_while_a_checkpoint_is_written_leaves_the_one_before(
    config, tmp_path, monkeypatch
):
    seal, calls = checkpoints.seal, []

    def quit_at_the_second(facts, blobs):
        calls.append(1)
        for part in seal(facts, blobs):
            yield part
            if len(calls) == 2:
                raise SystemExit(130)

    monkeypatch.setattr(checkpoints, "seal", quit_at_the_second)
    with pytest.raises(SystemExit):
        transfer(config)
    assert find_checkpoints(tmp_path / "out/checkpoints") == [1]
    assert not list((tmp_path / "out").rglob("*.tmp"))
    steps = []
    transfer(config, callback=lambda progress: steps.append(progress.num_steps))
    assert steps == [4, 6]


RUN = """
import os, sys
sys.path.insert(0, sys.argv.pop(1))
import painter, pytest
from neuart_jax import main
painter.install(pytest.MonkeyPatch())
main.main()
"""


def shell(redirections, *flags, cwd):
    """Run the command line as a shell does, with its streams led elsewhere."""
    command = [sys.executable, "-W", "error", "-c", RUN, str(ROOT / "tests"), *flags]
    line = " ".join(f"'{word}'" for word in command) + " " + redirections
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "redirections",
    ["2>/dev/full", "2>&-", ">&- 2>&-", "2>&1 >/dev/null | head -1", ">/dev/full", "| true"],
)
def test_no_stream_ends_a_run(config, tmp_path, redirections):
    plain = {
        "content": config.images.content,
        "style": config.images.style[0],
        "output": "out",
        "steps": painter.STEPS,
        "report_every": painter.CHUNK,
        "content_layers": "relu1_1",
        "style_layers": "relu1_1",
        "weights": "random",
        "print_losses": True,
    }
    flags = [f"--{name}={value}" for name, value in plain.items()]
    flags.append("--nocompilation_cache")
    done = shell(redirections, *flags, cwd=tmp_path)
    assert (tmp_path / "out/result.png").exists(), done.stderr
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    if redirections == ">/dev/full":
        assert done.stderr.endswith(
            "out/result.png is written; its name can't be printed to stdout (No space left on "
            "device).\n"
        )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are always Unicode")
def test_a_name_that_is_no_unicode_is_a_name(config, tmp_path, monkeypatch, run_words):
    """As older cameras and archives left them: é as a single byte."""
    monkeypatch.chdir(tmp_path)
    photo = os.fsdecode(b"caf\xe9.png")
    Path("photos").mkdir()
    shutil.copy(config.images.content, photo)
    shutil.copy(config.images.content, Path("photos", photo))
    style = config.images.style[0]
    flags = ["--weights=random", "--scales=1", "--steps=1", "--optimizer=adam"]
    flags += ["--style_layers=relu1_1", "--content_layers=relu1_1"]
    assert run_words(photo, style, *flags, "--save_every=1") == 0
    (folder,) = Path("output").iterdir()
    assert os.fsencode(folder.name).startswith(b"caf\xe9_")
    again = ["--output=again", f"--config={folder / 'config.json'}"]
    assert run_words(*again) == 0
    assert_array_equal(*(load_image(f / "result.png").image for f in (folder, Path("again"))))
    many = ["--content=photos", f"--style={style}", "--pair=cross", "--output=all"]
    assert run_words(*many, *flags) == 0
    assert len(list(Path("all").glob("caf*/result.png"))) == 1
    assert Path("all/gallery.html").exists()


def test_help_that_cannot_be_written_is_one_sentence(tmp_path):
    done = shell(">/dev/full", "--help", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "The help can't be written to stdout (No space left on device).\n"
