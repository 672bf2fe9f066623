"""The benchmark on tiny pictures: what it computes, compares, refuses and writes, not how fast."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import device_check, jobs, memory, processes
from benchmarks.benchmark import benchmark
from benchmarks.device_check import check_device
from benchmarks.device_jobs import DEVICE_JOBS
from benchmarks.device_plan import GRADIENT_LIMIT as DEVICE_GRADIENT_LIMIT
from benchmarks.device_plan import Scope
from benchmarks.flops import count_flops, evaluation_flops
from benchmarks.jobs import JOBS
from benchmarks.plan import PARTS, Plan, jax_variants, read_plan, reference_settings, torch_variants
from benchmarks.problem import load_images, make_problem
from benchmarks.processes import Job, run_job, run_rounds
from benchmarks.rows import (
    GRADIENT_TOLERANCE,
    TOLERANCE,
    Group,
    disagreement,
    evaluation_rows,
    loss_rows,
    torch_rows,
)
from neuart_jax import Config, InputError
from neuart_jax.config.own_settings import OWN_SETTINGS
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.stylizer import stylize
from neuart_jax.io.images import save_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "benchmark.py"
SIZE = 32
QUICK = {
    "weights": "random",
    "style_layers": "conv1_1,relu1_1",
    "content_layers": "relu1_1",
    "size": SIZE,
}
FLAGS = {
    "parts": ["evaluation"],
    "sizes": [str(SIZE)],
    "models": ["vgg19"],
    "batches": ["1"],
    "precisions": ["float32"],
    "convolutions": ["auto"],
    "rounds": "2",
    "evaluations": "2",
    "time_limit": "0",
    "torch_python": sys.executable,
    "peak_tflops": "0",
    "presets": ["neural-style"],
    "loss_size": str(SIZE),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, content_image, style_image):
    folder = tmp_path_factory.mktemp("pictures")
    save_image(folder / "photo.png", content_image)
    save_image(folder / "painting.png", style_image)
    return {"content": str(folder / "photo.png"), "style": str(folder / "painting.png")}


@pytest.fixture
def config(pictures):
    return Config().replace(**pictures, **QUICK)


@pytest.fixture(autouse=True)
def no_large_products(monkeypatch):
    measure = jobs.measure_product_rate
    monkeypatch.setattr(jobs, "measure_product_rate", lambda: measure(side=8))


def do(kind, config, **more):
    """Do a job here, since a process of its own would take seconds."""
    task = {"kind": kind, "config": config.to_dict(), **more}
    return JOBS[kind](json.loads(json.dumps(task)))


def do_here(job):
    return json.loads(json.dumps(JOBS[job.task["kind"]](json.loads(json.dumps(job.task)))))


def test_operations_are_counted_by_the_formula():
    def function(image, kernel, matrix):
        strided = jax.lax.conv_general_dilated(
            image, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        # Within a function of its own, as networks have them.
        return strided, jax.jit(lambda m: m.T @ m)(matrix)

    shapes = [(2, 9, 11, 3), (3, 3, 3, 5), (7, 4)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    of_convolution = 2 * 3 * 3 * 3 * 5 * (4 * 5) * 2
    assert count_flops(function, *arrays) == of_convolution + 2 * 4 * 7 * 4


def test_an_evaluation_of_vgg19_takes_twice_its_forward_pass(pictures):
    config = resolve_config(Config().replace(**pictures, size=512))
    # Table 1 E, up to conv4_2: channels in and out, and the side.
    layers = [(3, 64, 512), (64, 64, 512), (64, 128, 256), (128, 128, 256), (128, 256, 128)]
    layers += [(256, 256, 128)] * 3 + [(256, 512, 64), (512, 512, 64)]
    forward = sum(2 * 9 * before * after * side**2 for before, after, side in layers)
    assert evaluation_flops(config) == 2 * forward
    # ... whatever the borders are.
    assert evaluation_flops(config.replace(padding="zero")) == 2 * forward


def test_pairs_of_a_batch_are_independent_and_equal_to_a_single_one(config):
    single, batch = (make_problem(config, batch=count) for count in (1, 3))
    one, three = (
        jax.jit(problem.evaluate)(problem.images, problem.params, problem.targets)
        for problem in (single, batch)
    )
    assert three[1].shape == (3, SIZE, SIZE, 3)
    np.testing.assert_allclose(three[0][:1], one[0], rtol=1e-5)
    np.testing.assert_allclose(three[1][:1], one[1], rtol=1e-3, atol=1e-6)
    assert len(set(np.asarray(three[0]).tolist())) == 3
    assert np.all(np.abs(one[1]).max() > 0)


@pytest.fixture(scope="module")
def reference(pictures, tmp_path_factory):
    config = Config().replace(**pictures, **QUICK)
    npz = str(tmp_path_factory.mktemp("reference") / "reference.npz")
    do("reference", config, npz=npz, batch=2, for_torch=False)
    return config, npz


def test_what_is_timed_is_compared_with_the_reference(reference, tmp_path):
    config, npz = reference
    more = {"batch": 2, "evaluations": 2}
    found = do("evaluation", config, npz=npz, **more)
    assert 0 <= found["loss_error"] < 1e-5 and 0 <= found["gradient_error"] < 1e-5
    assert min(found[f"{n}seconds"] for n in ("", "first_", "compile_")) > 0
    assert found["flops"] == 2 * evaluation_flops(resolve_config(config))
    # At least the images and the targets of both pairs.
    assert found["argument_bytes"] > 2 * 4 * SIZE**2 * (3 + 64)
    arrays = dict(np.load(npz))
    wrong = str(tmp_path / "wrong.npz")
    np.savez(wrong, **(arrays | {"gradient": arrays["gradient"] / 1.01}))
    found = do("evaluation", config, npz=wrong, **more)
    assert found["gradient_error"] == pytest.approx(0.01, rel=1e-2)
    assert found["loss_error"] < 1e-5


def test_steps_and_starts_are_measured_by_runs(config):
    quick = config.replace(optimizer="adam", scales=1, report_every=2, steps=6)
    steps = do("steps", quick)
    assert steps["evaluations_per_step"] == 1 and steps["seconds"] > 0
    start = do("start", quick, spawned=time.time(), import_seconds=0.5)
    assert start["import_seconds"] == 0.5
    assert 0 < start["before_seconds"] < start["first_step_seconds"]
    assert 0 <= start["compile_seconds"] < start["first_step_seconds"]


def test_losses_are_followed_as_optimized_and_as_a_file_has_them(config):
    quick = config.replace(optimizer="lbfgs", scales=1, report_every=1, steps=4)
    figures = do("loss", quick)
    _, evaluations, losses, clipped = map(list, zip(*figures["path"], strict=True))
    assert figures["steps"] == 4 and figures["evaluations"] == evaluations[-1] >= 5
    assert losses == sorted(losses, reverse=True) and losses[-1] == figures["loss"] < losses[0]
    # The start is in range, so that clipping changes nothing.
    assert clipped[0] == pytest.approx(losses[0], rel=1e-5)
    # The last step is the best one, and so the result.
    assert figures["clipped_loss"] == pytest.approx(clipped[-1], rel=1e-4)
    content, style = load_images(quick)
    assert stylize(content, style, quick).losses["total"] == figures["clipped_loss"]


def test_the_peak_of_memory_is_of_this_process():
    before = memory.peak_resident_bytes()
    if before is None:
        pytest.skip("the system doesn't say")
    np.ones(before // 8 + 2**22)
    assert memory.peak_resident_bytes() > before


def group(**runs):
    figures = {
        "jax float32": [{"seconds": s, "flops": 4e9, "product_gflops": 8.0} for s in (1, 2, 4)],
        "torch float32 NCHW": [
            {"seconds": s, "loss_error": 1e-6, "gradient_error": 9e-5} for s in (4, 4, 5)
        ],
    }
    runs = figures | {name.replace("_", " "): rounds for name, rounds in runs.items()}
    return Group("vgg19", 10, 2, runs, {"loss_error": 1e-9, "gradient_error": 1e-9})


def test_ratios_are_medians_over_rounds():
    # 1/4, 2/4 and 4/5, not 2/4 of the medians alone.
    (row,) = torch_rows(group())
    assert row["/ torch float32 NCHW"] == 0.5
    ours, theirs = evaluation_rows(group(), peak_tflops=0.008)
    assert (ours["seconds"], ours["ratio"], theirs["ratio"]) == (2, 1, 2)
    assert ours["ns_per_pixel"] == 2e9 / 200
    assert (ours["GFLOP/s"], ours["of_products"], ours["of_peak"]) == (2, 0.25, 0.25)


@pytest.mark.parametrize(
    "check",
    [
        {"loss_error": 1e-9, "gradient_error": 2e-6},
        {"loss_error": 2e-6, "gradient_error": 1e-9},
        {"loss_error": float("nan"), "gradient_error": 1e-9},
        {"error": "no memory"},
    ],
)
def test_what_differs_in_float64_has_no_ratios(check):
    wrong = group()._replace(check=check)
    assert "so there are no ratios" in disagreement(wrong)
    assert torch_rows(wrong) == []
    assert [row["ratio"] for row in evaluation_rows(wrong)] == [1, None]


@pytest.mark.parametrize("error", [1.1e-2, None, float("nan")])
def test_another_objective_has_no_ratios(error):
    wrong = group(
        **{"torch_float32_x": [{"seconds": 1, "loss_error": 0.0, "gradient_error": error}]}
    )
    assert disagreement(group()) == ""
    assert "torch float32 x computes something else" in disagreement(wrong)
    assert torch_rows(wrong) == []
    assert [row["ratio"] for row in evaluation_rows(wrong)] == [1, None, None]


def test_what_failed_has_a_row_that_says_why():
    (row, *_, failed) = evaluation_rows(group(**{"jax_x": [{"error": "no memory"}]}))
    assert failed["error"] == "no memory" and failed["seconds"] is failed["ratio"] is None
    assert "error" not in row


def test_rounds_alternate_and_failures_are_not_tried_again():
    calls = []

    def run(job):
        calls.append(job.task["name"])
        return {"error": "no"} if job.task["name"] == "b" else {"seconds": 1}

    found = run_rounds({n: Job({"name": n}) for n in "abc"}, rounds=2, run=run)
    assert calls == ["a", "b", "c", "a", "c"]
    assert found == {"a": [{"seconds": 1}] * 2, "b": [{"error": "no"}], "c": [{"seconds": 1}] * 2}


def test_a_job_runs_in_a_process_of_its_own(config, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    task = {"kind": "describe", "config": config.to_dict()}
    facts = run_job(Job(task))
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["environment"]["OMP_NUM_THREADS"] == "1"


def test_a_process_that_fails_is_told(tmp_path):
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    stub.chmod(0o755)
    assert run_job(Job({}, interpreter=str(stub))) == {
        "error": "the process ended with 3: out of luck"
    }
    stub.write_text("#!/bin/sh\nkill -9 $$\n")
    assert "killed by signal 9" in run_job(Job({}, interpreter=str(stub)))["error"]
    stub.write_text("#!/bin/sh\nexec sleep 60\n")
    assert run_job(Job({}, interpreter=str(stub), time_limit=0.2)) == {
        "error": "the process was ended after 0.2 s"
    }
    with pytest.raises(InputError, match="can't be run .*check --torch_python"):
        run_job(Job({}, interpreter=str(tmp_path / "nothing")))


def test_bad_input_of_a_process_is_bad_input_here(tmp_path):
    stub = tmp_path / "python"
    answer = {"bad_input": {"came": "x", "expected": "y", "remedy": "z"}}
    stub.write_text(
        f"#!{sys.executable}\nimport json, sys\njob = json.load(sys.stdin)\n"
        f"open(job['result'], 'w').write({json.dumps(answer)!r})\n"
    )
    stub.chmod(0o755)
    with pytest.raises(InputError, match="x; expected y; z."):
        run_job(Job({}, interpreter=str(stub)))


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("parts", ["evalution"], "--parts has 'evalution'; .* did you mean 'evaluation'"),
        ("parts", [], "--parts is empty"),
        ("sizes", ["64", "x"], "--sizes=x; expected a number"),
        ("sizes", ["0"], "--sizes=0; expected whole numbers of at least 1"),
        ("sizes", ["2.5"], "--sizes=2.5; expected whole numbers"),
        ("sizes", ["1"], "the smallest of --sizes is 1x1 pixels"),
        ("batches", [], "--batches=; expected whole numbers"),
        ("rounds", "no", "--rounds=no; expected a number"),
        ("peak_tflops", "-1", "--peak_tflops=-1; expected a number of at least 0"),
        ("models", ["vgg91"], "model 'vgg91' is not known"),
        ("precisions", ["float8"], "--precisions has 'float8'"),
        ("convolutions", ["slow"], "--convolutions has 'slow'"),
        ("presets", ["neural"], "--preset=neural is not known"),
    ],
)
def test_bad_flags_are_one_sentence(config, flag, value, sentence):
    with pytest.raises(InputError, match=sentence):
        read_plan(config, FLAGS | {flag: value})


def test_torch_is_not_asked_for_what_it_has_not(config):
    flags = FLAGS | {"parts": ["torch"]}
    assert read_plan(config, flags).parts == ("torch",)
    for setting in ({"style_loss": "wasserstein"}, {"content_loss": "gatys"}, {"pixel_scale": 255}):
        read_plan(config.replace(**setting), FLAGS)
        with pytest.raises(InputError, match="is not written in torch.*leave torch out"):
            read_plan(config.replace(**setting), flags)


def test_variants_are_settings(config):
    plan = read_plan(config, FLAGS | {"precisions": ["float32", "bfloat16"]})
    for settings in jax_variants(plan).values():
        config.replace(**settings)
    assert next(iter(jax_variants(plan))) == "jax float32"
    assert "tensorfloat32" not in "".join(torch_variants(plan, has_gpu=False))
    assert len(torch_variants(plan, has_gpu=False)) == 6


def test_a_benchmark_writes_tables_figures_and_a_plot(config, tmp_path):
    flags = FLAGS | {"parts": ["evaluation", "torch"], "torch_python": "another"}
    plan = read_plan(config, flags)
    asked = []

    def run(job):
        asked.append(job.task["kind"])
        return {"error": "ImportError: torch"} if job.interpreter else do_here(job)

    outcome = benchmark(config, plan, tmp_path, run=run)
    assert asked[:2] == ["describe"] * 2 and asked.count("network") == 1
    assert asked.count("evaluation") == 2
    (problem,) = outcome.problems
    assert "torch was left out: another can't import it (ImportError: torch)" in problem
    document = json.loads((tmp_path / "benchmark.json").read_text())
    (row,) = document["tables"]["evaluation"]
    assert row["gradient_error"] < 1e-5 and row["products_GFLOP/s"] > 0
    assert len(document["rounds"][0]["runs"]["jax float32"]) == 2
    assert document["machine"]["versions"]["jax"] == jax.__version__
    text = (tmp_path / "benchmark.md").read_text()
    assert text == outcome.text and problem in text and "| vgg19 |" in text
    assert (tmp_path / "benchmark.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_too_large_for_a_reference_is_timed_nevertheless(config, tmp_path):
    plan = read_plan(config, FLAGS)

    def run(job):
        failed = job.task["kind"] == "reference"
        return {"error": "Out of memory"} if failed else do_here(job)

    outcome = benchmark(config, plan, tmp_path, run=run)
    (problem,) = outcome.problems
    assert "Out of memory" in problem and "errors are left out" in problem
    (row,) = outcome.tables["evaluation"]
    assert row["seconds"] > 0 and row["gradient_error"] is None


def test_whole_commands_are_compiled_once_and_then_cached(config, tmp_path):
    plan = read_plan(config, FLAGS | {"parts": ["picture"], "sizes": ["32", "48"]})
    folders = []

    def run(job):
        if job.task["kind"] != "picture":
            return do_here(job)
        folders.append(job.task["caches"])
        settings = job.task["config"]
        assert settings["images"]["size"] in (32, 48)
        assert settings["network"]["weights"].endswith(".safetensors")
        cached = folders.count(folders[-1]) > 1
        phases = {"steps": 5.0, "programs": 1.0} if cached else {"steps": 5.5, "programs": 9.0}
        return {"seconds": sum(phases.values()), "evaluations": 72, "phases": phases}

    outcome = benchmark(config, plan, tmp_path, run=run)
    assert len(folders) == 8 and len(set(folders)) == 4  # Two sizes, two rounds.
    rows = outcome.tables["picture"]
    assert [(row["size"], row["programs"], row["seconds"]) for row in rows] == [
        *((32, "compiled", 14.5), (32, "cached", 6.0)),
        *((48, "compiled", 14.5), (48, "cached", 6.0)),
    ]
    assert rows[1]["programs_s"] == 1.0 and rows[1]["evaluations"] == 72
    assert "| vgg19 |" in outcome.text


@pytest.mark.slow
def test_a_whole_command_is_timed_in_its_phases(config, tmp_path):
    do("network", config, weights=str(tmp_path / "network.safetensors"))
    config = config.replace(weights=str(tmp_path / "network.safetensors"), steps=3)
    figures = do("picture", config, caches=str(tmp_path / "caches"))
    assert {"input", "weights", "programs", "targets", "steps", "output"} <= set(figures["phases"])
    assert sum(figures["phases"].values()) == pytest.approx(figures["seconds"], rel=0.3)
    assert figures["evaluations"] >= 5
    with pytest.raises(RuntimeError, match="exit code 2: .*no.png"):
        do("picture", config.replace(content="no.png"), caches=str(tmp_path / "caches"))


def test_a_benchmark_that_is_cut_leaves_what_it_measured(config, tmp_path):
    plan = read_plan(config, FLAGS | {"sizes": ["32", "48"]})

    def run(job):
        if job.task["kind"] == "evaluation" and job.task["config"]["images"]["size"] == 48:
            raise KeyboardInterrupt
        return do_here(job)

    with pytest.raises(KeyboardInterrupt):
        benchmark(config, plan, tmp_path, run=run)
    (row,) = json.loads((tmp_path / "benchmark.json").read_text())["tables"]["evaluation"]
    assert row["size"] == 32 and row["seconds"] > 0
    assert "| vgg19 | 32 |" in (tmp_path / "benchmark.md").read_text()


def test_the_same_loss_is_reached_by_both_optimizers(config, tmp_path):
    plan = read_plan(config, FLAGS | {"parts": ["time_to_loss"]})
    asked = []

    def run(job):
        asked.append(job.task)
        if job.task["kind"] != "loss":
            return do_here(job)
        path = [[0.1, 1, 9.0, 9.5], [0.5, 20, 0.508, 0.62], [1.0, 100, 0.5, 0.6]]
        if not asked[-1]["config"]["optimizer"]["precondition"]:
            path = [[2 * seconds, 4 * count, *rest] for seconds, count, *rest in path]
        seconds, evaluations, loss, clipped_loss = path[-1]
        figures = {"seconds": seconds, "evaluations": evaluations, "path": path}
        return {**figures, "loss": loss, "clipped_loss": clipped_loss}

    rows = benchmark(config, plan, tmp_path, run=run).tables["time to loss"]
    margins = ["within 5%", "within 2%", "within 1%", "within 0%"]
    assert [row["of"] for row in rows] == 4 * ["image"] + 4 * ["file"]
    assert [row["to"] for row in rows] == 2 * margins
    assert [row["our_seconds"] for row in rows] == [0.5, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
    assert [row["their_seconds"] for row in rows[:4]] == [1.0, 1.0, 2.0, 2.0]
    assert rows[-1]["our_seconds / all of theirs"] == 0.5
    assert rows[0]["our_evaluations / all of theirs"] == 20 / 400
    theirs, ours = (task["config"] for task in asked if task["kind"] == "loss")
    assert theirs["losses"] == ours["losses"] and theirs["network"] == ours["network"]
    assert theirs["optimizer"]["optimizer"] == "lbfgs_fixed"
    assert ours["optimizer"] == Config().replace(history=100).to_dict()["optimizer"]
    assert (theirs["run"]["scales"], ours["run"]["scales"]) == (1, 1)
    assert (theirs["run"]["steps"], ours["run"]["steps"]) == (1000, 250)
    assert theirs["images"]["size"] == SIZE


def test_a_loss_that_is_never_reached_is_an_empty_cell():
    end = {"loss": 1.0, "clipped_loss": 2.0}
    theirs = {"seconds": 10.0, "evaluations": 7, "path": [[10.0, 7, 1.0, 2.0]], **end}
    ours = {"seconds": 4.0, "evaluations": 9, "path": [[4.0, 9, 1.03, 1.9]]}
    near, *far = loss_rows("recipe", 64, theirs, ours)[:4]
    assert near["our_seconds / all of theirs"] == 0.4 and near["our_evaluations"] == 9
    assert {row["our_seconds"] for row in far} == {None}
    assert {row["our_seconds"] for row in loss_rows("recipe", 64, theirs, ours)[4:]} == {4.0}
    assert "memory" in loss_rows("recipe", 64, theirs, {"error": "no memory"})[-1]["error"]


def test_torchs_script_imports_nothing_of_this_project():
    for name in ("torch_objective.py", "memory.py"):
        tree = ast.parse(Path(processes.__file__).with_name(name).read_text())
        imported = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        roots = {module.partition(".")[0] for module in imported}
        assert roots <= {*sys.stdlib_module_names, "numpy", "torch"}


def test_torch_finds_its_arrays_under_their_names(pictures, tmp_path):
    config = Config().replace(**{**pictures, **QUICK, **reference_settings()})
    npz = str(tmp_path / "reference.npz")
    told = do("reference", config, npz=npz, batch=3, for_torch=True)
    arrays = dict(np.load(npz))
    assert list(arrays["pairs"]) == [0, 2] and len(arrays["images"]) == 3
    losses = resolve_config(config).losses
    wanted = {"images", "pairs", "loss", "gradient", "mean", "std"}
    wanted |= {f"targets/weights/{term}" for term in ("content", "style", "tv")}
    for term, layers in (("content", losses.content_layers), ("style", losses.style_layers)):
        for kind in ("values", "temperatures", "layer_weights"):
            wanted |= {f"targets/{kind}/{term}/{layer}" for layer, _ in layers}
        assert {layer for layer, _ in layers} <= set(told["layers"])
    convolutions = {name for name in arrays if name.startswith("variables/")}
    assert set(arrays) - convolutions == wanted
    assert {"variables/params/conv1_1/kernel", "variables/params/conv1_1/bias"} <= convolutions
    assert arrays["targets/temperatures/style/relu1_1"].shape == (3,)
    assert arrays["targets/values/style/relu1_1"].shape == (3, 64, 64)


NETWORKS = [
    (model, padding, pooling)
    for model in ("vgg19", "resnet50")
    for padding, pooling in (("reflect", "average"), ("zero", "max"))
]


@pytest.mark.parametrize(("model", "padding", "pooling"), NETWORKS)
def test_torch_computes_the_same(pictures, tmp_path, model, padding, pooling):
    pytest.importorskip("torch")
    from benchmarks import torch_objective

    # Both halvings of the resolution, no more: the rest is compiled in vain.
    layers = {
        "vgg19": {"content_layers": "relu2_2", "style_layers": "relu1_1,conv3_1"},
        "resnet50": {"content_layers": "conv2_block3_out", "style_layers": "conv3_block2_out"},
    }
    config = Config().replace(
        **{**pictures, **QUICK, **layers[model], **reference_settings()},
        **{"model": model, "padding": padding, "pooling": pooling},
    )
    npz = str(tmp_path / "reference.npz")
    told = do("reference", config, npz=npz, batch=3, for_torch=True)
    assert told["smoothing"] == OWN_SETTINGS[model]["random"]["smoothing"]
    job = {
        **{"npz": npz, "model": model, "pooling": pooling, "padding": padding, **told},
        **{"device": "cpu", "precision": "float32", "compile": False, "evaluations": 0},
    }
    for channels_last in (False, True):
        found = torch_objective.measure(job | {"channels_last": channels_last})
        assert found["loss_error"] < TOLERANCE
        assert found["gradient_error"] < GRADIENT_TOLERANCE
    exact = {**job, "channels_last": False, "precision": "float64"}
    found = torch_objective.measure(exact)
    assert max(found["loss_error"], found["gradient_error"]) < 1e-9
    low = torch_objective.measure(job | {"channels_last": True, "precision": "bfloat16"})
    assert 1e-4 < low["gradient_error"] < 0.5
    arrays = dict(np.load(npz))
    np.savez(npz, **(arrays | {"targets/weights/style": 1.01 * arrays["targets/weights/style"]}))
    wrong = torch_objective.measure(exact)
    assert disagreement(Group(model, SIZE, 3, {}, wrong))
    assert not disagreement(Group(model, SIZE, 3, {}, found))


def run_script(*arguments, cwd):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_bad_input_of_the_script_is_one_sentence_and_exit_code_2(tmp_path):
    done = run_script("--parts=speed", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "; expected " in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_script_has_a_flag_for_every_part_of_a_plan(tmp_path):
    done = run_script("--help", cwd=tmp_path)
    for flag in Plan._fields:
        assert f"\n  --{flag}\n" in done.stdout
    assert ", ".join(PARTS) in " ".join(done.stdout.split())
    assert len(SCRIPT.read_text().splitlines()) < 70


TINY = Scope(
    models=("vgg16",),
    agreement_size=SIZE,
    sizes=(SIZE,),
    batches=(1, 2),
    evaluations=2,
    product_side=8,
    run_sizes=(),
    torch_size=SIZE,
    tests=(),
)


def test_products_are_timed_in_every_precision(config):
    rates = do_on_device("products", config, side=8)
    assert list(rates) == ["float32", "tensorfloat32", "bfloat16"]
    assert all(rate > 0 for rate in rates.values())


def test_each_precision_is_as_near_to_float64_as_its_name_says(config, tmp_path):
    npz = str(tmp_path / "reference.npz")
    plain = config.replace(model="vgg16", **reference_settings())
    do("reference", plain, npz=npz, batch=2, for_torch=False)
    figures = do_on_device("agreement", plain, npz=npz, batch=2, precisions=["float32", "bfloat16"])
    exact, half = figures["rows"]
    assert exact["loss_error"] < 1e-5 and exact["gradient_error"] < 1e-3
    # bfloat16 has 8 bits: worse than float32 by orders, and still the same objective.
    assert (
        exact["gradient_error"] * 100 < half["gradient_error"] < DEVICE_GRADIENT_LIMIT["bfloat16"]
    )
    assert exact["batch_loss_error"] < 1e-5 and half["batch_loss_error"] < 1e-2


def test_cells_that_fail_or_come_late_are_told_in_their_rows(config):
    cells = [{"size": SIZE, "batch": 1, "precision": name} for name in ("float32", "float9")]
    figures = do_on_device("grid", config, cells=cells, evaluations=2, deadline=time.time() + 1e3)
    timed, failed = figures["rows"]
    assert timed["seconds"] > 0 and timed["predicted_bytes"] > 0 and timed["tflops"] > 0
    assert failed["precision"] == "float9" and "InputError" in failed["error"]
    figures = do_on_device("grid", config, cells=cells, evaluations=2, deadline=time.time() - 1)
    assert [row["error"] for row in figures["rows"]] == ["left out, there was no time"] * 2


def test_a_program_is_lowered_for_a_device_that_is_not_there(config):
    settings = {"model": "vgg16", "convolution": "direct"}
    full, half = (
        do_on_device(
            "program", config.replace(precision=name, **settings), batch=1, platform="cuda"
        )
        for name in ("float32", "bfloat16")
    )
    assert full["convolutions"] == full["convolutions_float32"] > 0
    assert half["convolutions"] == full["convolutions"] and half["convolutions_float32"] == 0
    assert full["host_calls"] == half["host_calls"] == 0


def answers(**changes):
    """Return a `run` that answers as a device would that is right, but for the changes."""
    agreement = {"loss_error": 0.0, "gradient_error": 0.0, "batch_loss_error": 0.0}
    timed = {"seconds": 0.5, "tflops": 1.0, "bytes": 100, "predicted_bytes": 110}
    figures = {
        "describe": {"device": "x", "versions": {}, "has_gpu": False},
        "products": dict.fromkeys(DEVICE_GRADIENT_LIMIT, 2.0),
        "network": {},
        "reference": {},
        "agreement": {"rows": [{"precision": n, **agreement} for n in DEVICE_GRADIENT_LIMIT]},
        "same_pixels": {"resumed_difference": 0.0, "batch_difference": 0.0},
        "steps": {"seconds": 0.5, "evaluations_per_step": 1.1},
        "measure": {"seconds": 1.0, "gradient_error": 1e-3},
        "program": dict.fromkeys(
            ("convolutions", "products", "transposes", "convolutions_float32", "host_calls"), 0
        ),
    }

    def run(job):
        kind = job.task["kind"]
        if kind == "grid":
            return {"rows": [cell | timed for cell in job.task["cells"]]}
        return (figures | changes)[kind]

    return run


def verdicts_of(outcome):
    return {(row["part"], row["what"]): row["verdict"] for row in outcome.rows}


def test_a_device_that_is_right_has_nothing_wrong_in_its_table(config, tmp_path):
    outcome = check_device(config, TINY, tmp_path, seconds=1e3, run=answers())
    verdicts = verdicts_of(outcome)
    assert outcome.wrong == 0 and "left out" not in verdicts.values()
    assert verdicts["agreement, vgg16", "float32: loss against float64"] == "ok"
    values = {(row["part"], row["what"]): row["value"] for row in outcome.rows}
    cell = f"{SIZE}², 2 pairs, bfloat16"
    assert values["evaluations, vgg16", f"{cell}: of the product rate"] == 0.5
    assert values["evaluations, vgg16", f"{cell}: prediction of it off by"] == pytest.approx(0.1)
    assert values["torch", "bfloat16, compiled: its time over ours"] == 2
    document = json.loads((tmp_path / "device.json").read_text())
    assert document["wrong"] == 0 and document["rows"] == list(outcome.rows)
    assert (tmp_path / "device.md").read_text() == outcome.text


def test_what_is_off_is_wrong_and_does_not_stop_the_rest(config, tmp_path):
    # A number that is none is no small number.
    rows = [{"precision": "float32", "gradient_error": 0.02, "batch_loss_error": 0.0}]
    changes = {
        "agreement": {"rows": [row | {"loss_error": float("nan")} for row in rows]},
        "same_pixels": {"error": "Out of memory"},
        "program": answers()(Job({"kind": "program"})) | {"convolutions_float32": 3},
    }
    outcome = check_device(config, TINY, tmp_path, seconds=1e3, run=answers(**changes))
    verdicts = verdicts_of(outcome)
    assert verdicts["agreement, vgg16", "float32: loss against float64"] == "WRONG"
    assert verdicts["agreement, vgg16", "float32: gradient against float64"] == "WRONG"
    assert verdicts["the same pixels", "not measured"] == "WRONG"
    assert verdicts["the program", "bfloat16: convolutions in float32"] == "WRONG"
    assert verdicts["the program", "tensorfloat32: convolutions in float32"] == ""
    assert outcome.wrong == 4


def test_what_has_no_time_or_no_torch_is_left_out_and_nothing_is_wrong(config, tmp_path):
    def run(job):
        return {"error": "ImportError: torch"} if job.interpreter else answers()(job)

    outcome = check_device(config, TINY, tmp_path, seconds=1e3, run=run)
    assert verdicts_of(outcome)["torch", "not measured"] == "left out" and outcome.wrong == 0
    late = check_device(config, TINY, tmp_path, seconds=0, run=run)
    assert {row["verdict"] for row in late.rows} == {"left out"} and late.wrong == 0


def test_what_the_end_of_the_time_cuts_short_is_not_wrong(config, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(device_check.time, "time", lambda: now[0])

    def run(job):
        if job.task["kind"] == "products":
            now[0] = 20.0
            return {"error": "the process was ended after 10 s"}
        return answers()(job)

    outcome = check_device(config, TINY, tmp_path, seconds=10, run=run)
    assert verdicts_of(outcome)["products", "not measured"] == "left out"
    assert outcome.wrong == 0


def test_a_run_that_was_cut_has_the_same_pixels(config):
    small = {"model": "vgg16", "steps": 4, "report_every": 2, "scales": 1}
    figures = do_on_device("same_pixels", config.replace(**small))
    assert figures["resumed_difference"] == 0 and figures["batch_difference"] <= 1 / 255


def do_on_device(kind, config, **more):
    task = {"kind": kind, "config": config.to_dict(), **more}
    return json.loads(json.dumps(DEVICE_JOBS[kind](json.loads(json.dumps(task)))))
