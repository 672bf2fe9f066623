"""Films of a run's progress: which steps, for how long, in which kind of file."""

import itertools
import sys
from fractions import Fraction

import numpy as np
import pytest
from films import moving_picture
from PIL import Image

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.animation_writing import (
    ANIMATION_EXTENSIONS,
    check_animation,
    save_animation,
)
from neuart_jax.io.clips.opening import open_clip
from neuart_jax.io.clips.pace import (
    HOLD,
    choose_steps,
    find_durations,
    most_frames,
    plan_fade,
    round_times,
)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 40, 41, 80, 500, 12345])
@pytest.mark.parametrize("most", [2, 3, 40, 151])
def test_steps_are_dense_at_first_and_all_are_new(num_steps, most):
    steps = choose_steps(num_steps, most=most)
    assert steps[0] == 0 and steps[-1] == num_steps
    assert len(steps) == min(most, num_steps + 1)
    gaps = np.diff(steps)
    assert gaps.min() >= 1
    # They grow, but for rounding.
    assert np.all(np.diff(gaps) >= -1)
    # Half of the film is about its first quarter.
    if most < num_steps / 4:
        assert steps[(len(steps) - 1) // 2] <= num_steps / 4 + 1


def test_steps_by_hand():
    assert choose_steps(100, most=6) == (0, 4, 16, 36, 64, 100)
    assert choose_steps(20, most=9) == (0, 1, 2, 3, 5, 8, 11, 15, 20)
    with pytest.raises(ValueError, match="1 of 5 steps"):
        choose_steps(5, most=1)


@pytest.mark.parametrize("seconds", [2.5, 6, Fraction(10)])
@pytest.mark.parametrize("num_steps", [1, 10, 1000])
def test_length_is_bounded_and_the_last_is_held(num_steps, seconds):
    steps = choose_steps(num_steps, most=most_frames(seconds))
    durations = find_durations(len(steps), seconds=seconds)
    # The photograph comes before them, and the result after them.
    assert len(durations) == len(steps) + 2
    assert sum(durations) <= seconds
    assert durations[-1] == HOLD
    assert durations[0] == {2.5: Fraction(12, 100), 6: 1, 10: 1}[seconds]
    # 4 to 25 a second, in the ticks that GIF has.
    for duration in durations[1:-1]:
        assert Fraction(4, 100) <= duration <= Fraction(1, 4)
        assert (duration * 100).denominator == 1
    if num_steps == 1000:
        assert sum(durations) > 0.9 * float(seconds)
    assert find_durations(0, seconds=seconds) == [durations[0], HOLD]


def test_fades_by_hand():
    quarter, tick = Fraction(1, 4), Fraction(1, 24)
    assert plan_fade(quarter, 0) == [(0, quarter)]
    # No more than 25 a second: a quarter of a second has six pictures, seven hundredths one.
    assert plan_fade(quarter, 0.5) == [(k / 6, tick) for k in range(6)]
    assert plan_fade(Fraction(7, 100), 0.5) == [(0, Fraction(7, 100))]
    fade = plan_fade(Fraction(1), 0.5)
    assert fade[0] == (0, Fraction(1, 2) + tick) and len(fade) == 12
    assert fade[1:] == [(k / 12, tick) for k in range(1, 12)]
    assert sum(seconds for _, seconds in fade) == 1


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".gif", ".apng"])
def test_images_fade_into_the_next_at_the_end_of_their_time(tmp_path, extension):
    levels = (0.2, 0.8, 0.5)
    path = tmp_path / f"progress{extension}"
    durations = [Fraction(1), Fraction(1, 5), HOLD]
    save_animation(path, [np.full((32, 48, 3), x) for x in levels], durations, fade=0.5)
    clip = open_clip(path)
    assert clip.end == sum(durations)
    means = np.array([frame.image.mean() for frame in clip.frames()])
    times = np.array([float(time) for time in clip.times])
    # Held, then even steps of the sRGB values, and the last one is held.
    expected = np.interp(times, [0, 0.5, 1, 1.2, 10], [0.2, 0.2, 0.8, 0.5, 0.5])
    assert np.abs(means - expected).max() < 0.02
    assert len(times) == 12 + 5 + 1
    assert np.diff(times).min() > 0.0385


def test_without_fades_there_are_cuts(tmp_path):
    path = tmp_path / "progress.gif"
    save_animation(path, [np.full((8, 8, 3), x) for x in (0, 1)], [Fraction(1), HOLD])
    assert open_clip(path).num_frames == 2


def test_rounded_times_do_not_drift():
    durations = [Fraction(1, 30)] * 90
    ticks = round_times(durations, Fraction(1, 100))
    assert sum(ticks) == 300 and set(ticks) == {3, 4}
    assert round_times([Fraction(1, 1000)] * 3, Fraction(1, 100)) == [1, 1, 1]


@pytest.mark.parametrize("extension", ANIMATION_EXTENSIONS)
def test_animations_come_back(tmp_path, extension):
    pictures = moving_picture(4)
    path = tmp_path / f"progress{extension}"
    durations = [Fraction(1, 10), Fraction(4, 100), Fraction(1, 4), HOLD]
    save_animation(path, (picture / 255 for picture in pictures), durations)
    clip = open_clip(path)
    assert (*clip.times, clip.end) == (0, *itertools.accumulate(durations))
    found = np.stack([frame.image for frame in clip.frames()])
    most = {".png": 1e-3, ".apng": 1e-3}.get(extension, 8)
    luma = np.array([0.2126, 0.7152, 0.0722])
    assert np.abs((255 * found - pictures) @ luma).mean() < most
    if extension not in (".mp4", ".mov", ".mkv"):
        with Image.open(path) as image:
            assert image.info["loop"] == 0


@pytest.mark.parametrize("extension", [".gif", ".mp4"])
def test_the_longer_side_is_bounded(tmp_path, extension):
    small, large = moving_picture(1, 24, 40)[0] / 255, moving_picture(1, 96, 160)[0] / 255
    path = tmp_path / f"progress{extension}"
    # A coarse picture first, as runs make them.
    save_animation(path, [large, small, large], [Fraction(1, 10)] * 3, size=80)
    clip = open_clip(path)
    assert (clip.height, clip.width, clip.num_frames) == (48, 80, 3)


def test_pillow_is_enough_for_all_but_films(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    pictures = [picture / 255 for picture in moving_picture(2)]
    save_animation(tmp_path / "progress.webp", pictures, [Fraction(1, 10)] * 2)
    with pytest.raises(InputError, match=r"films need the package PyAV.*neuart_jax\[video\]"):
        save_animation(tmp_path / "progress.mp4", pictures, [Fraction(1, 10)] * 2)
    assert [file.name for file in tmp_path.iterdir()] == ["progress.webp"]


def test_what_can_not_be_written_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="'.bmp'; expected one of .gif, .webp.*end the name"):
        check_animation(tmp_path / "progress.bmp", height=8, width=8)
    with pytest.raises(InputError, match="would have 20000x8 pixels; expected at most 16383"):
        check_animation(tmp_path / "progress.webp", height=8, width=20000)
    with pytest.raises(InputError, match="progress.gif can't be written"):
        save_animation(tmp_path / "no" / "progress.gif", [np.zeros((8, 8, 3))], [HOLD])


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "progress.gif"
    path.write_bytes(b"before")
    pictures = [picture / 255 for picture in moving_picture(2)]
    with pytest.raises(ValueError, match="shorter|longer"):
        save_animation(path, pictures, [HOLD])
    with pytest.raises(ValueError, match="no images"):
        save_animation(path, [], [])
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["progress.gif"]
