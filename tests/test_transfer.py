"""From files to files: the run's folder, its record, and the command line around them."""

import importlib.metadata
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from neuart_jax import Config, InputError, transfer
from neuart_jax.config.config import FIELDS
from neuart_jax.config.presets import PRESETS
from neuart_jax.engine.binding import load_run_network
from neuart_jax.engine.plan import make_plan
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.step import Status
from neuart_jax.inputs.pair import Pair, make_pair
from neuart_jax.io.images import load_image, load_metadata, save_image
from neuart_jax.runs.folder import RunFolder
from neuart_jax.runs.own_folder import MARK_NAME
from neuart_jax.runs.prepare import prepare
from neuart_jax.runs.record import METADATA_KEY, Record, read_record

SHALLOW = {
    "content_layers": "relu2_1",
    "style_layers": "relu1_1,relu2_1",
    "report_every": 2,
    # Compiled in a third of the time.
    "optimizer": "adam",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, content_image, style_image):
    folder = tmp_path_factory.mktemp("pictures")
    alpha = np.ones(content_image.shape[:2], np.float32)
    alpha[:, :20] = 0
    save_image(folder / "photo.png", content_image)
    save_image(folder / "cutout.png", content_image, alpha=alpha)
    save_image(folder / "painting.png", style_image)
    return folder


def config_for(pictures, output, **settings):
    defaults = {
        "content": str(pictures / "photo.png"),
        "style": str(pictures / "painting.png"),
        "output": str(output),
        "steps": 4,
    }
    return Config().replace(**{**defaults, **SHALLOW, **settings})


def run_command(*arguments, cwd, cache=None, **settings):
    flags = [f"--{name}={value}" for name, value in settings.items()]
    # A source tree is importable from anywhere only when it is installed; tests don't insist.
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.run(
        [sys.executable, "-m", "neuart_jax.main", *arguments, *flags],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": root,
            **({} if cache is None else {"XDG_CACHE_HOME": str(cache)}),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures):
    """One run of the command line, with everything switched on."""
    folder = tmp_path_factory.mktemp("finished")
    done = run_command(
        cwd=folder,
        cache=tmp_path_factory.mktemp("cache"),  # Whatever ran before, it fits and compiles.
        content=pictures / "photo.png",
        style=pictures / "painting.png",
        output="result",
        steps=5,
        save_every=2,
        **SHALLOW,
    )
    return done, folder / "result"


def test_a_run_writes_its_folder(finished):
    done, folder = finished
    assert done.returncode == 0, done.stderr
    assert done.stdout == "result/result.png\n"
    assert {path.name for path in folder.iterdir()} == {
        "result.png",
        "config.json",
        "metrics.jsonl",
        "losses.png",
        "frames",
        MARK_NAME,
    }
    assert [p.name for p in sorted((folder / "frames").iterdir())] == [
        "000000.png",
        "000002.png",
        "000004.png",
    ]
    with Image.open(folder / "losses.png") as plot:
        assert plot.size[0] > 400


def test_a_run_is_planned_once(tmp_path, pictures, monkeypatch):
    """All that follows from the settings and the sizes is found once, however many ask for it."""
    made = []

    def count(target):
        module, name = target.rsplit(".", 1)
        fn = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(target, lambda *a, **k: made.append(name) or fn(*a, **k))

    for target in ("build.content_term", "build.style_term", "build.total_variation_term"):
        count(f"neuart_jax.objective.{target}")
    for target in ("plan.plan_stages", "plan.predict_memory", "plan.check_memory"):
        count(f"neuart_jax.engine.{target}")
    presence = Pair.presence.fget
    monkeypatch.setattr(
        Pair, "presence", property(lambda pair: made.append("presence") or presence(pair))
    )
    named = {"model": "vgg19", "weights": "random"}
    transfer(config_for(pictures, tmp_path / "out", steps=1, color="luminance", **named))
    assert sorted(made) == sorted({*made}) and len(made) == 7


