"""Clips painted from files to films, with a tiny network: what comes out, and what a cut costs."""

import json
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from conftest import smooth_picture
from films import moving_picture, read_packets, write_film
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax import Config, InputError, load_image, save_image
from neuart_jax.inputs.color import luminance
from neuart_jax.io.clips.opening import open_clip
from neuart_jax.runs.record import read_record
from neuart_jax.runs.video import paint_film, run
from neuart_jax.runs.video.frames import PaintedFrames
from neuart_jax.runs.video.passes import Painter, plan_units

TINY = {
    "weights": "random",
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
    save_image("painting.png", smooth_picture(40, 48, seed=2))


def config_of(**settings):
    return Config().replace(**{**TINY, **settings})


def lines_of(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def frames_of(folder):
    return np.stack([load_image(path).image for path in sorted(Path(folder, "frames").iterdir())])


def two_shots():
    other = np.rint(255 * smooth_picture(48, 64, seed=77)).astype(np.uint8)
    return [*moving_picture(3), *[np.roll(other, i, axis=1) for i in range(3)]]


def test_a_clip_becomes_a_film_with_its_sound_and_times(run_main, capsys):
    times = [0, 40, 100, 140, 200, 240]
    write_film("clip.mp4", moving_picture(), times=times, sound="aac")
    assert run_main(**TINY | {"content": "clip.mp4", "output": "film.mp4"}) == 0
    said = capsys.readouterr()
    assert said.out == "film.mp4\n"
    assert "clip.mp4: 6 frames of 64x48, 0." in said.err
    assert "Computing on" in said.err and "Warping error" in said.err
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


def test_a_cut_starts_a_new_shot():
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
    paint_film(config_of(output="film.mkv"))
    lines = lines_of("film")
    assert [line["shot"] for line in lines] == [1, 1, 1, 4, 4, 4]
    assert [line["steps"] for line in lines] == [8, 4, 4, 8, 4, 4]
    assert lines[3]["e_warp"] is None
    assert json.loads(Path("film/config.json").read_text())["result"]["cuts"] == [4]


def test_one_program_serves_the_clip(monkeypatch):
    """Whatever a later frame needs was compiled for those before it, at its size."""
    write_film("clip.mkv", two_shots(), codec="ffv1", pixel_format="bgr0")
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
    config = config_of(output="film.mkv", size=60, scales=2, coarse_steps=3, references="1,2")
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
    paint_film(config_of(output="film.mkv"))
    frames = frames_of("film")
    # It moves by three pixels to the left from frame to frame.
    for earlier, later in zip(frames, frames[1:], strict=False):
        known = later[4:-4, 4:-8]
        assert np.abs(known - earlier[4:-4, 7:-5]).mean() < 0.02
        assert np.abs(known - earlier[4:-4, 4:-8]).mean() > 0.05
