"""Experiments on small pictures: what they run, what they write, how they go on."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from neuart_jax import Config, InputError
from neuart_jax.config.own_settings import OWN_SETTINGS
from neuart_jax.config.presets import apply_preset
from neuart_jax.io.images import load_image, save_image
from neuart_jax.runs.experiments import (
    cells,
    compare_models,
    evaluate,
    interpolate,
    layer_grid,
    networks,
    reconstruct,
)
from neuart_jax.runs.experiments.axes import grow_layers, read_numbers
from neuart_jax.runs.experiments.model_comparison import (
    DEFAULT_JUDGES,
    DEFAULT_VARIANTS,
    PHOTOGRAPH,
    parse_variant,
)
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.record import METADATA_KEY, read_record
from neuart_jax.runs.scheduler import run_tasks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("reconstruct", "layer_grid", "evaluate", "compare_models", "interpolate")
QUICK = {
    "weights": "random",
    "style_layers": "conv1_1,relu1_1",
    "content_layers": "relu1_1",
    "steps": 2,
    "report_every": 2,
    "scales": 1,
    # Compiled in less time than a line search.
    "optimizer": "adam",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, content_image, style_image):
    folder = tmp_path_factory.mktemp("pictures")
    save_image(folder / "photo.png", content_image)
    save_image(folder / "photo2.png", content_image[::-1])
    save_image(folder / "painting.png", style_image)
    return folder


@pytest.fixture
def config(pictures, tmp_path):
    return Config().replace(
        content=str(pictures / "photo.png"),
        style=str(pictures / "painting.png"),
        output=str(tmp_path / "out"),
        **QUICK,
    )


@pytest.fixture
def runs(monkeypatch):
    """Names of the cells that are run, as they are."""
    names = []

    def counted(tasks, folder, **arguments):
        names.extend(Path(job.name).name for task in tasks for job in task.jobs)
        return run_tasks(tasks, folder, **arguments)

    monkeypatch.setattr(cells, "run_tasks", counted)
    return names


@pytest.fixture
def loads(monkeypatch):
    """Layers of the networks that are loaded, as they are."""
    layers = []
    load = networks.load_network

    def counted(*arguments, **more):
        layers.append(more["layers"])
        return load(*arguments, **more)

    monkeypatch.setattr(networks, "load_network", counted)
    return layers


def jobs_of(config, pictures, *contents):
    style = str(pictures / "painting.png")
    return [
        Job(Path(content).stem, config.replace(content=str(pictures / content), style=style))
        for content in contents
    ]


def read_table(folder):
    with open(folder / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_reconstructions_are_from_single_layers_and_from_growing_sets(config, loads):
    config = config.replace(content_layers=())
    report = reconstruct(config)
    assert [cell.name for cell in report.cells] == [
        "content_conv1_1",
        "content_relu1_1",
        "style_conv1_1",
        "style_conv1_1-relu1_1",
    ]
    losses = [cell.record.config.losses for cell in report.cells]
    assert [dict(each.content_layers) for each in losses[:2]] == [{"conv1_1": 1}, {"relu1_1": 1}]
    assert [each.style_weight for each in losses[:2]] == [0, 0]
    assert [each.content_weight for each in losses[2:]] == [0, 0]
    assert dict(losses[3].style_layers) == {"conv1_1": 0.5, "relu1_1": 0.5}
    assert {cell.record.config.run.init for cell in report.cells} == {"noise"}
    assert loads == [("conv1_1", "relu1_1")]

    table = read_table(report.folder)
    assert [row["from"] for row in table] == ["content", "content", "style", "style"]
    assert [row["style_loss"] == "" for row in table] == [True, True, False, False]
    assert float(table[0]["total_loss"]) == report.cells[0].record.outcome["losses"]["total"]
    document = json.loads((report.folder / "experiment.json").read_text())
    assert document["experiment"] == "reconstruct"
    assert Config.from_dict(document["settings"]).losses.tv_weight == config.losses.tv_weight
    for cell in document["cells"]:
        assert len(cell["weights"]["sha256"]) == len(cell["inputs"]["content"]) == 64
        assert (report.folder / cell["folder"] / "result.png").is_file()
    with Image.open(report.sheet_path) as sheet:
        assert sheet.size[0] > 3 * 64
    assert len((report.folder / "table.md").read_text().splitlines()) == 6


def test_an_experiment_is_not_run_twice(config, runs):
    first = reconstruct(config)
    assert len(runs) == 3
    before = {p: p.read_bytes() for p in first.folder.rglob("*") if p.is_file()}
    second = reconstruct(config)
    assert len(runs) == 3
    assert [cell.reused for cell in second.cells] == [True] * 3
    assert {p: p.read_bytes() for p in first.folder.rglob("*") if p.is_file()} == before


def test_a_killed_experiment_goes_on_where_it_was(config, monkeypatch):
    done = []

    def killed(tasks, folder, **arguments):
        outcomes = list(run_tasks(tasks, folder, **arguments))
        if done:
            # What a kill between its last two files leaves of a cell.
            [job] = tasks[0].jobs
            (folder / job.name / "config.json").unlink()
            raise KeyboardInterrupt
        done.extend(outcomes)
        return outcomes

    monkeypatch.setattr(cells, "run_tasks", killed)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(config)
    monkeypatch.setattr(cells, "run_tasks", run_tasks)
    report = reconstruct(config)
    assert [cell.reused for cell in report.cells] == [True, False, False]


def test_cells_without_a_whole_result_are_made_again(config, runs):
    first, second, _ = reconstruct(config).cells
    runs.clear()
    first.image_path.unlink()
    record = second.folder / "config.json"
    record.write_text(record.read_text().replace('"status": "completed"', '"status": "stopped"'))
    reconstruct(config)
    assert runs == [first.name, second.name]


def test_results_of_something_else_are_not_taken(config, runs, pictures):
    reconstruct(config)
    runs.clear()
    sentence = r"content_relu1_1 already .*\(steps: 2 there, 3 here; seed: 0 there, 1 here\)"
    with pytest.raises(InputError, match=sentence):
        reconstruct(config.replace(steps=3, seed=1))
    with pytest.raises(InputError, match="another content image"):
        reconstruct(config.replace(content=str(pictures / "photo2.png")))
    with pytest.raises(InputError, match="; and [0-9]+ more.*--overwrite"):
        reconstruct(apply_preset("neural-style", config).replace(**QUICK))
    assert not runs
    # Only what has changed is made again.
    record = Path(config.output.output, "cells/style_conv1_1/config.json")
    record.write_text("{")
    reconstruct(config)
    assert runs == ["style_conv1_1"]
    other = Path(config.output.output, "cells/content_relu1_1/config.json")
    other.write_text(other.read_text().replace('"seed": 0', '"seed": 5'))
    report = reconstruct(config.replace(overwrite=True))
    assert runs == ["style_conv1_1", "content_relu1_1"]
    assert all(read_record(cell.folder / "config.json").outcome for cell in report.cells)


def test_results_of_other_weights_are_not_taken(config, runs):
    cell = reconstruct(config).cells[0]
    path = cell.folder / "config.json"
    document = json.loads(path.read_text())
    document["weights"]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    metadata = {METADATA_KEY: json.dumps(document)}
    save_image(cell.image_path, load_image(cell.image_path).image, metadata=metadata)
    runs.clear()
    with pytest.raises(InputError, match=r"weights: random, version \d+ 000000000000 there, rand"):
        reconstruct(config)
    assert not runs
    reconstruct(config.replace(overwrite=True))
    assert runs == ["content_relu1_1"]


def test_the_same_picture_may_have_moved(config, runs, tmp_path, pictures):
    reconstruct(config)
    runs.clear()
    moved = tmp_path / "moved.png"
    moved.write_bytes((pictures / "photo.png").read_bytes())
    reconstruct(config.replace(content=str(moved)))
    assert not runs


def test_a_grid_has_a_cell_for_every_set_and_ratio(config, loads):
    report = layer_grid(config, ratios=(0.5, 2))
    places = [(row["layers"], row["ratio"]) for row in report.rows]
    assert places == [(s, r) for s in ("conv1_1", "conv1_1-relu1_1") for r in (0.5, 2)]
    for cell, (_, ratio) in zip(report.cells, places, strict=True):
        losses = cell.record.config.losses
        assert losses.content_weight / losses.style_weight == ratio
    assert dict(report.cells[3].record.config.losses.style_layers) == {
        "conv1_1": 0.5,
        "relu1_1": 0.5,
    }
    assert len(loads) == 1
    assert len({cell.load_image().tobytes() for cell in report.cells}) == 4


def test_the_default_ratios_with_gatys_weights_are_those_of_the_paper(config, monkeypatch):
    seen = []

    def stop(planned, *arguments, **more):
        seen.extend(planned)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["neuart_jax.runs.experiments.layer_grids"], "run_cells", stop)
    with pytest.raises(KeyboardInterrupt):
        layer_grid(apply_preset("gatys2015", config))
    losses = [cell.config.losses for cell in seen]
    ratios = [each.content_weight / each.style_weight for each in losses]
    assert ratios == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2] * 5)
    assert [cell.name for cell in seen[:2]] == ["relu1_1_1e-05", "relu1_1_0.0001"]
    assert [len(each.style_layers) for each in losses[::4]] == [1, 2, 3, 4, 5]


def test_sets_grow_with_the_same_total():
    grown = grow_layers((("a", 1.0), ("b", 3.0), ("skipped", 0.0), ("c", 4.0)))
    assert grown == [
        (("a", 8.0),),
        (("a", 2.0), ("b", 6.0)),
        (("a", 1.0), ("b", 3.0), ("c", 4.0)),
    ]
    with pytest.raises(InputError, match="no style layer has a weight above 0"):
        grow_layers((("a", 0.0),))


def test_lists_of_numbers():
    assert read_numbers("1e-5, 2,", flag="ratios", example="1") == (1e-5, 2)
    for text in ("x", "1,-2", "nan", "inf"):
        with pytest.raises(InputError, match=f"--ratios={text}; .*finite numbers of at least 0"):
            read_numbers(text, flag="ratios", example="1e-5,1e-4")
    with pytest.raises(InputError, match="finite numbers from 0 to 1 .*write --shares=0,1, say"):
        read_numbers("0.5,1.5", flag="shares", example="0,1", at_most=1)
    with pytest.raises(InputError, match="--shares=0.5,0.5 has the same number twice"):
        read_numbers("0.5,0.5", flag="shares", example="0,1", at_most=1)


def test_bad_ratios(config):
    with pytest.raises(InputError, match="has the same ratio twice"):
        layer_grid(config, ratios=(1, 1.0001))
    with pytest.raises(InputError, match="have no ratio"):
        layer_grid(config.replace(style_weight=0))


def test_interpolation_goes_from_one_style_to_the_other(config, pictures, runs):
    config = config.replace(
        style=[str(pictures / "painting.png"), str(pictures / "photo2.png")], steps=8
    )
    report = interpolate(config, shares=(0, 0.5, 1), stylizations=(0.5, 1))
    assert len(runs) == 6
    rows = read_table(report.folder)
    assert [(row["stylization"], row["share"]) for row in rows[:4]] == [
        ("0.5", "0"),
        ("0.5", "0.5"),
        ("0.5", "1"),
        ("1", "0"),
    ]
    # Farther from the first style and nearer to the second.
    first, second = ([float(row[f"color{n}"]) for row in rows[3:]] for n in (1, 2))
    assert first[0] < first[1] < first[2]
    assert second[0] > second[1] > second[2]
    assert float(rows[1]["ssim"]) > float(rows[4]["ssim"])
    record = read_record(report.folder / "cells" / "stylization_1_share_0.5" / "config.json")
    assert record.config.losses.style_blend == (0.5, 0.5)


def test_interpolation_with_one_style_is_a_row_of_degrees(config, runs):
    report = interpolate(config, stylizations=(0.5, 1))
    assert [float(row["share"]) for row in read_table(report.folder)] == [0, 0]
    with pytest.raises(InputError, match="there are 3 styles.*expected one style or two"):
        interpolate(config.replace(style=[config.images.content] * 3))


def test_evaluation_tabulates_pairs_and_their_averages(config, pictures):
    report = evaluate(config, jobs_of(config, pictures, "photo.png", "photo2.png"))
    table = read_table(report.folder)
    assert [row["pair"] for row in table] == ["photo", "photo2", "average"]
    for name in ("seconds", "evaluations", "steps", "total_loss", "content_loss", "style_loss"):
        first, second, average = (float(row[name]) for row in table)
        assert average == pytest.approx((first + second) / 2)
    assert [row["status"] for row in table] == ["completed", "completed", ""]
    assert [row["steps"] for row in table[:2]] == ["2", "2"]


def test_networks_of_one_pair_are_kept_at_a_time(config, pictures, loads):
    first, second = (
        config.replace(content=str(pictures / f"{n}.png")) for n in ("photo", "photo2")
    )
    pool = networks.NetworkPool([first, second])
    assert pool.load(first) is pool.load(first.replace(steps=9))
    pool.load(second)
    pool.load(first)
    assert len(loads) == 3


def test_a_run_that_fails_is_shown_and_the_others_go_on(config, pictures, caplog):
    # Too much for float32.
    config = config.replace(style_layers="conv1_1:1e30,relu1_1:1e30", style_weight=1e30)
    with caplog.at_level("INFO"):
        report = evaluate(config, jobs_of(config, pictures, "photo.png", "photo2.png"))
    assert [row["status"] for row in report.rows] == ["non_finite", "non_finite", ""]
    assert caplog.text.count("no longer finite") == 2
    assert report.sheet_path.is_file()


def test_a_picture_that_cannot_be_read_is_told_before_the_first_run(config, pictures, runs):
    with pytest.raises(InputError, match="nowhere"):
        evaluate(config, jobs_of(config, pictures, "photo.png", "nowhere.png"))
    assert not runs


@pytest.fixture
def shallow_models(monkeypatch):
    """Judges that need no deep network."""
    for model, layer in (("vgg16", "relu1_1"), ("vgg19", "relu1_1"), ("resnet50", "conv1_relu")):
        monkeypatch.setitem(OWN_SETTINGS[model]["random"], "content_layers", layer)
        monkeypatch.setitem(OWN_SETTINGS[model]["random"], "style_layers", layer)


def test_models_are_compared_by_what_they_did_not_pursue(
    config, pictures, shallow_models, loads, runs
):
    config = config.replace(content_layers=(), style_layers=())
    # Coefficients are data: the third needs no program of its own.
    variants = ["V:model=vgg19", "R:model=resnet50", "strong:model=vgg19,style_weight=300"]
    judges = ["vgg:model=vgg19", "resnet:model=resnet50"]
    jobs = jobs_of(config, pictures, "photo.png", "photo2.png")
    report = compare_models(config, jobs, variants, judges=judges)
    assert runs == ["V", "R", "strong"] * 2
    # Judges and runs share the networks: one of each model for each pair.
    assert loads == [("relu1_1",), ("conv1_relu",)] * 2
    rows = report.rows
    assert [row["variant"] for row in rows] == [PHOTOGRAPH, "V", "R", "strong"] * 3
    assert [row["pair"] for row in rows[::4]] == ["photo", "photo2", "average"]
    photograph, vgg19, _, strong = rows[:4]
    assert photograph["ssim"] == pytest.approx(1)
    assert photograph["vgg_content"] == pytest.approx(0, abs=1e-9)
    assert photograph["vgg_style"] > vgg19["vgg_style"]
    assert vgg19["vgg_style"] == pytest.approx(vgg19["style_loss"], rel=0.05)  # 8 bits
    assert strong["resnet_content"] > vgg19["resnet_content"]
    assert 0 < vgg19["ssim"] < 1
    assert rows[9]["color"] == pytest.approx((rows[1]["color"] + rows[5]["color"]) / 2)
    # Only what a variant's own network says is marked.
    text = (report.folder / "table.md").read_text().splitlines()
    assert [line.count("\\* |") for line in text[2:6]] == [0, 2, 2, 2]
    document = json.loads((report.folder / "experiment.json").read_text())
    assert set(document["variants"]) == {"V", "R", "strong"}
    assert set(document["judges"]["photo"]) == {"vgg", "resnet"}
    # A judge is one of a variant's own model by its network, not by its name.
    assert [row["model"] for row in rows[:4]] == ["", "vgg19", "resnet50", "vgg19"]
    header = [cell.strip() for cell in text[0].strip("|").split("|")]
    starred = {
        line.split("|")[2].strip(): {
            name
            for name, cell in zip(header, line.strip("|").split("|"), strict=True)
            if "\\*" in cell
        }
        for line in text[2:6]
    }
    assert starred == {
        PHOTOGRAPH: set(),
        "V": {"vgg_content", "vgg_style"},
        "R": {"resnet_content", "resnet_style"},
        "strong": {"vgg_content", "vgg_style"},
    }

    runs.clear()
    again = compare_models(config, jobs, variants, judges=judges)
    assert not runs
    assert again.rows == rows


def test_variants_are_settings_over_those_given(config):
    text = "a:style_layers=relu1_1:1,relu2_1:2, smoothing = softmax ,steps=3"
    variant = parse_variant(text, config)
    assert dict(variant.config.losses.style_layers) == {"relu1_1": 1, "relu2_1": 2}
    assert (variant.config.losses.smoothing, variant.config.run.steps) == ("softmax", 3)
    assert variant.config.run.scales == 1
    recipe = parse_variant("b:preset=gatys2017,steps=7", config.replace(size=64)).config
    assert (recipe.losses.content_loss, recipe.run.steps, recipe.images.size) == ("mean", 7, 64)
    names = [parse_variant(text, Config()).name for text in DEFAULT_VARIANTS]
    kinds = ["", "-averages", "-smoothed", "-plain", "-swag"]
    assert names == ["vgg16", *(f"resnet50{kind}" for kind in kinds)]


def test_judges_have_settings_of_their_own_and_nothing_of_the_variants(
    config, pictures, shallow_models, loads
):
    """Whatever is compared, an instrument measures the same."""
    config = config.replace(content_layers=(), style_layers=(), steps=1, report_every=1)
    jobs = jobs_of(config, pictures, "photo.png")
    judges = ["deep:model=vgg16,style_layers=relu1_2", "flat:model=vgg16"]
    plain = compare_models(config, jobs, ["a:model=vgg19"], judges=judges)
    columns = [f"{judge}_{kind}" for judge in ("deep", "flat") for kind in ("content", "style")]
    assert list(plain.rows[0])[3:] == [*columns, "ssim", "color"]
    assert plain.rows[0]["deep_style"] != plain.rows[0]["flat_style"]
    assert plain.rows[0]["deep_content"] == plain.rows[0]["flat_content"] == 0
    # One network for both.
    assert sorted(loads) == [("relu1_1",), ("relu1_1", "relu1_2")]
    changed = config.replace(
        style_loss="sum", padding="zero", smoothing="softmax", output=f"{config.output.output}2"
    )
    jobs = jobs_of(changed, pictures, "photo.png")
    other = compare_models(changed, jobs, ["b:model=resnet50"], judges=judges)
    for name in columns:
        assert other.rows[0][name] == pytest.approx(plain.rows[0][name], rel=1e-6)


@pytest.mark.parametrize(
    ("judges", "sentence"),
    [
        (
            ["a:model=vgg19", "A:model=resnet50"],
            "the judge a comes 2 times; expected a unique name for every judge; rename one.",
        ),
        ([], "there is no judge; expected at least one; give one with --judge."),
        (["a:model=vgg91"], "model 'vgg91' is not known"),
        (["a:stepps=1"], "'stepps' is not a setting"),
    ],
)
def test_judges_that_cannot_be_are_told_before_the_first_run(
    config, pictures, runs, judges, sentence
):
    with pytest.raises(InputError) as caught:
        compare_models(config, jobs_of(config, pictures, "photo.png"), ["v:steps=1"], judges=judges)
    assert str(caught.value).startswith(sentence)
    assert not runs


@pytest.mark.parametrize("text", ["vgg16", "a b:model=vgg16", "a:model"])
def test_a_judge_that_cannot_be_read_is_called_a_judge(config, pictures, runs, text):
    jobs = jobs_of(config, pictures, "photo.png")
    with pytest.raises(InputError) as caught:
        compare_models(config, jobs, ["v:steps=1"], judges=[text])
    assert str(caught.value).startswith(f"--judge={text!r} can't be read; expected NAME:SETTING=")
    assert "write --judge=" in str(caught.value)
    assert not runs


def test_judges_where_none_are_given_are_of_every_variants_other_model():
    judges = {
        name: parse_variant(text, Config()).config
        for name, text in ((text.partition(":")[0], text) for text in DEFAULT_JUDGES)
    }
    models = {name: config.network.model for name, config in judges.items()}
    assert models == {"vgg16": "vgg16", "resnet50": "resnet50"}
    for text in DEFAULT_VARIANTS:
        model = parse_variant(text, Config()).config.network.model
        assert any(other != model for other in models.values())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vgg19", "can't be read; expected NAME:SETTING=VALUE"),
        ("a b:steps=1", "can't be read"),
        ("../a:steps=1", "can't be read"),
        ("a:steps", "can't be read"),
        ("a:stepps=1", "'stepps' is not a setting.*'steps'"),
        ("a:steps=x", "steps='x'; expected a whole number"),
        ("a:size=9", "sets size; .*give --size once"),
        ("a:output=x", "sets output"),
        ("a:preset=x", "--preset=x is not known"),
    ],
)
def test_bad_variants(text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_variant(text, Config())


def test_variants_have_names_of_their_own(config, pictures):
    jobs = jobs_of(config, pictures, "photo.png")
    with pytest.raises(InputError, match="the variant a comes 2 times"):
        compare_models(config, jobs, ["a:model=vgg19", "A:model=resnet50"])
    with pytest.raises(InputError, match="there is no variant"):
        compare_models(config, jobs, [])


def run_script(name, *arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{name}.py", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


BAD_ARGUMENTS = {
    "reconstruct": ["--content=a.png", "--style=b.png", "--style_layers=relu9_9"],
    "layer_grid": ["--content=a.png", "--style=b.png", "--ratios=x"],
    "evaluate": ["--manifest=nowhere.csv"],
    "compare_models": ["--content=a.png", "--style=b.png", "--variant=x"],
    "interpolate": ["--content=a.png", "--style=b.png", "--shares=2"],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_bad_input_of_a_script_is_one_sentence_and_exit_code_2(name, tmp_path):
    done = run_script(name, *BAD_ARGUMENTS[name], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "; expected " in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_script_runs_and_goes_on(tmp_path, pictures):
    arguments = [
        f"--content={pictures}/photo.png",
        f"--style={pictures}/painting.png",
        *(f"--{name}={value}" for name, value in QUICK.items()),
    ]
    first = run_script("evaluate", *arguments, cwd=tmp_path)
    assert (first.returncode, first.stdout) == (0, "output/evaluate/contact_sheet.png\n")
    # Not said where another test has left the program in the cache, or where the machine is fast.
    sometimes = ("Compiling for images", "Still", "At step")
    lines = [line for line in first.stderr.splitlines() if not line.startswith(sometimes)]
    assert lines[0] == "Weights: random orthogonal filters, seed 0, calibrated on the images."
    assert lines[1].startswith("1/1 photo__painting took ")
    assert len(lines) == 2
    second = run_script("evaluate", *arguments, cwd=tmp_path)
    assert second.returncode == 0
    assert "1/1 photo__painting found finished, took " in second.stderr


def test_help_of_a_script_names_its_own_flags(tmp_path):
    done = run_script("compare_models", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for flag in ("variant", "manifest", "pair", "judge", "style_weight", "preset"):
        assert f"\n  --{flag}\n" in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_thin(name):
    assert len((ROOT / "scripts" / f"{name}.py").read_text().splitlines()) < 60
