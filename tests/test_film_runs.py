"""Clips painted from files to films, with a tiny network: what comes out, and what a cut costs."""

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import textwrap
import threading
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from conftest import smooth_image
from films import moving_picture, read_packets, write_film
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from neuart_jax import Config, InputError, load_image, save_image
from neuart_jax.inputs.color import match_covariance, match_histogram, put_back_colors
from neuart_jax.io.clips.opening import open_clip
from neuart_jax.runs.prepare import prepare
from neuart_jax.runs.record import make_film_metadata, read_record
from neuart_jax.runs.video import is_clip_run, paint_film, passes, run
from neuart_jax.runs.video.frames import PaintedFrames
from neuart_jax.runs.video.passes import Painter
from neuart_jax.runs.video.prepare import prepare_clip
from neuart_jax.runs.video.shots import find_shots
from neuart_jax.runs.video.units import plan_units

ROOT = Path(__file__).resolve().parents[1]

TINY = {
    "weights": "random",
    "optimizer": "adam",
    "model": "vgg16",
    "content_layers": "relu1_1",
    "style_layers": "relu1_1",
    "content": "clip.mkv",
    "style": "painting.png",
    "scales": 1,
    "steps": 8,
    "frame_steps": 4,
    "tv_weight": 1.0,
}


@pytest.fixture(autouse=True)
def in_a_folder_with_a_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_film("clip.mkv", moving_picture(), codec="ffv1", pixel_format="bgr0")
    save_image("painting.png", smooth_image(40, 48, seed=2))


def config_of(**settings):
    return Config().replace(**{**TINY, **settings})