def test_what_a_person_reads(finished):
    done, _ = finished
    # What is said from time to time on slow machines.
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Still", "At step"))]
    starts = (
        "Painting at 64x48 pixels, which is all that the content image has; --enlarge",
        "Computing on the CPU.",
        "Fitting filters to the images",
        "Weights: fitted to the two images",
        "Compiling for images of this size",
        "All steps were made.",
        "5 steps in ",
    )
    # Quiet: no bar where nobody looks, no log lines of others.
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def test_metrics_have_a_line_per_report(finished):
    _, folder = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    assert lines[-1]["total"] < lines[0]["total"]
    assert {"content", "style", "tv", "evaluations", "seconds", "best"} <= set(lines[0])


def test_the_record_is_complete_and_the_same_in_both_places(finished):
    _, folder = finished
    record = json.loads((folder / "config.json").read_text())
    assert json.loads(load_metadata(folder / "result.png")[METADATA_KEY]) == record
    assert record["config"]["run"]["steps"] == 5
    assert Path(record["config"]["images"]["content"]).is_absolute()
    assert len(record["inputs"]["content"]) == len(record["weights"]["sha256"]) == 64
    assert record["weights"]["name"].startswith("fitted")
    assert {"jax", "optax", "neuart_jax", "python"} <= set(record["versions"])
    assert record["result"]["status"] == "completed"
    assert set(record["result"]["losses"]) == {"total", "content", "style", "tv"}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["config.json", "result.png"])
def test_a_record_reproduces_the_same_pixels(finished, tmp_path, source):
    _, folder = finished
    done = run_command(cwd=tmp_path, config=folder / source, output="again")
    assert done.returncode == 0, done.stderr
    assert "differ" not in done.stderr
    with Image.open(folder / "result.png") as first, Image.open(tmp_path / "again/result.png") as b:
        np.testing.assert_array_equal(np.asarray(first), np.asarray(b))


def test_flags_win_over_a_record(finished, tmp_path):
    _, folder = finished
    done = run_command(cwd=tmp_path, config=folder / "config.json", output="again", steps=1)
    record = json.loads((tmp_path / "again/config.json").read_text())
    assert (record["config"]["run"]["steps"], done.returncode) == (1, 0)
    assert record["config"]["run"]["report_every"] == 2


def test_a_repeated_run_says_what_is_not_the_same(pictures, tmp_path, caplog):
    config = config_for(pictures, tmp_path / "a", steps=1)
    repeated = Record(
        config, weights={"sha256": "0"}, inputs={"content": "1"}, versions={"jax": "0.0.1"}
    )
    with caplog.at_level(logging.INFO):
        transfer(config, repeated=repeated)
    assert "made with a different setup (content, weights, jax 0.0.1" in caplog.text


@pytest.mark.slow
def test_a_run_with_a_deeper_network_is_repeated_without_it(pictures, tmp_path, caplog):
    config = config_for(pictures, tmp_path / "a", steps=1, weights="fitted")
    images = [load_image(pictures / name).image for name in ("photo.png", "painting.png")]
    deeper = resolve_config(config.replace(content_layers="relu2_2"))
    network = load_run_network([make_plan(make_pair(deeper, images[0], images[1:]))])
    with caplog.at_level(logging.INFO):
        first = transfer(config, network=network)
        assert "Weights: " not in caplog.text
        record = read_record(first.image_path)
        again = transfer(record.config.replace(output=str(tmp_path / "b")), repeated=record)
    assert "Weights: " in caplog.text
    assert "differ" not in caplog.text
    with Image.open(first.image_path) as one, Image.open(again.image_path) as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_alpha_is_put_back(pictures, tmp_path):
    config = config_for(pictures, tmp_path / "a", content=str(pictures / "cutout.png"), steps=1)
    with Image.open(transfer(config).image_path) as result:
        assert result.mode == "RGBA"
        np.testing.assert_array_equal(np.unique(np.asarray(result)[..., 3]), [0, 255])


@pytest.mark.parametrize("name", ["result.jpg", "result.webp", "result.tif"])
def test_formats_by_extension(pictures, tmp_path, name):
    path = transfer(config_for(pictures, tmp_path / "a", image_name=name, steps=1)).image_path
    assert path.name == name
    assert read_record(path).config.output.image_name == name


