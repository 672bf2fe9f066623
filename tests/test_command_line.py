"""Recipes, several styles, frames and lines of losses, from the command line and from records."""

import json
import re
from pathlib import Path

import matplotlib.axes
import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from standins import write_keras

from neuart_jax import Config, transfer
from neuart_jax.cli.console import ProgressBar
from neuart_jax.engine import scales
from neuart_jax.engine.loop import make_next_stop
from neuart_jax.engine.result import Progress
from neuart_jax.engine.step import Status
from neuart_jax.io.images import save_image
from neuart_jax.runs.folder import default_folders
from neuart_jax.runs.record import read_record

TINY = {
    "weights": "random",
    "content_layers": "relu1_1",
    "style_layers": "relu1_1",
    "size": 24,
    "scales": 1,
    "optimizer": "adam",
}


@pytest.fixture(autouse=True)
def in_a_folder_with_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, (name, height, width) in enumerate(
        [("photo", 24, 20), ("painting", 20, 24), ("texture", 16, 12)]
    ):
        save_image(Path(f"{name}.png"), smooth_image(height, width, seed=seed))


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def sections(folder):
    return json.loads((Path(folder) / "config.json").read_text())["config"]


TWO = {"content": "photo.png", "style": ["painting.png", "texture.png"]}


@pytest.mark.parametrize("mix", ["separate", "blended"])
def test_two_styles_from_the_command_line_and_again(run_main, capsys, mix):
    assert run_main(**TWO, **TINY, style_mix=mix, style_blend="3,1", steps=3, report_every=2) == 0
    said = capsys.readouterr()
    folder = Path("output/photo_painting_texture")
    assert said.out == f"{folder}/result.png\n"
    lines = said.err.splitlines()
    assert lines[0] == "Computing on the CPU."
    assert lines[1].startswith("Weights: random orthogonal filters, seed 0")
    record = json.loads((folder / "config.json").read_text())
    styles = [str(Path(name).resolve()) for name in TWO["style"]]
    assert record["config"]["images"]["style"] == styles
    assert record["config"]["losses"]["style_blend"] == [3, 1]
    assert set(record["inputs"]) == {"content", "style1", "style2"}
    names = {"style1", "style2"} if mix == "separate" else {"style"}
    assert set(record["result"]["losses"]) == {"total", "content", "tv", *names}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert names < set(json.loads(line))

    assert run_main(config=folder / "result.png", output="again") == 0
    assert "differ" not in capsys.readouterr().err
    assert_array_equal(pixels("again/result.png"), pixels(folder / "result.png"))
    assert read_record(Path("again/config.json")).config == read_record(
        folder / "config.json"
    ).config.replace(output="again")

    # Another picture of the same name is told by the number of its style.
    save_image(Path("texture.png"), smooth_image(16, 12, seed=9))
    assert run_main(config=folder / "config.json", output="other", steps=1) == 0
    assert "made with a different setup (style2" in capsys.readouterr().err


def test_flags_over_a_recipe_over_a_record(run_main):
    Path("old.json").write_text(
        json.dumps(
            {
                # As records had it when there was one style only.
                "images": {"content": "photo.png", "style": "painting.png"},
                "losses": {"tv_weight": 5.0, "style_weight": 7.0},
                "run": {"seed": 3, "steps": 999, "report_every": 50},
            }
        )
    )
    flags = {**TINY, "steps": 1, "learning_rate": 0.25}
    assert run_main(config="old.json", preset="gatys2015", output="out", **flags) == 0
    found = sections("out")
    assert found["images"]["style"] == [str(Path("painting.png").resolve())]
    assert (found["run"]["seed"], found["run"]["report_every"]) == (3, 50)  # The record's.
    assert (found["losses"]["style_loss"], found["losses"]["style_weight"]) == ("gatys", 1e3)
    assert (found["losses"]["tv_weight"], found["network"]["pooling"]) == (0, "average")
    assert (found["run"]["steps"], found["optimizer"]["learning_rate"]) == (1, 0.25)
    assert found["losses"]["style_layers"] == {"relu1_1": 1.0}