def lines_of(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def frames_of(folder):
    return np.stack([load_image(path).image for path in sorted(Path(folder, "frames").iterdir())])


def two_shots():
    other = np.rint(255 * smooth_image(48, 64, seed=77)).astype(np.uint8)
    return [*moving_picture(3), *[np.roll(other, i, axis=1) for i in range(3)]]


def test_a_clip_becomes_a_film_with_its_sound_and_times(run_main, capsys):
    times = [0, 40, 100, 140, 200, 240]
    write_film("clip.mp4", moving_picture(), times=times, sound="aac")
    assert run_main(**TINY | {"content": "clip.mp4", "output": "film.mp4"}) == 0
    said = capsys.readouterr()
    assert said.out == "film.mp4\n"
    assert "clip.mp4: 6 frames of 64x48, 0." in said.err
    assert "Computing on" in said.err and "warping error" in said.err
    clip = open_clip("film.mp4")
    assert clip.times == tuple(Fraction(time, 1000) for time in times)
    assert (clip.height, clip.width) == (48, 64)
    assert [p for _, p in read_packets("film.mp4")] == [p for _, p in read_packets("clip.mp4")]
    shown = np.stack([frame.image for frame in clip.frames()])
    assert np.abs(shown - frames_of("film")).mean() < 0.02
    # What was painted isn't the clip.
    source = np.stack([frame.image for frame in open_clip("clip.mp4").frames()])
    assert np.abs(frames_of("film") - source).mean() > 0.03
    assert sorted(path.name for path in Path("film").iterdir()) == [
        *(".neuart_jax", "config.json", "frames", "metrics.jsonl"),
    ]
    lines = lines_of("film")
    assert [line["frame"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["steps"] for line in lines] == [8, 4, 4, 4, 4, 4]
    assert {line["shot"] for line in lines} == {1}
    assert lines[0]["e_warp"] is None and lines[0]["temporal"] == 0
    assert all(line["e_warp"] > 0 and line["temporal"] > 0 for line in lines[1:])
    assert all(line["reliable"] > 0.5 and line["seconds"] > 0 for line in lines[1:])
    record = json.loads(Path("film/config.json").read_text())
    assert record["result"]["status"] == "completed" and record["result"]["frames"] == 6
    assert record["film"]["codec"] == "h264" and record["film"]["has_sound"]
    assert record["versions"]["av"] != "not installed"


def test_the_record_makes_the_same_film_again(run_main):
    paint_film(config_of(output="film.mkv"))
    assert run_main(config="film/config.json", output="again.mkv") == 0
    assert Path("again.mkv").read_bytes() == Path("film.mkv").read_bytes()
    assert read_record("film/config.json").config.images.content == str(Path("clip.mkv").resolve())


def test_a_film_has_its_record_in_its_metadata(run_main, monkeypatch):
    config = config_of(output="film.mp4")
    paint_film(config)
    with monkeypatch.context() as patch:
        patch.setattr(Painter, "_optimize", None)  # The frames are there; they are only encoded.
        for extension in ("mov", "mkv", "gif", "webp", "apng"):
            paint_film(config.replace(output=f"film.{extension}"))
        # Settings of the command aren't in it.
        first = Path("film.mp4").read_bytes()
        Path("film.mp4").unlink()
        paint_film(config.replace(checkpoint_seconds=5.0, offline=True))
        assert Path("film.mp4").read_bytes() == first
    whole = read_record("film/config.json")
    for extension in ("mp4", "mov", "mkv", "gif", "webp", "apng"):
        record = read_record(f"film.{extension}")
        assert record.config.images == whole.config.images
        assert record.config.losses == whole.config.losses
        assert (record.inputs, record.weights) == (whole.inputs, whole.weights)
        assert record.outcome["frames"] == 6 and "seconds" not in record.outcome
        assert record.config.output.output == ""
    # As other programs find it.
    with av.open("film.mkv") as film:
        assert read_record("film.mkv").inputs["content"] in film.metadata["COMMENT"]
    with Image.open("film.gif") as film:
        assert b"neuart_jax" in film.info["comment"]
    assert run_main(config="film.mp4", output="again.mkv") == 0
    assert_array_equal(frames_of("again"), frames_of("film"))
    assert Path("again.mkv").read_bytes() == Path("film.mkv").read_bytes()


def test_names_of_folders_are_left_out_of_metadata_that_is_shared():
    paint_film(config_of(output="film.mkv", record_paths=False))
    data = Path("film.mkv").read_bytes()
    assert b"painting.png" in data and str(Path.cwd()).encode() not in data


def test_a_film_of_others_has_no_record():
    with pytest.raises(InputError, match=r"clip.mkv has no record of a run"):
        read_record("clip.mkv")


def test_a_record_too_long_for_a_film_is_left_out(caplog):
    assert make_film_metadata("{}", name="film.mov") == {"neuart_jax": "{}"}
    assert make_film_metadata("x" * 60_000, name="film.mov") == {}
    assert "film.mov has no record in its metadata" in caplog.text


def test_a_cut_starts_a_new_shot():
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    paint_film(config_of(output="film.mkv"))
    lines = lines_of("film")
    assert [line["shot"] for line in lines] == [1, 1, 1, 4, 4, 4]
    assert [line["steps"] for line in lines] == [8, 4, 4, 8, 4, 4]
    assert lines[3]["e_warp"] is None
    assert json.loads(Path("film/config.json").read_text())["result"]["cuts"] == [4]


@pytest.mark.parametrize("has_masks", [False, True])
def test_one_program_serves_the_clip(monkeypatch, has_masks):
    """Whatever a later frame needs was compiled for those before it, at its size."""
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    masks = {}
    if has_masks:
        save_flat_styles()
        write_film("masks.mkv", moving_masks(*WHITE_MOVES), codec="ffv1", pixel_format="bgr0")
        masks = {"content_mask": "masks.mkv", "style": ["dark.png", "light.png"]}
    compiled, at_frame = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    save = PaintedFrames.save

    def count(self, *args, **options):
        at_frame.append(len(compiled))
        return save(self, *args, **options)

    monkeypatch.setattr(PaintedFrames, "save", count)
    # Another size than that of other tests, so that their programs don't serve.
    config = config_of(
        output="film.mkv", size=60, scales=2, coarse_steps=3, references="1,2", **masks
    )
    monkeypatch.setattr("neuart_jax.engine.scales.SMALLEST_SIDE", 16)
    paint_film(config)
    assert at_frame[0] > 0
    assert len(at_frame) == 6
    # E_warp comes with the second frame, and is a small one of its own.
    assert at_frame[1:] == [at_frame[1]] * 5
    assert at_frame[1] - at_frame[0] <= 1


def test_a_still_clip_stays_still():
    still = moving_picture(1)[0]
    write_film("clip.mkv", [still] * 5, codec="ffv1", pixel_format="bgr0")
    paint_film(config_of(output="film.mkv"))
    frames = frames_of("film")
    steps = np.abs(np.diff(frames, axis=0)).max(axis=(1, 2, 3))
    assert np.all(steps[1:] <= 1 / 255 + 1e-6)


def test_what_moves_takes_its_paint_along():
    paint_film(config_of(output="film.mkv", optimizer="lbfgs"))
    frames = frames_of("film")
    # It moves by three pixels to the left from frame to frame.
    for earlier, later in zip(frames, frames[1:], strict=False):
        known = later[4:-4, 4:-8]
        assert np.abs(known - earlier[4:-4, 7:-5]).mean() < 0.02
        assert np.abs(known - earlier[4:-4, 4:-8]).mean() > 0.05


class Cut(BaseException):
    """What a kill is to a process: no handler of errors sees it."""


def cut_at(monkeypatch, owner, name, count, *, after=False):
    """Let a function end the run when it is called for so many times."""
    plain, calls = getattr(owner, name), []

    def cut(*args, **options):
        calls.append(1)
        if len(calls) == count and not after:
            raise Cut
        found = plain(*args, **options)
        if len(calls) == count:
            raise Cut
        return found

    monkeypatch.setattr(owner, name, cut)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that nobody cut leaves: the film, and its frames' files."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
        save_image("painting.png", smooth_image(40, 48, seed=2))
        # Without paths, which are part of a film's metadata, other folders make the same film.
        paint_film(config_of(output="film.mkv", references="1,2", record_paths=False))
        lines = lines_of("film")
    return folder, lines


def same_as_whole(whole):
    folder, lines = whole
    assert Path("film.mkv").read_bytes() == (folder / "film.mkv").read_bytes()
    for path in (folder / "film/frames").iterdir():
        assert Path("film/frames", path.name).read_bytes() == path.read_bytes()
    timeless = [{n: v for n, v in line.items() if "seconds" not in n} for line in lines]
    found = [{n: v for n, v in line.items() if "seconds" not in n} for line in lines_of("film")]
    assert found == timeless


def go_on(caplog, **settings):
    """Paint once more; return how many frames were there already."""
    caplog.clear()
    with caplog.at_level("INFO", "neuart_jax"):
        paint_film(config_of(output="film.mkv", references="1,2", record_paths=False, **settings))
    said = [record.getMessage() for record in caplog.records]
    found = [re.fullmatch(r"Resuming after (\d+) of .*", text) for text in said]
    return next((int(match[1]) for match in found if match), 0)


@pytest.mark.parametrize(
    ("owner", "name", "count", "after", "found"),
    [
        ("neuart_jax.runs.video.passes", "stylize_bound", 3, False, 2),
        ("neuart_jax.runs.video.frames", "FrameFolder", 3, False, 2),
        ("neuart_jax.runs.video.frames", "seal", 3, False, 2),
        ("neuart_jax.runs.video.frames", "seal", 4, False, 3),
        ("neuart_jax.runs.video.frames", "seal", 5, True, 4),
        ("neuart_jax.runs.video.run", "writing_film", 1, False, 6),
    ],
)
def test_a_film_that_was_cut_goes_on_to_the_same_bytes(
    monkeypatch, caplog, whole, owner, name, count, after, found
):
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    with monkeypatch.context() as patch:
        cut_at(patch, __import__(owner, fromlist=["_"]), name, count, after=after)
        with pytest.raises(Cut):
            paint_film(config_of(output="film.mkv", references="1,2", record_paths=False))
    assert not Path("film.mkv").exists()
    assert go_on(caplog) == found
    same_as_whole(whole)
    assert list(Path("film/state").iterdir()) == [] if Path("film/state").exists() else True


@pytest.mark.parametrize(
    ("damaged", "found"),
    [
        (["state/000004.state"], 4),  # The last one is painted again.
        (["state/000004.state", "state/000003.state"], 3),  # The shot's first one asks for none.
        (["frames/frame_000002.png"], 0),
        (["metrics.jsonl"], 0),
    ],
)
def test_what_is_damaged_is_painted_again(monkeypatch, caplog, whole, damaged, found):
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    with monkeypatch.context() as patch:
        cut_at(patch, __import__("neuart_jax.runs.video.passes", fromlist=["_"]), "finish", 6)
        with pytest.raises(Cut):
            paint_film(config_of(output="film.mkv", references="1,2", record_paths=False))
    for name in damaged:
        path = Path("film", name)
        if path.suffix == ".png":
            path.unlink()
        else:
            path.write_bytes(
                path.read_bytes()[:-40] + b"x" * 39 if name != "metrics.jsonl" else b"{"
            )
    assert go_on(caplog) == found
    same_as_whole(whole)


def test_within_a_frame_it_goes_on_from_a_checkpoint(monkeypatch, caplog, whole):
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    counts = []

    def stop(progress):
        counts.append(progress.progress.num_steps)
        return progress.frame == 4 and progress.progress.num_steps >= 5

    film = paint_film(
        config_of(output="film.mkv", references="1,2", record_paths=False), observer=stop
    )
    assert film.stopped and film.num_painted == 3 and film.path == Path("film/frames")
    assert not Path("film.mkv").exists()
    assert list(Path("film/state/000003").glob("*.checkpoint"))
    with caplog.at_level("INFO", "neuart_jax"):
        assert go_on(caplog) == 3
    assert "Resuming after step 5" in caplog.text
    same_as_whole(whole)


def test_frames_stay_where_the_encoder_fails(monkeypatch, caplog):
    def fail(*_):
        raise InputError("film.mkv can't be written (no room)", expected="room", remedy="free some")

    config = config_of(output="film.mkv")
    with monkeypatch.context() as patch:
        patch.setattr(run, "writing_film", fail)
        with pytest.raises(InputError, match="all 6 frames are painted, in film/frames"):
            paint_film(config)
    assert len(list(Path("film/frames").iterdir())) == 6
    # The same command only encodes, also with another codec's film.
    monkeypatch.setattr(Painter, "_optimize", None)
    assert paint_film(config).path == Path("film.mkv")
    assert open_clip("film.mkv").num_frames == 6


def test_a_result_that_is_there_stays():
    config = config_of(output="film.mkv")
    first = paint_film(config)
    before = Path("film.mkv").read_bytes()
    assert first.num_painted == first.num_frames == 6
    with pytest.raises(InputError, match="film.mkv is there already"):
        paint_film(config)
    Path("film.mkv").unlink()
    with pytest.raises(InputError, match="already holds the result of another run .style_weight"):
        paint_film(config.replace(style_weight=3))
    # Frames that are there make the film again; its codec is none of their settings.
    assert paint_film(config.replace(sound=False)).path == Path("film.mkv")
    assert Path("film.mkv").read_bytes() == before
    assert paint_film(config.replace(style_weight=3, overwrite=True)).num_painted == 6
    assert Path("film.mkv").read_bytes() != before


def test_a_folder_of_numbered_frames_is_a_clip(run_main, capsys):
    frames = moving_picture(4)
    Path("shots").mkdir()
    for number, frame in zip((1, 2, 10, 11), frames, strict=True):
        save_image(f"shots/frame{number}.png", frame / np.float32(255))
    given = TINY | {"content": "shots", "frame_rate": 10, "output": "painted/"}
    assert run_main(**given) == 0
    said = capsys.readouterr()
    assert said.out == "painted/result.mp4\n"
    names = sorted(path.name for path in Path("painted/frames").iterdir())
    assert names == [f"frame_{number:06d}.png" for number in range(1, 5)]
    assert open_clip("painted/result.mp4").times == tuple(Fraction(n, 10) for n in range(4))
    assert np.abs(frames_of("painted")[2] - frames[2] / np.float32(255)).mean() < 0.2
    # Images that have nothing in common are no clip.
    save_image("shots/other.png", frames[0] / np.float32(255))
    assert run_main(**given | {"output": "again"}) == 2
    assert "shots is a folder" in capsys.readouterr().err


def test_an_animation_becomes_one_without_the_extra(monkeypatch):
    images = [Image.fromarray(frame) for frame in moving_picture(4)]
    images[0].save("clip.gif", save_all=True, append_images=images[1:], duration=80, loop=0)
    for name in ("av", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    film = paint_film(config_of(content="clip.gif", flow="tvl1", every=2))
    assert film.path == Path("output/clip_painting/result.gif")
    with Image.open(film.path) as painted:
        assert (painted.n_frames, painted.size) == (2, (64, 48))
        assert painted.info["duration"] == 160
    # Where the result is to be an image, it is that of the first frame, as it always was.
    assert not is_clip_run(config_of(content="clip.gif", output="one.png"))


def test_colors_of_the_clip_count_for_all_its_frames():
    """Frames that get darker have one palette; their own colors would make the style pump."""
    frames = [np.rint(f * np.float32(share)).astype(np.uint8) for f, share in dimming()]
    write_film("clip.mkv", frames, codec="ffv1", pixel_format="bgr0")
    styles = []
    for color in ("match", "histogram"):
        prepared = prepare_clip(config_of(color=color, output=f"{color}.mkv"))
        whole = np.concatenate(frames).astype(np.float32) / 255
        painting = load_image("painting.png").image
        match = {"match": match_covariance, "histogram": match_histogram}[color]
        assert_allclose(prepared.plan.pair.styles[0], match(painting, whole), atol=1e-6)
        styles.append(prepared.plan.pair.styles[0])
    assert not np.allclose(*styles, atol=0.01)


def dimming():
    return [(frame, 1 - 0.1 * number) for number, frame in enumerate(moving_picture())]


@pytest.mark.parametrize("color", ["luminance", "keep"])
def test_colors_that_are_put_back_are_each_frames_own(color):
    paint_film(config_of(color=color, output="film.mkv"))
    for painted, frame in zip(frames_of("film"), open_clip("clip.mkv").frames(), strict=True):
        expected = put_back_colors(painted, frame.image)
        assert_allclose(painted, expected, atol=1.5 / 255)


def test_what_is_not_painted_is_the_clip():
    mask = np.zeros((48, 64, 3), np.float32)
    mask[:, :32] = 1
    save_image("mask.png", mask)
    paint_film(config_of(paint_mask="mask.png", output="film.mkv"))
    source = np.stack([frame.image for frame in open_clip("clip.mkv").frames()])
    painted = frames_of("film")
    assert_allclose(painted[:, :, 32:], source[:, :, 32:], atol=0.51 / 255)
    assert np.abs(painted - source)[:, :, :32].mean() > 0.03


def test_masks_of_what_is_painted_may_move(monkeypatch):
    masks = np.zeros((6, 48, 64, 3), np.uint8)
    for number in range(6):
        masks[number, :, 8 * number : 8 * number + 16] = 255
    masks[3] = 0
    write_film("masks.mkv", list(masks), codec="ffv1", pixel_format="bgr0")
    config = config_of(paint_mask="masks.mkv", output="film.mkv")
    paint_film(config)
    source = np.stack([frame.image for frame in open_clip("clip.mkv").frames()])
    painted, is_white = frames_of("film"), masks[..., :1] > 0
    difference = np.abs(painted - source)
    assert np.max(difference * ~is_white) <= 0.51 / 255
    for number in (0, 1, 2, 4, 5):
        assert difference[number][is_white[number, ..., 0]].mean() > 0.03
    lines = lines_of("film")
    with monkeypatch.context() as patch:
        cut_at(patch, passes, "finish", 4)
        with pytest.raises(Cut):
            paint_film(config.replace(output="again.mkv"))
    paint_film(config.replace(output="again.mkv"))
    assert Path("again.mkv").read_bytes() == Path("film.mkv").read_bytes()
    found = [line["e_warp"] for line in lines_of("again")]
    assert found == [line["e_warp"] for line in lines]


def test_regions_have_their_styles_in_every_frame():
    mask = np.zeros((48, 64, 3), np.float32)
    mask[:, :32] = 1
    save_image("mask.png", mask)
    for name, color in (("dark.png", 0.1), ("light.png", 0.9)):
        save_image(name, np.full((48, 64, 3), color, np.float32))
    paint_film(
        config_of(
            **{"style": ["dark.png", "light.png"], "content_mask": "mask.png"},
            **{"output": "film.mkv", "style_weight": 1e4, "optimizer": "lbfgs"},
        )
    )
    frames = frames_of("film")
    assert np.all(frames[:, :, 36:].mean(axis=(1, 2, 3)) < 0.35)
    assert np.all(frames[:, :, :28].mean(axis=(1, 2, 3)) > 0.65)


COLORS = {"black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0)}


def moving_masks(*columns, others="black", height=48, width=64):
    """Paint masks of one color with stripes: for each frame, (color, first column, last)."""
    masks = np.full((len(columns), height, width, 3), COLORS[others], np.uint8)
    for mask, stripes in zip(masks, columns, strict=True):
        for color, begin, end in stripes:
            mask[:, begin:end] = COLORS[color]
    return list(masks)


FLAT = {"dark.png": 0.1, "middle.png": 0.5, "light.png": 0.9}


def save_flat_styles():
    for name, color in FLAT.items():
        save_image(name, np.full((48, 64, 3), color, np.float32))


# White moves from the left to the right, is away for a frame, and comes back.
WHITE_MOVES = [
    [("white", 0, 32)],
    [("white", 8, 40)],
    [("white", 16, 48)],
    [],
    [("white", 32, 64)],
    [("white", 32, 64)],
]
OF_TWO = {
    **{"style": ["dark.png", "light.png"], "style_weight": 1e4, "temporal_weight": 1.0},
    "optimizer": "lbfgs",
}


@pytest.mark.parametrize(
    "coded",
    [
        {"codec": "ffv1", "pixel_format": "bgr0"},
        {"codec": "libx264", "pixel_format": "yuv420p", "crf": "30"},
    ],
)
def test_regions_keep_their_styles_while_they_move(coded):
    save_flat_styles()
    # The clip is still: paint doesn't come along with its motion.
    write_film("clip.mkv", [moving_picture(1)[0]] * 6, codec="ffv1", pixel_format="bgr0")
    write_film("masks.mkv", moving_masks(*WHITE_MOVES), **coded)
    paint_film(config_of(**OF_TWO, content_mask="masks.mkv", output="film.mkv", frame_steps=40))
    frames = frames_of("film")
    for frame, stripes in zip(frames, WHITE_MOVES, strict=True):
        is_light = np.zeros(64, bool)
        for _, begin, end in stripes:
            is_light[begin:end] = True
        # Not where the two meet.
        edges = np.flatnonzero(np.diff(is_light.astype(int)))
        inner = np.min(np.abs(np.arange(64)[:, None] - [*edges, -99]), axis=1) > 4
        assert frame[:, ~is_light & inner].mean() < 0.4
        if stripes:
            assert frame[:, is_light & inner].mean() > 0.6
    assert np.isfinite([line["total"] for line in lines_of("film")]).all()
    record = read_record("film/config.json")
    assert (
        record.inputs["content_mask"] == hashlib.sha256(Path("masks.mkv").read_bytes()).hexdigest()
    )


def test_a_region_that_comes_in_for_one_frame_has_its_style():
    """Regions are settled from all frames: the first frame shows one of three."""
    save_flat_styles()
    write_film("clip.mkv", [moving_picture(1)[0]] * 40, codec="ffv1", pixel_format="bgr0")
    columns = [[]] * 40
    columns[21] = [("red", 0, 20)]
    columns[38] = columns[39] = [("red", 0, 20), ("white", 40, 64)]
    write_film("masks.mkv", moving_masks(*columns), codec="ffv1", pixel_format="bgr0")
    prepared = prepare_clip(
        config_of(
            style=["dark.png", "middle.png", "light.png"],
            content_mask="masks.mkv",
            output="film.mkv",
        )
    )
    regions = prepared.plan.pair.regions
    assert regions.names == ("black", "red", "white")
    numbers = [0, 21, 39]
    stills = prepared.mask.stills(numbers)
    read = [prepared.read_mask(*pair) for pair in zip(stills, numbers, strict=True)]
    areas = np.array([mask.sum(axis=(0, 1)) for mask in read]) / 48
    assert_allclose(areas, [[64, 0, 0], [44, 20, 0], [20, 20, 24]], atol=1e-4)


def test_masks_that_move_have_masks_of_styles_beside_them():
    """A region that no style has takes another one's style, in every frame; others are dropped."""
    save_flat_styles()
    split = np.zeros((48, 64, 3), np.float32)
    split[:, 32:] = 1
    save_image("style_mask.png", split)
    halves = np.full((48, 64, 3), 0.1, np.float32)
    halves[:, 32:] = 0.9
    save_image("halves.png", halves)
    columns = [[("white", 0, 24)], [("white", 8, 32)], [("red", 40, 64)], *[[("white", 0, 24)]] * 3]
    write_film("masks.mkv", moving_masks(*columns), codec="ffv1", pixel_format="bgr0")
    prepared = prepare_clip(
        config_of(
            **{"style": "halves.png", "style_mask": "style_mask.png"},
            **{"content_mask": "masks.mkv", "output": "film.mkv"},
        )
    )
    regions = prepared.plan.pair.regions
    assert regions.names == ("black", "white")
    [note] = regions.notes
    home = regions.names.index(re.search(r"takes the style of (\w+)", note)[1])
    [third] = prepared.mask.stills([2])
    read = prepared.read_mask(third, 2)
    assert_allclose(read[:, 44:, home], 1)
    assert_allclose(read[:, :36].mean(axis=(0, 1)), [1, 0])
    # In the order that the user gives, whatever is larger.
    named = config_of(
        **{"style": "halves.png", "style_mask": "style_mask.png", "regions": "white,black,red"},
        **{"content_mask": "masks.mkv", "output": "film.mkv"},
    )
    assert prepare_clip(named).plan.pair.regions.names == ("white", "black")


def test_masks_of_both_kinds_may_move():
    save_flat_styles()
    write_film("clip.mkv", [moving_picture(1)[0]] * 6, codec="ffv1", pixel_format="bgr0")
    write_film("masks.mkv", moving_masks(*WHITE_MOVES), codec="ffv1", pixel_format="bgr0")
    # The upper half is painted, later the lower one.
    paint = np.zeros((6, 48, 64, 3), np.uint8)
    paint[:3, :24] = paint[3:, 24:] = 255
    write_film("paint.mkv", list(paint), codec="ffv1", pixel_format="bgr0")
    paint_film(
        config_of(
            **OF_TWO,
            **{"content_mask": "masks.mkv", "paint_mask": "paint.mkv", "output": "film.mkv"},
            frame_steps=20,
        )
    )
    frames = frames_of("film")
    source = moving_picture(1)[0] / np.float32(255)
    assert_allclose(frames[2, 24:], source[24:], atol=0.51 / 255)
    assert_allclose(frames[5, :24], source[:24], atol=0.51 / 255)
    assert frames[2, :20, 20:44].mean() > 0.65 and frames[2, :20, 52:].mean() < 0.35
    assert frames[5, 28:, 36:].mean() > 0.65 and frames[5, 28:, :28].mean() < 0.35


def test_moving_masks_resume_to_the_same_bytes(monkeypatch):
    save_flat_styles()
    Path("masks").mkdir()
    for number, mask in enumerate(moving_masks(*WHITE_MOVES)):
        Image.fromarray(mask).save(f"masks/mask_{number}.jpg", quality=75)
    config = config_of(**OF_TWO, content_mask="masks", output="film.mkv")
    paint_film(config)
    with monkeypatch.context() as patch:
        cut_at(patch, passes, "stylize_bound", 5)
        with pytest.raises(Cut):
            paint_film(config.replace(output="again.mkv"))
    paint_film(config.replace(output="again.mkv"))
    assert Path("again.mkv").read_bytes() == Path("film.mkv").read_bytes()
    # Frames painted with other masks aren't continued.
    Image.fromarray(moving_masks([])[0]).save("masks/mask_5.jpg")
    with pytest.raises(InputError, match="another content_mask image"):
        paint_film(config.replace(output="film/"))


def test_shares_of_styles_change_evenly(monkeypatch):
    for name, color in (("dark.png", 0.1), ("light.png", 0.9)):
        save_image(name, np.full((48, 64, 3), color, np.float32))
    weights = []
    stylize = passes.stylize_bound

    def note(plans, params, *, heritage, **options):
        weights.append(dict(heritage[0].coefficients))
        return stylize(plans, params, heritage=heritage, **options)

    monkeypatch.setattr(passes, "stylize_bound", note)
    paint_film(
        config_of(
            **{"style": ["dark.png", "light.png"], "style_blend": "1,0", "style_weight": 1e4},
            **{"style_blend_end": "0,1", "output": "film.mkv", "temporal_weight": 10},
            optimizer="lbfgs",
        )
    )
    assert [w["style2"] for w in weights] == pytest.approx([0, 2e3, 4e3, 6e3, 8e3, 1e4])
    assert [w["style1"] for w in weights] == pytest.approx([1e4, 8e3, 6e3, 4e3, 2e3, 0])
    means = frames_of("film").mean(axis=(1, 2, 3))
    assert means[0] < 0.3 and means[-1] > 0.5 and np.all(np.diff(means[1:]) > 0)


def test_windows_change_nothing_but_the_memory():
    settings = {"steps": 3, "frame_steps": 3, "end": 0.1, "style_loss": "relative"}
    write_film("clip.mkv", moving_picture(3, 80, 96), codec="ffv1", pixel_format="bgr0")
    paint_film(config_of(output="whole.mkv", **settings))
    paint_film(config_of(output="parts.mkv", window=64, **settings))
    assert_allclose(frames_of("parts"), frames_of("whole"), atol=2.1 / 255)


def test_passes_go_back_and_forth():
    units = plan_units([4, 5], 3, num_frames=9)
    assert [(unit.sweep, unit.frame, unit.alone, unit.is_last) for unit in units] == [
        *((0, 4, True, False), (0, 5, True, False)),
        *((1, 4, False, False), (1, 5, False, False)),
        *((2, 5, False, True), (2, 4, False, True)),
    ]
    assert [unit.number for unit in units] == [4, 5, 13, 14, 23, 22]


def test_passes_make_frames_alike_and_go_on_where_they_were_cut(monkeypatch, caplog):
    config = config_of(passes=3, output="film.mkv", init="noise", frame_steps=3)
    paint_film(config.replace(output="whole.mkv"))
    lines = lines_of("whole")
    assert [line["pass"] for line in lines] == [1] * 6 + [2] * 6 + [3] * 6
    assert [line["frame"] for line in lines] == [1, 2, 3, 4, 5, 6] * 3
    errors = [
        np.mean([line["e_warp"] for line in lines if line["pass"] == number and line["reliable"]])
        for number in (1, 2, 3)
    ]
    assert errors[2] < errors[1] < errors[0]
    with monkeypatch.context() as patch:
        cut_at(patch, passes, "stylize_bound", 15)
        with pytest.raises(Cut):
            paint_film(config)
    with caplog.at_level("INFO", "neuart_jax"):
        paint_film(config)
    assert "Resuming after 14 of 18 frames" in caplog.text
    assert Path("film.mkv").read_bytes() == Path("whole.mkv").read_bytes()
    assert not list(Path("film").glob("state/*"))


@pytest.fixture
def two_devices(monkeypatch):
    """One device that counts as two, and painters that wait until both paint."""
    [device] = jax.local_devices()[:1]
    monkeypatch.setattr(run.jax, "local_devices", lambda: [device, device])
    monkeypatch.setattr(run, "check_devices", lambda count: None)
    both, paint = threading.Barrier(2), Painter.paint

    def paint_together(self, *args):
        both.wait(timeout=60)
        paint(self, *args)

    monkeypatch.setattr(Painter, "paint", paint_together)


def test_cuts_are_found_before_painting():
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    assert find_shots(prepare_clip(config_of())) == [range(3), range(3, 6)]
    assert find_shots(prepare_clip(config_of(end=0.1))) == [range(3)]


def test_devices_paint_a_shot_each_to_the_same_film(two_devices, whole):
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    seen = []
    config = config_of(output="film.mkv", references="1,2", record_paths=False)
    paint_film(config, observer=seen.append)
    same_as_whole(whole)
    assert {each.frame for each in seen} == {1, 2, 3, 4, 5, 6}
    assert max(each.part for each in seen) > 1  # Of two frames together.
    done = [each.num_done for each in seen]
    assert done == sorted(done) and done[0] == 0 and done[-1] >= 4


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_failure_on_one_device_stops_the_other(monkeypatch, caplog, whole, two_devices, count):
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    with monkeypatch.context() as patch:
        cut_at(patch, passes, "stylize_bound", count)
        with pytest.raises(Cut):
            paint_film(config_of(output="film.mkv", references="1,2", record_paths=False))
    assert not Path("film.mkv").exists()
    if count == 3:  # Resumed on one device.
        here = Path.cwd()
        monkeypatch.undo()
        monkeypatch.chdir(here)
    go_on(caplog)
    same_as_whole(whole)
    assert not list(Path("film").glob("state/*"))


def test_shots_in_several_passes(request, caplog):
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    config = config_of(passes=3, frame_steps=2, steps=3)
    paint_film(config.replace(output="whole.mkv"))
    request.getfixturevalue("two_devices")
    paint_film(config.replace(output="film.mkv"))
    assert Path("film.mkv").read_bytes() == Path("whole.mkv").read_bytes()
    units = [line["unit"] for line in lines_of("film")]
    assert units == list(range(18))


def test_a_frame_that_fails_in_two_passes_is_one_frame(monkeypatch):
    optimize = Painter._optimize

    def fail(self, unit, *args):
        work = optimize(self, unit, *args)
        return work._replace(status="non_finite") if unit.frame == 1 else work

    monkeypatch.setattr(Painter, "_optimize", fail)
    film = paint_film(config_of(passes=2, frame_steps=1, steps=1, end=0.1, output="film.mkv"))
    assert film.num_failed == 1


@pytest.mark.slow
def test_two_real_devices(whole):
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    config = config_of(output="film.mkv", references="1,2", record_paths=False)
    code = f"""
        import jax
        from neuart_jax.config.config import Config
        from neuart_jax.runs.video import paint_film
        from neuart_jax.runs.video.passes import Painter
        used, paint = [], Painter.paint
        def remember(self, params, reporter):
            used.append(jax.tree.leaves(params)[0].devices())
            paint(self, params, reporter)
        Painter.paint = remember
        config = Config.from_dict({config.to_dict()!r})
        paint_film(config)
        assert sorted(map(str, used)) == sorted(str({{device}}) for device in jax.devices()), used
        """
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags},
        check=True,
    )
    same_as_whole(whole)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"devices": 99}, "--devices=99; expected 1 to "),
        ({"devices": "many"}, "--devices=many; expected a whole number"),
        ({"batch": 2}, "--batch came without pairs to paint"),
        ({"devices": 1, "content": "painting.png"}, "folders with --pair, or a clip as"),
    ],
)
def test_how_many_devices(run_main, capsys, flags, said):
    assert run_main(**{**TINY, "output": "film.mkv", **flags}) == 2
    assert said in capsys.readouterr().err
    assert not Path("film").exists() and not Path("film.mkv").exists()