@pytest.mark.slow
def test_the_size_is_the_longest_side(pictures, tmp_path):
    config = config_for(pictures, tmp_path / "a", size=40, steps=1)
    with Image.open(transfer(config).image_path) as result:
        assert result.size == (40, 30)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"style_size": 28}, (28, 20)),
        ({"style_scale": 0.5}, (28, 20)),
        ({"size": 56, "style_scale": 2, "enlarge": True}, (112, 80)),
        ({"size": 24, "style_size": 40, "style_scale": 0.5}, (20, 14)),
        ({"size": 24, "style_size": 112}, (112, 80)),
        ({"style_scale": 0.5, "style_tile": True}, (48, 64)),
    ],
)
def test_styles_have_a_size_of_their_own(pictures, tmp_path, settings, shape):
    pair = prepare(config_for(pictures, tmp_path, **settings)).plan.pair
    assert pair.styles[0].shape[:2] == shape
    contents = {24: (18, 24), 56: (42, 56), None: (48, 64)}
    assert pair.content.shape[:2] == contents[settings.get("size")]


def test_a_style_is_not_enlarged_unasked(pictures, tmp_path):
    with pytest.raises(InputError, match="style_scale=2 needs .*painting.png at 80x112 pixels"):
        prepare(config_for(pictures, tmp_path, style_scale=2))


@pytest.fixture(scope="module")
def masks(pictures):
    left = np.zeros((48, 64, 3), np.float32)
    left[:, :30, 0], left[:, 30:, 2] = 1, 1
    save_image(pictures / "mask.png", left)
    # Twice the picture's size, as masks often are.
    save_image(pictures / "style_mask.png", np.repeat(np.repeat(left[:, :40], 2, 0), 2, 1)[:112])
    top = np.zeros((112, 80, 3), np.float32)
    top[:50, :, 0], top[50:, :, 1] = 1, 1
    save_image(pictures / "other_mask.png", top)
    return pictures


@pytest.mark.slow
def test_masks_come_from_files_and_the_record_knows_them(masks, tmp_path, caplog):
    config = config_for(
        masks,
        tmp_path / "out",
        content_mask=str(masks / "mask.png"),
        style_mask=str(masks / "other_mask.png"),
        balance=True,
    )
    with caplog.at_level(logging.INFO):
        transfer(config)
    # Blue is in no style mask, green in no content mask.
    assert "blue" in caplog.text
    record = read_record(tmp_path / "out" / "config.json")
    assert set(record.inputs) == {"content", "style", "content_mask", "style_mask"}
    assert Path(record.config.regions.content_mask).is_absolute()
    assert Path(record.config.regions.style_mask[0]).is_absolute()
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    weights = document["result"]["layer_weights"]
    assert set(weights) == {"content", "style"}
    assert set(weights["style"]) == {"relu1_1", "relu2_1"}
    again = transfer(record.config.replace(output=str(tmp_path / "again")))
    with caplog.at_level(logging.WARNING):
        assert_array_equal(
            load_image(tmp_path / "out" / "result.png").image, load_image(again.image_path).image
        )


@pytest.mark.slow
def test_a_realistic_stage_is_in_the_metrics_and_the_plot(pictures, tmp_path):
    config = config_for(pictures, tmp_path / "out", realism_weight=1e3, realism_steps=3)
    result, _ = transfer(config)
    assert result.num_steps == 7
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert ["realism" in json.loads(line) for line in lines][-2:] == [True, True]
    assert "realism" not in json.loads(lines[0])
    assert (tmp_path / "out" / "losses.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"content_mask": "mask.png", "regions": "red,blue"}, "2 .*1|1 .*2"),
        (
            {"content_mask": "mask.png", "style_mask": "other_mask.png", "auto_masks": 3},
            "auto_masks=3 came with masks",
        ),
        ({"style_mask": "other_mask.png"}, "mask"),
        ({"content_mask": "other_mask.png", "style_mask": "other_mask.png"}, "pixels, its image"),
        ({"content_mask": "photo.png", "style_mask": "other_mask.png"}, "mask"),
        ({"content_mask": "mask.png", "style_mask": "other_mask.png", "regions": "pink!"}, "pink!"),
        ({"content_mask": "nothing.png"}, "nothing.png"),
        ({"regions": "red"}, "regions=red came without a mask"),
        ({"realism_steps": 3}, "realism_steps=3 came without realism_weight"),
    ],
)
def test_nonsense_about_regions_is_one_sentence(masks, tmp_path, settings, sentence):
    files = {n: str(masks / v) for n, v in settings.items() if str(v).endswith(".png")}
    with pytest.raises(InputError, match=sentence):
        prepare(config_for(masks, tmp_path, **{**settings, **files}))