def test_a_recipe_prints_its_losses_without_a_terminal(run_main, capsys):
    """The report's lines after every so many steps, as in its table."""
    assert (
        run_main(preset="capstone-two-styles", **TWO, **TINY, output="out", steps=4, report_every=2)
        == 0
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Step ")]
    metrics = [json.loads(x) for x in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [line.split(":")[0] for line in lines] == ["Step 0", "Step 2", "Step 4"]
    for line, figures in zip(lines, metrics, strict=True):
        numbers = dict(part.split(" ") for part in line.split(": ")[1].split(", "))
        assert set(numbers) == {"total", "content", "style1", "style2"}
        for name, number in numbers.items():
            assert float(number) == pytest.approx(figures[name], rel=1e-5)
    found = sections("out")
    assert (found["optimizer"]["beta1"], found["optimizer"]["epsilon"]) == (0.99, 0.1)


@pytest.mark.parametrize("print_losses", [False, True])
def test_the_bar_is_silent_without_a_terminal_but_for_lines_asked_for(capsys, print_losses):
    bar = ProgressBar(print_losses)
    for step in (0, 100):
        losses = {"total": 18001224.0 / (1 + step), "content": 0.0}
        bar(
            Progress(
                step, step, losses, losses["total"], 1.0, 100, (2, 2), Status.RUNNING, np.zeros
            )
        )
    bar.close()
    expected = "Step 0: total 18001224, content 0\nStep 100: total 178229.94, content 0\n"
    assert capsys.readouterr().err == (expected if print_losses else "")


def test_the_plot_has_every_style_with_its_own_coefficient(monkeypatch):
    drawn = {}

    def plot(self, *arguments, label, **options):
        drawn[label] = arguments[-1]
        return original(self, *arguments, label=label, **options)

    original = matplotlib.axes.Axes.plot
    monkeypatch.setattr(matplotlib.axes.Axes, "plot", plot)
    config = Config().replace(
        **TWO, **TINY, output="out", steps=4, report_every=2, style_weight=40, style_blend=(3, 1)
    )
    result = transfer(config.replace(content_weight=2)).result
    assert list(drawn) == ["total", "content × 2", "style1 × 30", "style2 × 10", "tv × 100"]
    parts = [np.nan_to_num(values) for label, values in drawn.items() if label != "total"]
    assert_allclose(np.sum(parts, axis=0), [h["total"] for h in result.history], rtol=1e-5)


def test_default_folders_name_every_style():
    folders = default_folders("a/photo.png", "b/x.jpg", "c/y.jpg")
    assert [next(folders), next(folders)] == [
        Path("output/photo_x_y"),
        Path("output/photo_x_y_2"),
    ]


def test_default_folders_are_no_longer_than_a_file_system_allows(tmp_path):
    """Even where a letter takes four bytes."""
    names = ["photo.png", *("𝄞" * 40 + f"{number}.png" for number in range(9))]
    (tmp_path / next(default_folders(*names))).mkdir(parents=True)


@pytest.mark.parametrize("report_every", [3, 16, 1])
def test_frames_are_at_overall_steps_through_all_scales(monkeypatch, report_every):
    monkeypatch.setattr(scales, "SMALLEST_SIDE", 8)
    config = Config().replace(
        content="photo.png",
        style="painting.png",
        **TINY | {"scales": 2},
        coarse_steps=7,
        steps=9,
        save_every=4,
        save_at="5,7,13,17,100",
        report_every=report_every,
        output=f"every{report_every}",
    )
    result = transfer(config).result
    assert result.num_steps == 16
    assert {(line["height"], line["width"]) for line in result.history} == {(12, 10), (24, 20)}
    frames = sorted(Path(f"every{report_every}/frames").iterdir())
    assert [int(frame.stem) for frame in frames] == [0, 4, 5, 7, 8, 12, 13, 16]
    assert {pixels(frame).shape for frame in frames} == {(24, 20, 3)}
    # The coarse image after 7 steps is the fine start; pictures go on from there.
    steps = [pixels(frame).astype(float) for frame in frames]
    assert all(np.abs(b - a).max() > 0 for a, b in zip(steps, steps[1:], strict=False))
    if report_every == 1:
        images = []
        transfer(
            config.replace(output="seen", save_every=0, save_at=()),
            callback=lambda p: images.append((p.num_steps, p.image())),
        )
        assert not Path("seen/frames").exists()
        for frame in frames:
            expected = [image for step, image in images if step == int(frame.stem)][-1]
            assert_allclose(pixels(frame) / 255, np.clip(expected, 0, 1), atol=0.51 / 255)


@pytest.mark.parametrize("every", [0, 1, 4, 7])
@pytest.mark.parametrize("at", [(), (0,), (9, 5), (5, 9, 9, 40)])
@pytest.mark.parametrize("first_step", [0, 1, 5, 8])
def test_the_next_stop_is_the_next_overall_step_asked_for(every, at, first_step):
    next_stop = make_next_stop(every=every, at=at, first_step=first_step)
    wanted = {n for n in range(60) if n in at or (every and n % every == 0)}
    for done in range(20):
        later = [n - first_step for n in sorted(wanted) if n > done + first_step]
        if later:
            assert next_stop(done) == later[0]
        else:
            assert next_stop(done) > 10**9


def test_normalized_weights_of_another_preprocessing_and_again_from_elsewhere(
    run_main, capsys, monkeypatch
):
    write_keras(Path("mine.h5"), "vgg19")
    Path("photos").mkdir()
    save_image(Path("photos/one.png"), smooth_image(20, 24, seed=5))
    network = {"weights": "mine.h5", "preprocessing": "torch255", "normalize_weights": "photos"}
    # A file's weights count as trained ones, which halve by maxima.
    network["pooling"] = "average"
    flags = {**TINY, **network, "content": "photo.png", "style": "painting.png", "steps": 2}
    assert run_main(**flags, output="out") == 0
    assert "normalized to mean activation 1 over the image set" in capsys.readouterr().err
    record = json.loads(Path("out/config.json").read_text())
    assert record["weights"]["normalized"].endswith("average pooling, reflect padding")
    assert record["config"]["network"]["preprocessing"] == "torch255"

    home = Path.cwd()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert run_main(config=home / "out/config.json", output="again") == 0
    assert "differ" not in capsys.readouterr().err
    assert_array_equal(pixels("again/result.png"), pixels(home / "out/result.png"))

    save_image(home / "photos/two.png", smooth_image(20, 24, seed=6))
    assert run_main(config=home / "out/config.json", output="other", steps=1) == 0
    assert "made with a different setup (weights" in capsys.readouterr().err
    # Without its rescaling and with its own preprocessing it is another network.
    empty = {"preprocessing": "", "normalize_weights": ""}
    assert run_main(config=home / "out/config.json", output="plain", **empty) == 0
    assert np.any(pixels("plain/result.png") != pixels("again/result.png"))


@pytest.mark.parametrize(
    "styles",
    [
        "--style=painting.png,texture.png",
        "--style painting.png texture.png",
        "--style=paintings",
        "--style=paintings/*",
    ],
)
def test_several_styles_are_written_in_any_way(run_words, styles):
    Path("paintings").mkdir()
    for name in ("painting.png", "texture.png"):
        Path("paintings", name).write_bytes(Path(name).read_bytes())
    tiny = [f"--{name}={value}" for name, value in TINY.items()]
    assert run_words("--content=photo.png", *styles.split(), *tiny, "--steps=1") == 0
    names = [
        Path(path).name for path in sections("output/photo_painting_texture")["images"]["style"]
    ]
    assert names == ["painting.png", "texture.png"]


def test_two_pictures_without_flags(run_words):
    tiny = [f"--{name}={value}" for name, value in TINY.items()]
    assert run_words("photo.png", "painting.png", *tiny, "--steps=1", "--enlarge", "true") == 0
    images = sections("output/photo_painting")["images"]
    assert Path(images["content"]).name == "photo.png"
    assert images["enlarge"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--content=photo.png --content=texture.png --style=painting.png", "--content has 2 files"),
        ("--content photo.png texture.png --style=painting.png", "--content has 2 files"),
        ("--content=photo.png,texture.png --style=painting.png", "is 2 images.*--pair=cross"),
        ("--content=photo.png --style=painting.png,none.png", "none.png.*--style=A --style=B"),
        ("--content=photo.png --style=painting.png --init random", "write --init=noise"),
        ("-content_image photo.png -style_image painting.png -gpu 0", "--style=painting.png"),
    ],
)
def test_a_mistake_in_names_is_one_sentence_and_nothing_is_left(run_words, capsys, words, said):
    before = sorted(Path.cwd().iterdir())
    assert run_words(*words.split(), "--weights=random", "--offline") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(said, error), error
    assert sorted(Path.cwd().iterdir()) == before
