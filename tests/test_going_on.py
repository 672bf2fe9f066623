"""Going on from a picture, making more steps, and what is said about sizes."""

import re
import urllib.parse
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_array_equal

from neuart_jax import Config, FeatureNetwork, transfer
from neuart_jax.config.errors import InputError
from neuart_jax.io.images import load_image, save_image
from neuart_jax.runs.batch.summary import SummaryLine, write_gallery
from neuart_jax.runs.prepare import prepare
from neuart_jax.runs.record import read_record

TINY = {
    "weights": "random",
    "optimizer": "adam",
    "content_layers": "relu1_1",
    "style_layers": "relu1_1",
    "content": "photo.png",
    "style": "painting.png",
    "size": 24,
}


@pytest.fixture(autouse=True)
def in_a_folder_with_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_image("photo.png", smooth_image(24, 20, seed=1))
    save_image("painting.png", smooth_image(24, 24, seed=2))


@pytest.mark.slow
def test_a_picture_as_the_start_is_gone_on_from_at_full_size(monkeypatch, caplog):
    monkeypatch.setattr("neuart_jax.engine.scales.SMALLEST_SIDE", 8)
    config = Config().replace(**TINY, steps=6, coarse_steps=4)
    first = transfer(config.replace(output="first")).result
    assert first.history[0]["height"] == 12
    with caplog.at_level("INFO", "neuart_jax"):
        second = transfer(config.replace(init="first/result.png", steps=3)).result
    assert {line["height"] for line in second.history} == {24}
    # Rounding to 8 bits is all that is lost.
    assert second.history[0]["total"] == pytest.approx(first.losses["total"], rel=0.02)
    assert second.losses["total"] <= second.history[0]["total"]
    assert "Continuing from first/result.png at full size only; --scales=2 starts" in caplog.text
    # Who wants a coarser size gets one.
    prepared = prepare(config.replace(init="first/result.png", scales=2))
    assert prepared.config.run.scales == 2
    assert not any("Continuing" in note for note in prepared.notes)


def test_a_picture_that_has_the_name_of_the_kept_one_stays():
    config = Config().replace(**TINY, scales=1, output="out", report_every=2)
    transfer(config.replace(steps=4))
    Path("out/result_4_steps.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="result_4_steps.png already exists"):
        transfer(config.replace(steps=7))
    assert Path("out/result_4_steps.png").read_bytes() == b"mine"
    # What a kill has left of the same is no obstacle.
    Path("out/result_4_steps.png").write_bytes(Path("out/result.png").read_bytes())
    assert transfer(config.replace(steps=7)).result.num_steps == 3


def test_a_finished_run_is_prolonged(caplog):
    config = Config().replace(**TINY, scales=1, output="out", report_every=2)
    first = transfer(config.replace(steps=4))
    earlier = load_image("out/result.png").image
    with caplog.at_level("INFO", "neuart_jax"):
        longer = transfer(config.replace(steps=7))
    assert "out holds this run with 4 steps; 3 more follow from its image" in caplog.text
    assert (longer.result.num_steps, longer.image_path) == (3, Path("out/result.png"))
    assert longer.result.losses["total"] < first.result.losses["total"]
    assert_array_equal(load_image("out/result_4_steps.png").image, earlier)
    # And once more.
    assert transfer(config.replace(steps=9)).result.num_steps == 2
    assert_array_equal(load_image("out/result_4_steps.png").image, earlier)
    assert Path("out/result_7_steps.png").exists()
    # The record makes the same picture again.
    record = read_record(Path("out/config.json"))
    transfer(record.config.replace(output="again", overwrite=False))
    assert_array_equal(load_image("again/result.png").image, load_image("out/result.png").image)
    # Fewer steps, or other settings, are another run.
    for other in ({"steps": 8}, {"steps": 20, "style_weight": 3.0}):
        with pytest.raises(InputError, match="already holds a result"):
            transfer(config.replace(**other))
    assert sorted(path.name for path in Path("out").glob("result*")) == [
        "result.png",
        "result_4_steps.png",
        "result_7_steps.png",
    ]


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"size": 12}, "Painting at 10x12 pixels; the content image has 20x24, which --size=0"),
        ({"size": 64}, "Painting at 20x24 pixels, which is all that .*; --enlarge .* --size=64."),
        ({"size": 24}, ""),
        ({"size": 0}, ""),
        ({"size": 64, "enlarge": True}, ""),
    ],
)
def test_sizes_that_surprise_are_told(settings, note):
    notes = prepare(Config().replace(**TINY | settings)).notes
    assert len(notes) == bool(note)
    assert all(re.match(note, said) for said in notes)


@pytest.mark.parametrize("error", [RuntimeError("no CUDA"), AssertionError()])
def test_a_platform_that_cannot_be_had_is_a_sentence(run_main, capsys, monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "local_devices", fail)
    assert run_main(**TINY) == 2
    said = capsys.readouterr().err
    assert said.startswith("JAX_PLATFORMS=cuda is not available here")
    assert "JAX_PLATFORMS=cpu" in said and said.count("\n") == 1


def test_links_of_the_gallery_lead_to_the_pictures(tmp_path):
    name = "100% #1 写.png"
    (tmp_path / "a__b").mkdir()
    save_image(tmp_path / "a__b" / name, np.zeros((4, 4, 3)))
    image = f"a__b/{name}"
    line = SummaryLine(1, "a__b", "completed", "photo.png", ("painting.png",), image, {"steps": 1})
    page = write_gallery(tmp_path, [line]).read_text()
    href = page.partition('<a href="')[2].partition('"')[0]
    parts = urllib.parse.urlsplit(href)
    assert (parts.query, parts.fragment) == ("", "")
    assert (tmp_path / urllib.parse.unquote(parts.path)).exists()


@pytest.mark.parametrize("init", ["noise", "style", "gray"])
def test_a_start_that_hardly_reaches_the_content_is_told(caplog, init):
    pixels = FeatureNetwork(lambda params, image: {"pixels": image}, None)
    config = Config().replace(
        **TINY | {"content_layers": "pixels", "style_layers": "pixels"},
        **{"scales": 1, "init": init, "overwrite": True},
    )
    near = transfer(config.replace(output="near", content_weight=100, steps=30), network=pixels)
    assert near.result.losses["content"] < 0.4 * near.result.history[0]["content"]
    assert "Little of" not in caplog.text
    far = transfer(config.replace(output="far", content_weight=1e-6, steps=4), network=pixels)
    share = far.result.losses["content"] / far.result.history[0]["content"]
    assert share > 0.4
    assert f"{100 * share:.0f}% of its initial value): from --init={init}, use" in caplog.text
    caplog.clear()
    transfer(config.replace(output="content", content_weight=1e-6, init="content"), network=pixels)
    assert "Little of" not in caplog.text
