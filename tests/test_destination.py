"""Where results go, and that what can be refused is, before anything is made."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_image

from neuart_jax import Config, transfer
from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import OutputConfig
from neuart_jax.io.images import load_image, load_metadata, save_image
from neuart_jax.models.params import settle
from neuart_jax.runs.destination import check_room_in_file, find_batch_folder, find_destination
from neuart_jax.runs.own_folder import MARK_NAME

TINY = {
    "weights": "random",
    "optimizer": "adam",
    "content_layers": "relu1_1",
    "style_layers": "relu1_1",
    "size": 24,
    "scales": 1,
    "steps": 1,
    "content": "photo.png",
    "style": "painting.png",
}


@pytest.fixture(autouse=True)
def in_a_folder_with_images(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save_image("photo.png", smooth_image(24, 20, seed=1))
    save_image("painting.png", smooth_image(20, 24, seed=2))


def entries():
    return sorted(str(path) for path in Path().rglob("*"))


def test_a_picture_as_output_has_its_folder_beside_it(run_main, capsys):
    assert run_main(**TINY, output="new/painted.png") == 0
    assert capsys.readouterr().out == "new/painted.png\n"
    assert {path.name for path in Path("new").iterdir()} == {"painted.png", "painted"}
    names = {path.name for path in Path("new/painted").iterdir()}
    assert {"config.json", "metrics.jsonl", "losses.png"} <= names
    assert Path("new/painted.png").read_bytes() == Path("new/painted/painted.png").read_bytes()
    assert "neuart_jax" in load_metadata("new/painted.png")

    def times():
        # But for the mark, which says who has looked.
        paths = [path for path in Path("new").rglob("*") if path.name != MARK_NAME]
        return {path: path.stat().st_mtime_ns for path in paths}

    before = times()
    assert run_main(**TINY, output="new/painted.png") == 2
    assert "new/painted already holds a result" in capsys.readouterr().err
    assert times() == before
    assert run_main(**TINY, init="noise", output="new/painted.png", overwrite=True) == 0
    assert Path("new/painted.png").read_bytes() == Path("new/painted/painted.png").read_bytes()


def test_what_output_names():
    def found(output, **settings):
        return find_destination(OutputConfig(output=output, **settings))

    assert found("") == ("", None)
    assert found("out") == ("out", None)
    assert found("v1.2") == ("v1.2", None)
    assert found("a/b.TIF") == ("a/b", Path("a/b.TIF"))
    assert found("a.png/") == ("a.png", None)
    Path("old.png").mkdir()
    assert found("old.png") == ("old.png", None)
    for name in ("a.jgp", "a.bmp", "a.pgn", "a.gif"):
        with pytest.raises(InputError, match=f"--output={name} ends in .*or add a slash"):
            found(name)
    with pytest.raises(InputError, match="leave one of the two out"):
        found("a.png", image_name="b.png")
    assert find_batch_folder(OutputConfig(output="~/all")) == Path.home() / "all"
    with pytest.raises(InputError, match="a.png is an image; expected a folder for all pairs"):
        find_batch_folder(OutputConfig(output="a.png"))


def test_the_home_folder_is_meant_by_a_tilde(run_main, capsys):
    assert run_main(**TINY, output="~/pictures/out") == 0
    assert capsys.readouterr().out == f"{Path.home()}/pictures/out/result.png\n"
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": "imagenet"}, "found no ImageNet weights"),
        ({"weights": "missing.h5", "model": "vgg19"}, "missing.h5 is not a file"),
        ({"window": 2}, "window"),
        ({"window": 20, "style_loss": "histogram"}, "sort"),
        ({"init": "notes.txt"}, "notes.txt is not in a known image format"),
        ({"init": "photos"}, "photos can't be read"),
        ({"image_name": "out.jgp"}, "'.jgp'"),
        ({"image_name": "losses.png"}, "plot of the losses"),
        ({"image_name": "sub/out.png"}, "not a plain file name"),
        ({"output": "painted.jgp"}, "ends in .jgp"),
    ],
)
@pytest.mark.parametrize("output", ["", "deep/er/out"])
def test_a_refused_run_leaves_nothing(run_main, capsys, settings, said, output):
    Path("notes.txt").write_text("Dear diary")
    Path("photos").mkdir()
    before = entries()
    flags = TINY | {"output": output, "offline": True} | settings
    assert run_main(**flags) == 2
    assert said in capsys.readouterr().err
    assert entries() == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": 2}, "window"),
        ({"window": 20, "style_loss": "histogram"}, "sort"),
        ({"init": "notes.txt"}, "notes.txt is not in a known image format"),
        ({"image_name": "out.jgp"}, "'.jgp'"),
    ],
)
def test_it_is_refused_before_weights_are_looked_for(monkeypatch, settings, said):
    Path("notes.txt").write_text("Dear diary")

    def fail(*args, **options):
        raise AssertionError("weights were looked for")

    monkeypatch.setattr("neuart_jax.runs.driver.settle_network", fail)
    with pytest.raises(InputError, match=said):
        transfer(Config().replace(**TINY | settings))


ROWS = "content,style,image_name,init\nphoto.png,painting.png,,\n"
BAD_ROWS = {
    "photo.png,painting.png,out.jgp,": ".jgp",
    "photo.png,painting.png,losses.png,": "plot of the losses",
    "photo.png,painting.png,sub/out.png,": "plain file name",
    "photo.png,painting.png,,notes.txt": "notes.txt is not in a known image format",
    "photo.png,painting.png,,photos": "photos can't be read",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_every_row_of_a_table_is_checked_first(run_main, capsys, monkeypatch, row):
    Path("notes.txt").write_text("Dear diary")
    Path("photos").mkdir()
    Path("rows.csv").write_text(ROWS + row + "\n")

    def fail(*args, **options):
        raise AssertionError("weights were fetched")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(settle, "fetch_quickly", fail)
    flags = {k: v for k, v in TINY.items() if k not in ("content", "style", "weights")}
    assert run_main(manifest="rows.csv", output="all", **flags) == 2
    said = capsys.readouterr().err
    assert "Row 2: " in said and BAD_ROWS[row] in said
    assert "1 of 2 rows" in said


def test_what_a_file_cannot_hold_is_told_at_once():
    check_room_in_file("a.webp", height=16383, width=16383)
    check_room_in_file("a.jpg", height=65500, width=1)
    check_room_in_file("a.png", height=1, width=100_000)
    with pytest.raises(InputError, match="a.webp would have 16384x2 pixels; .* 16383"):
        check_room_in_file("a.webp", height=2, width=16384)
    with pytest.raises(InputError, match="expected at most 65500 per side.*use a .png or .tif"):
        check_room_in_file("a.JPEG", height=65501, width=2)


def test_a_run_with_too_long_a_side_is_refused_before_it_is_painted():
    save_image("long.png", np.zeros((2, 16384, 3), np.float32))
    config = Config().replace(**TINY | {"content": "long.png", "size": 0}, image_name="a.webp")
    with pytest.raises(InputError, match="16384x2 pixels"):
        transfer(config)


def test_a_row_names_a_folder_and_no_picture(run_main, capsys):
    Path("rows.csv").write_text("content,style,output\nphoto.png,painting.png,a.png\n")
    assert run_main(manifest="rows.csv", output="all", weights="random") == 2
    assert "output='a.png' has the extension of an image" in capsys.readouterr().err


def test_frames_keep_the_contents_transparency():
    alpha = np.ones((24, 20), np.float32)
    alpha[:, :9] = 0
    save_image("cutout.png", smooth_image(24, 20, seed=1), alpha=alpha)
    transfer(Config().replace(**TINY | {"content": "cutout.png"}, output="out", save_every=1))
    for name in ("frames/000000.png", "frames/000001.png", "result.png"):
        np.testing.assert_array_equal(load_image(Path("out", name)).alpha, alpha)


def test_paths_can_be_left_out_of_the_record(run_main, tmp_path):
    save_image("start.png", smooth_image(24, 20, seed=5))
    flags = TINY | {"init": "start.png", "output": "out", "steps": 2}
    assert run_main(**flags, record_paths=False) == 0
    in_image = load_metadata("out/result.png")["neuart_jax"]
    for text in (Path("out/config.json").read_text(), in_image):
        assert str(tmp_path) not in text
        assert json.loads(text)["config"]["images"]["style"] == ["painting.png"]
        assert set(json.loads(text)["inputs"]) == {"content", "style", "init"}


def test_a_changed_start_is_another_run(caplog):
    """Its hash is in the record, so that nothing goes on from what is gone."""
    save_image("start.png", smooth_image(24, 20, seed=5))
    config = Config().replace(**TINY | {"steps": 4}, init="start.png", output="out")
    config = config.replace(checkpoint_seconds=1e-6, report_every=1)
    transfer(config, callback=lambda progress: progress.num_steps == 2)
    save_image("start.png", smooth_image(24, 20, seed=6))
    with pytest.raises(InputError, match="another init image"):
        transfer(config)


def test_a_picture_that_is_there_stays(run_main, capsys):
    Path("painted.png").write_bytes(b"mine")
    assert run_main(**TINY, output="painted.png") == 2
    assert "painted.png exists already" in capsys.readouterr().err
    assert Path("painted.png").read_bytes() == b"mine"
    assert not Path("painted").exists()
