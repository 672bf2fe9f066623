"""A film of how a picture came to be, beside the picture."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image, ImageSequence

from neuart_jax import Config, InputError, read_record, save_image, transfer
from neuart_jax.runs import folder as run_folder
from neuart_jax.runs.prepare import prepare


@pytest.fixture
def config(tmp_path, content_image, style_image):
    save_image(tmp_path / "photo.png", content_image)
    save_image(tmp_path / "painting.png", style_image)
    return Config().replace(
        content=str(tmp_path / "photo.png"),
        style=str(tmp_path / "painting.png"),
        output=str(tmp_path / "out"),
        animation="progress.webp",
        **{"model": "vgg19", "weights": "random", "optimizer": "adam", "scales": 1, "steps": 6},
        **{"content_layers": "relu1_1", "style_layers": "relu1_1", "animation_size": 32},
    )


def frames_of(path):
    with Image.open(path) as film:
        frames = ImageSequence.Iterator(film)
        return [(np.asarray(f.convert("RGB")) / 255, f.info["duration"]) for f in frames]


def test_it_goes_from_the_start_to_the_finished_picture(config, tmp_path, content_image):
    result = transfer(config).result
    steps = sorted(path.name for path in (tmp_path / "out/frames").iterdir())
    assert steps == [f"{step:06d}.png" for step in range(7)]
    film = frames_of(tmp_path / "out/progress.webp")
    # The photograph, seven steps and the finished picture, with pictures of fades between them.
    # WebP's encoder joins those that are nearly equal.
    assert 3 <= len(film) <= 12 + 7 * 6 + 1
    assert sum(duration for _, duration in film) == 1000 + 7 * 250 + 2000
    assert film[0][0].shape == (24, 32, 3) and film[-1][1] >= 2000
    finished = result.image.reshape(24, 2, 32, 2, 3).mean((1, 3))
    start = content_image.reshape(24, 2, 32, 2, 3).mean((1, 3))

    def is_nearer(image, one, other):
        return np.abs(image - one).mean() < 0.8 * np.abs(image - other).mean()

    assert is_nearer(film[-1][0], finished, start)
    # The start isn't smooth, and WebP loses some of it; PNG is compared closely below.
    assert is_nearer(film[0][0], start, finished)
    record = read_record(tmp_path / "out/progress.webp")
    assert record.inputs == read_record(tmp_path / "out/config.json").inputs


def reduced(path):
    with Image.open(path) as image:
        small = image.convert("RGB").resize((32, 24), Image.Resampling.LANCZOS)
    return np.asarray(small) / 255


def test_it_begins_with_the_photograph_whatever_the_start_is(config, tmp_path):
    transfer(config.replace(init="noise", animation="progress.png"))
    film = frames_of(tmp_path / "out/progress.png")
    start = reduced(tmp_path / "photo.png")
    noise = reduced(tmp_path / "out/frames/000000.png")
    assert_allclose(film[0][0], start, atol=0.02)
    # Half of the opening is a fade, in whose middle there are equal shares of both.
    assert film[0][1] == pytest.approx(500 + 1000 / 24, abs=1)
    assert_allclose(film[6][0], (start + noise) / 2, atol=0.02)
    assert_allclose(film[12][0], noise, atol=0.02)
    transfer(config.replace(animation_fade=0.0, overwrite=True))
    assert len(frames_of(tmp_path / "out/progress.webp")) <= 9


def test_it_changes_no_pixel_and_other_frames_stay_as_asked(config, tmp_path):
    with_film = transfer(config.replace(save_at=(2,))).result
    plain = transfer(config.replace(animation="", output=str(tmp_path / "plain"))).result
    assert_allclose(with_film.image, plain.image)
    plan = prepare(config.replace(steps=400, save_at=(399,), save_every=50, overwrite=True)).plan
    assert len(plan.frame_steps) == 76 and {0, 1, 399, 400} <= set(plan.frame_steps)
    assert plan.wants_frame(50) and plan.wants_frame(399) and not plan.wants_frame(398)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("progress.webq", "--animation=progress.webq has the extension '.webq'; expected one of"),
        ("films/progress.webp", "is not an unused name in the result's folder"),
        ("result.png", "is not an unused name"),
        ("losses.png", "is not an unused name"),
    ],
)
def test_nonsense_is_one_sentence_before_anything_is_painted(config, tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        transfer(config.replace(animation=name))
    assert not (tmp_path / "out").exists()


def test_somebody_elses_film_stays(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/progress.webp").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"progress\.webp"):
        transfer(config)
    assert (tmp_path / "out/progress.webp").read_bytes() == b"mine"


def test_a_film_that_cannot_be_written_costs_no_picture(config, tmp_path, monkeypatch, caplog):
    def fail(*args, **options):
        raise InputError("the encoder has left", expected="one", remedy="bring it back")

    monkeypatch.setattr("neuart_jax.runs.progress_film.save_animation", fail)
    transfer(config)
    assert run_folder.is_whole(tmp_path / "out/result.png")
    [line] = [m for m in caplog.messages if "progress.webp" in m]
    assert line == "The run continues without progress.webp: the encoder has left."