def write_flow(path, flow):
    height, width, _ = flow.shape
    path.write_bytes(b"PIEH" + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes())


def write_flows(folder, count):
    folder.mkdir()
    for number in range(1, count):
        flow = np.zeros((48, 64, 2), np.float32)
        flow[..., 0] = 3
        write_flow(folder / f"backward_{number + 1}_{number}.flo", flow)
        write_flow(folder / f"forward_{number}_{number + 1}.flo", -flow)


def test_flows_of_ones_own_are_followed():
    write_flows(Path("flows"), 6)
    paint_film(config_of(flow="flows", output="film.mkv"))
    # All of it is known, but for what comes in at the right and the last row and column.
    assert [line["reliable"] for line in lines_of("film")[1:]] == pytest.approx(
        [0.92] * 5, abs=0.03
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"content": "sound.mp4"}, "sound.mp4 has no video stream"),
        ({"content": "cut_off.mp4"}, "cut_off.mp4 can't be read as a film"),
        ({"end": 0.04}, "has 1 frame in the chosen part"),
        ({"start": 3.0}, "the part from 3 seconds can't be taken from"),
        ({"output": "film.png"}, "film.png ends in .png, and --content=.* is a clip"),
        ({"output": "film.avi"}, "film.avi ends in .avi"),
        ({"output": "film.mp4", "film_codec": "prores"}, "film.mp4 can't hold the codec prores"),
        ({"output": "film.gif", "film_codec": "h264"}, "h264 came with an animation"),
        ({"flow": "flows"}, "--flow=flows is neither a way to find motion nor a folder"),
        ({"flow": "few"}, r"few lacks backward_6_5.flo and 1 more"),
        ({"flow": "many"}, "many has flows of 7 frames, and .* has 6"),
        ({"content_mask": "few_masks"}, "few_masks has 5 frames, and .*clip.mkv has 6"),
        ({"content_mask": "clip.mkv"}, "of frame 1 of .*clip.mkv is neither"),
        ({"content_mask": "wide_masks"}, "wide_masks has 96 x 48 pixels, its image 64 x 48"),
        ({"content_mask": "masks"}, r"mask has 2 regions \(black, white\) and came with 1 style"),
        ({"paint_mask": "few_masks"}, "few_masks has 5 frames, and .*clip.mkv has 6"),
        ({"print_losses": True}, "--print_losses came with a clip"),
        ({"references": "0,1"}, "--references=0,1"),
        ({"references": "1,2", "passes": 2}, "--references=1,2 came with --passes=2"),
        ({"animation": "progress.gif"}, "--animation came with a clip"),
        ({"auto_masks": 3}, "--auto_masks came with a clip"),
        ({"style_blend_end": "1,2"}, "--style_blend_end=1,2 came with 1 style"),
        ({"style": "missing.png"}, "missing.png can't be read"),
        ({"content": "still.gif", "output": "film.mp4"}, "--output=film.mp4 ends in .mp4"),
    ],
)
def test_what_cannot_be_painted_is_a_sentence_before_the_work(
    run_main, capsys, monkeypatch, settings, said
):
    write_flows(Path("few"), 5)
    write_flows(Path("many"), 7)
    white, split = np.ones((48, 64, 3), np.float32), np.ones((48, 64, 3), np.float32)
    split[:, :20] = 0
    for folder, mask, count in (
        *(("few_masks", white, 5), ("wide_masks", np.ones((48, 96, 3), np.float32), 6)),
        ("masks", split, 6),
    ):
        Path(folder).mkdir()
        for number in range(count):
            save_image(f"{folder}/mask{number}.png", mask)
    write_film("clip.mp4", moving_picture())
    Path("cut_off.mp4").write_bytes(Path("clip.mp4").read_bytes()[:-1000])
    with av.open("sound.mp4", "w") as container:
        tone = container.add_stream("aac", rate=44100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux([*tone.encode(silence), *tone.encode(None)])
    Image.new("RGB", (64, 48)).save("still.gif")
    monkeypatch.setattr(run, "load_run_network", None)
    given = TINY | {"output": "film.mkv"} | settings
    assert run_main(**given) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not Path("film").exists() and not Path("film.mkv").exists()


def test_a_disk_without_room_is_a_sentence(monkeypatch):
    usage = type("Usage", (), {"free": 1 << 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="film has only 0 MiB of free disk space"):
        paint_film(config_of(output="film.mkv"))
    assert not Path("film").exists()


def test_sound_that_a_film_cannot_hold_is_a_sentence():
    write_film("clip.mkv", moving_picture(), sound="pcm_s16le", codec="ffv1", pixel_format="bgr0")
    with pytest.raises(InputError, match="film.mp4 can't hold the sound of .*; add --nosound"):
        paint_film(config_of(output="film.mp4", film_codec="h264"))
    assert paint_film(config_of(output="film.mp4", sound=False)).path.exists()
    with av.open("film.mp4") as film:
        assert not film.streams.audio


def test_settings_of_clips_are_told_where_the_content_is_an_image():
    save_image("photo.png", smooth_image(48, 64, seed=3))
    config = config_of(content="photo.png", every=2, temporal_weight=5.0)
    [note] = [text for text in prepare(config).notes if "no part" in text]
    assert note.startswith("--every, --frame_steps, --temporal_weight play no part: the content is")


def test_the_programs_of_a_clip_are_found_again_by_later_processes():
    """They have names, which tell how many frames are referred to, and not how firmly."""
    keys = [
        prepare_clip(config_of(output=f"{number}.mkv", **settings)).plan.programs[-1].key
        for number, settings in enumerate(
            ({}, {"temporal_weight": 5.0}, {"references": "1,2"}, {"temporal_weight": 0.0})
        )
    ]
    assert all(keys)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