def test_an_earlier_result_is_not_replaced_unasked(pictures, tmp_path):
    config = config_for(pictures, tmp_path / "a", steps=1)
    transfer(config)
    before = (tmp_path / "a/result.png").read_bytes()
    with pytest.raises(InputError, match="already holds a result.*--overwrite"):
        transfer(config)
    assert (tmp_path / "a/result.png").read_bytes() == before
    assert transfer(config.replace(overwrite=True)).result.status == Status.COMPLETED


def files_of(folder):
    """Return every file's content, but for the note of who wrote there."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MARK_NAME]
    return {path: path.read_bytes() for path in paths}


def test_a_run_that_cannot_start_leaves_an_earlier_one_whole(pictures, tmp_path):
    config = config_for(pictures, tmp_path / "a", steps=1, save_every=1, overwrite=True)
    transfer(config)
    before = files_of(tmp_path / "a")
    assert len(before) == 6
    with pytest.raises(InputError, match="is not a file"):
        transfer(config.replace(weights=str(tmp_path / "missing.h5")))
    assert files_of(tmp_path / "a") == before


def test_default_folders_are_numbered(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_for(pictures, "", steps=1)
    for name in ("photo_painting", "photo_painting_2"):
        assert transfer(config).image_path == Path("output") / name / "result.png"


def test_a_failed_write_leaves_the_earlier_result(pictures, tmp_path, monkeypatch):
    config = config_for(pictures, tmp_path / "a", steps=1)
    transfer(config)
    before = files_of(tmp_path / "a")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        transfer(config.replace(overwrite=True, seed=3))
    assert files_of(tmp_path / "a") == before


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="taken can't be created"):
        RunFolder(tmp_path / "taken", image_name="result.png")
    with pytest.raises(InputError, match="taken/deeper can't be created"):
        RunFolder(tmp_path / "taken/deeper", image_name="result.png")


RESNET = {"model": "resnet50", "content_layers": "stem", "style_layers": "stem"}
BAD_FLAGS = [
    ({"content": ""}, "--content is missing; expected two images"),
    ({"style": "nowhere.png"}, "nowhere.png"),
    ({"content": "empty.png"}, "empty.png"),
    ({"content": "text.png"}, "text.png"),
    ({"content": "cut.png"}, "cut.png"),
    ({"content": "dot.png"}, "the content image is 1x1 pixels; expected at least 4 pixels"),
    ({"size": "-5"}, "size=-5; expected a whole number"),
    ({"size": "big"}, "size='big'; expected a whole number"),
    ({"history": ""}, "history=''; expected a whole number"),
    ({"style_weight": ""}, "style_weight=''; expected a finite number"),
    ({"seed": "1e400"}, "seed=inf; expected a whole number"),
    ({"size": "4"}, "the content image is 4x3 pixels; expected at least"),
    ({"tv_weight": "nan"}, "tv_weight=nan; expected a finite number"),
    ({"style_layers": "relu1_1,relu9_9"}, "vgg19 has no layer 'relu9_9'"),
    ({"model": "vgg"}, "model 'vgg' is not known; expected one of vgg19, vgg16, resnet50"),
    ({"weights": "missing.h5"}, "--weights="),
    ({"weights": "text.png"}, "text.png"),
    ({"weights": "imagenet"}, "--weights=imagenet found no ImageNet weights"),
    ({"image_name": "result.bmp"}, "result.bmp"),
    ({"image_name": "losses.png"}, "is the name of the plot"),
    ({"image_name": "../result.png"}, "not a plain file name"),
    ({"config": "nowhere.json"}, "nowhere.json can't be read"),
    ({"config": "text.png"}, "text.png"),
    ({"config": "broken.json"}, "broken.json is not JSON"),
    ({"init": "nothing"}, "--init="),
    ({"preset": "gatys"}, "--preset=gatys is not known; expected one of neuart-vgg19"),
    ({"preset": ""}, "--preset= is not known"),
    ({"preset": "capstone-two-styles"}, "got 1 style image; expected 2 of them"),
    ({"preset": "neuart-resnet50"}, "resnet50 has no layer 'relu2_1'"),
    ({"style": ["a.png", ""]}, "expected a text, or a list of texts that aren't empty"),
    ({"style": ["text.png", "text.png"]}, "text.png"),
    ({"style_blend": "3,1"}, "style_blend has 2 shares with the sum 4; expected 1 shares"),
    ({"style_blend": "0"}, "style_blend has 1 shares with the sum 0"),
    ({"style_blend": "a,b"}, "style_blend='a,b'; expected finite numbers of at least 0"),
    ({"style_blend": "1,-1"}, "style_blend='1,-1'; expected finite numbers of at least 0"),
    ({"style_mix": "mixed"}, "style_mix='mixed' is not known; expected one of separate, blended"),
    ({"style_loss": "grams"}, "style_loss='grams' is not known"),
    ({"content_loss": "half"}, "content_loss='half' is not known"),
    ({"tv_loss": "squares"}, "tv_loss='squares' is not known"),
    ({"pixel_scale": "0"}, "pixel_scale=0.0; expected a finite number of at least 1e-06"),
    ({"smoothing": "hard"}, "smoothing='hard' is not known; expected one of none, softmax"),
    ({"temperature": "0"}, "temperature=0.0; expected a finite number of at least 1e-06"),
    ({"temperature": "hot"}, "temperature='hot'; expected a finite number"),
    ({"content_weight": "-1"}, "content_weight=-1.0; expected a finite number of at least 0"),
    ({"content_weight": "0", "style_weight": "0"}, "content_weight and style_weight are both 0"),
    ({"beta1": "1"}, "beta1=1.0; expected a finite number of at least 0 and at most 0.9999"),
    ({"beta2": "2"}, "beta2=2.0; expected a finite number of at least 0 and at most 0.99999"),
    ({"epsilon": "-1e-8"}, "epsilon=-1e-08; expected a finite number of at least 0"),
    ({"noise": "pink"}, "noise='pink' is not known; expected one of gaussian, uniform"),
    ({"noise_center": "white"}, "noise_center='white' is not known; expected one of gray"),
    ({"noise_scale": "-1"}, "noise_scale=-1.0; expected a finite number"),
    ({"save_at": "1.5"}, "save_at='1.5'; expected whole numbers of at least 0"),
    ({"save_at": "200;400"}, "save_at='200;400'; expected whole numbers"),
    ({"print_losses": "often"}, "print_losses"),
    ({"preprocessing": "keras"}, "preprocessing='keras' is not known; expected one of caffe"),
    ({"normalize_weights": "nowhere"}, "nowhere can't be read (No such file or directory)"),
    (
        {"normalize_weights": "bundled", **RESNET},
        "only vgg19 and vgg16 can be normalized, not resnet50",
    ),
    ({"weights": "random "}, "--weights="),
    ({"color": "gray"}, "color='gray' is not known; expected one of style, match"),
    ({"style_size": "-1"}, "style_size=-1; expected a whole number"),
    ({"style_scale": "0"}, "style_scale=0.0; expected a finite number of at least 0.01"),
    ({"style_tile": "maybe"}, "style_tile"),
    ({"regions": "red,,blue"}, "regions='red,,blue'; expected words with commas between them"),
    ({"regions": "red"}, "regions=red came without a mask"),
    ({"auto_masks": "99"}, "auto_masks=99; expected a whole number of at least 0 and at most 16"),
    ({"content_mask": "nowhere.png"}, "nowhere.png"),
    ({"style_mask": "text.png"}, "text.png"),
    (
        {"stylization": "1.5"},
        "stylization=1.5; expected a finite number of at least 0 and at most 1",
    ),
    ({"balance": "often"}, "balance"),
    ({"realism_weight": "-1"}, "realism_weight=-1.0; expected a finite number of at least 0"),
    ({"realism_steps": "5"}, "realism_steps=5 came without realism_weight"),
    ({"affine_radius": "x"}, "affine_radius='x'; expected a whole number"),
    ({"average": "1"}, "average=1.0; expected a finite number of at least 0 and at most 0.9999"),
    ({"carry_state": "2"}, "carry_state"),
    ({"precision": "half"}, "precision='half' is not known; expected one of auto, float32"),
    ({"convolution": ""}, "convolution"),
    ({"convolution": "winograd", "precision": "bfloat16"}, "--convolution=winograd came with"),
    ({"memory_check": "maybe"}, "memory_check"),
    ({"stile": "x"}, "--stile is not a flag of this command"),
]


@pytest.mark.parametrize(("flags", "sentence"), BAD_FLAGS, ids=[str(f) for f, _ in BAD_FLAGS])
def test_bad_flags_are_one_sentence_and_exit_code_2(
    flags, sentence, pictures, tmp_path, monkeypatch, capsys, run_main
):
    monkeypatch.chdir(tmp_path)
    Path("empty.png").touch()
    Path("text.png").write_text("not a picture")
    Path("cut.png").write_bytes((pictures / "photo.png").read_bytes()[:2000])
    Path("broken.json").write_text("{")
    Image.new("RGB", (1, 1)).save("dot.png")
    given = {
        "content": pictures / "photo.png",
        "style": pictures / "painting.png",
        "output": "out",
        **SHALLOW,
        **flags,
    }
    assert run_main(**given) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    *notes, _ = said.err.splitlines()
    assert all(note.startswith(("Painting at ", "Computing on ")) for note in notes)
    assert "Traceback" not in said.err
    assert not list(Path().glob("out/*.png"))


def test_help_lists_every_section(tmp_path):
    done = run_command("--help", cwd=tmp_path)
    assert done.returncode == 0
    for section in ("images", "network", "losses", "optimizer", "run", "output"):
        assert f"\n{section}: " in done.stdout
    for name in ("config", "preset", *FIELDS):
        assert f"\n  --{name}\n" in done.stdout or f"\n  --[no]{name}\n" in done.stdout
    for name in PRESETS:
        assert f"\n  {name}\n" in done.stdout


def test_an_interrupt_keeps_the_best_picture(pictures, tmp_path):
    root = str(Path(__file__).resolve().parents[1])
    arguments = {
        "content": pictures / "photo.png",
        "style": pictures / "painting.png",
        "output": "out",
        "steps": 100_000,
        **SHALLOW,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "neuart_jax.main", *(f"--{n}={v}" for n, v in arguments.items())],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "out/metrics.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size > 300):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "The run was stopped on request" in stderr
    assert "Traceback" not in stderr
    assert stdout.strip() == "out/result.png"
    record = json.loads((tmp_path / "out/config.json").read_text())
    assert record["result"]["status"] == "stopped"
    assert (
        record["result"]["losses"]["total"]
        < json.loads(metrics.read_text().split("\n")[0])["total"]
    )


def test_a_failed_run_has_exit_code_1_and_a_picture(pictures, tmp_path, monkeypatch, capsys):
    """Pixels thrown infinitely far make a loss that is no number."""
    done = run_command(
        cwd=tmp_path,
        content=pictures / "photo.png",
        style=pictures / "painting.png",
        output="out",
        learning_rate=1e30,
        steps=10,
        **{**SHALLOW, "optimizer": "lbfgs_fixed"},
    )
    assert done.returncode == 1, done.stderr
    assert "The loss was no longer a finite number" in done.stderr
    with Image.open(tmp_path / "out/result.png") as result:
        assert result.size == (64, 48)


def test_a_record_is_made_from_a_source_tree_that_is_not_installed(monkeypatch):
    installed = importlib.metadata.version

    def version(name):
        if name == "neuart_jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    record = Record.of_this_run(Config(), weights={}, inputs={}, predicted_bytes=1)
    assert record.versions["neuart_jax"] == "not installed"
    assert record.versions["jax"] == jax.__version__
