"""Jobs of a measured process: from a description to figures.

A job is a JSON object: "kind", a key of `JOBS`; "config", a complete configuration; and further
arguments of that kind's function. Its figures are JSON as well.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.memory import peak_resident_bytes, resident_bytes
from benchmarks.problem import Problem, load_images, make_problem, write_network
from neuart_jax.config.config import Config
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.plan import make_plan
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.result import Progress
from neuart_jax.engine.stylizer import stylize
from neuart_jax.inputs.pair import make_pair
from neuart_jax.io.files import dump_json
from neuart_jax.models.params.canonical import flatten
from neuart_jax.objective.build import run_layers
from neuart_jax.objective.term import Targets
from neuart_jax.runs.record import Record

Job = dict[str, Any]
Figures = dict[str, Any]

# Step size that changes the pixels only a little, so that no evaluation can be optimized away.
_STEP = 1e-6
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "XLA_FLAGS", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")


def describe_machine(job: Job) -> Figures:
    """Describe the machine, its threads and the versions of packages."""
    record = Record.of_this_run(config_of(job), weights={}, inputs={}, predicted_bytes=0)
    return {
        "machine": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "device": record.device,
        "has_gpu": jax.devices()[0].platform == "gpu",
        "versions": dict(record.versions),
        "environment": {name: os.environ[name] for name in _THREAD_SETTINGS if name in os.environ},
    }


def prepare_network(job: Job) -> Figures:
    """Write the weights of a configuration to the file "weights"."""
    write_network(config_of(job), Path(job["weights"]))
    return {}


def write_reference(job: Job) -> Figures:
    """Evaluate once in float64, and write the reference for all variants to "npz".

    In float32, a ReLU whose input is close to zero may be on in one program and off in another,
    which changes the gradient by about 1e-3, so float32 can't tell whether two programs agree.

    The file has "images", one for each pair; "pairs", the indices of the pairs evaluated here, the
    first and the last; and their "loss" and "gradient". With "for_torch" also "mean", "std",
    "variables/..." and "targets/...".
    """
    problem = make_problem(config_of(job), batch=job["batch"], dtype=jnp.float64)
    params, pairs = problem.params, sorted({0, job["batch"] - 1})
    with jax.enable_x64(True):

        @jax.jit
        def evaluate(images: Array, params: Any, targets: Any) -> tuple[Array, Array]:
            # Sequentially, as float64 takes twice the memory and might not fit otherwise.
            return lax.map(
                lambda pair: problem.evaluate_pair(pair[0], params, pair[1]), (images, targets)
            )

        checked = jax.tree.map(
            lambda array: array[jnp.array(pairs)], (problem.images, problem.targets)
        )
        loss, gradient = evaluate(checked[0], params, checked[1])
    arrays = {"images": problem.images, "pairs": pairs, "loss": loss, "gradient": gradient}
    if job["for_torch"]:
        arrays |= {"mean": params.mean, "std": params.std}
        arrays |= {f"variables/{n}": a for n, a in flatten(params.variables).items()}
        arrays |= _name_targets(problem.targets)
    with open(job["npz"], "wb") as file:
        named: Any = {name: np.asarray(array) for name, array in arrays.items()}
        np.savez(file, **named)
    return {
        "layers": list(run_layers(problem.config.losses)),
        "smoothing": problem.config.losses.smoothing,
        "stride_on": getattr(problem.module, "stride_on", ""),
    }


def _name_targets(targets: Targets) -> dict[str, Array]:
    """Return the targets of `torch_objective` by name: coefficients, and three arrays per layer."""
    named = {f"targets/weights/{term}": weight for term, weight in targets.weights.items()}
    for term in ("content", "style"):
        target = targets.values[term]
        for layer, value in target.values.items():
            # Images without regions have one statistic per layer.
            statistic = value if term == "content" else value[0]
            named |= {
                f"targets/values/{term}/{layer}": statistic,
                f"targets/temperatures/{term}/{layer}": target.temperatures[layer],
                f"targets/layer_weights/{term}/{layer}": target.layer_weights[layer],
            }
    return named


def measure_evaluation(job: Job) -> Figures:
    """Time "evaluations" of the objective with its gradient, for "batch" pairs at once.

    The evaluations run as in a real run: in one compiled chunk, in which each image depends on the
    last gradient, with one synchronization at the end. The first evaluation is compared with the
    reference in "npz", unless that is empty.
    """
    product_rate = measure_product_rate()
    problem = make_problem(config_of(job), batch=job["batch"])
    chunk = compile_evaluations(problem, job["evaluations"])
    first_seconds, loss, gradient = chunk.run(1)
    seconds, _, _ = chunk.run(chunk.most)
    return {
        "seconds": seconds / chunk.most,
        "first_seconds": first_seconds,
        "compile_seconds": chunk.compile_seconds,
        "product_gflops": product_rate,
        "flops": problem.flops,
        **find_errors(job["npz"], loss=loss, gradient=gradient),
        **memory_of(chunk.compiled),
    }


class Evaluations(NamedTuple):
    """Evaluations in one compiled chunk, as in a run.

    Attributes:
      problem: the problem to evaluate.
      most: largest number of evaluations in a call.
      compiled: (images, params, targets, number) -> the last images, losses and gradients.
      compile_seconds: time for tracing, lowering and compiling.
    """

    problem: Problem
    most: int
    compiled: Any
    compile_seconds: float

    def run(self, count: int) -> tuple[float, Array, Array]:
        """Make `count` evaluations; return their total time and the last losses and gradients."""
        problem = self.problem
        arguments = problem.images, problem.params, problem.targets, jnp.int32(count)
        jax.block_until_ready(arguments)
        began = time.perf_counter()
        _, loss, gradient = jax.block_until_ready(self.compiled(*arguments))
        return time.perf_counter() - began, loss, gradient


def compile_evaluations(problem: Problem, count: int) -> Evaluations:
    """Compile a chunk of evaluations, each of an image that depends on the last gradient.

    Args:
      problem: the problem to evaluate.
      count: largest number of evaluations in a call.
    """

    def chunk(images: Array, params: Any, targets: Any, until: Array) -> Any:
        def evaluate(carry: Any) -> Any:
            images, _, gradient = carry
            images = images - _STEP * gradient
            return images, *problem.evaluate(images, params, targets)

        def body(carry: Any, index: Array) -> tuple[Any, None]:
            return lax.cond(index < until, evaluate, lambda same: same, carry), None

        losses = jnp.zeros(images.shape[0])
        carry = images, losses, jnp.zeros_like(images)
        return lax.scan(body, carry, jnp.arange(count))[0]

    arguments = problem.images, problem.params, problem.targets
    began = time.perf_counter()
    compiled = compile_fn(chunk).lower(*arguments, jnp.int32(0)).compile()
    return Evaluations(problem, count, compiled, time.perf_counter() - began)


def find_errors(npz: str, **found: Array) -> dict[str, float]:
    """Compute the relative errors of all pairs' arrays against the reference, in the 2-norm.

    Args:
      npz: file of the reference; empty for no comparison.
      found: "loss" and "gradient".
    """
    errors: dict[str, float] = {}
    if not npz:
        return errors
    with np.load(npz) as arrays:
        for name, array in found.items():
            reference = arrays[name].astype(np.float64)
            error = np.linalg.norm(np.asarray(array, np.float64)[arrays["pairs"]] - reference)
            errors[f"{name}_error"] = float(error / np.linalg.norm(reference))
    return errors


def measure_product_rate(*, side: int = 2048) -> float:
    """Return the rate of float32 matrix products in GFLOP/s, the machine's current speed."""
    matrix = jnp.full((side, side), 1 / side)
    multiply = jax.jit(lambda matrix: matrix @ matrix)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        jax.block_until_ready(multiply(matrix))
        seconds.append(time.perf_counter() - began)
    # Without the first, which includes compilation.
    return 2 * side**3 / statistics.median(seconds[1:]) / 1e9


def measure_steps(job: Job) -> Figures:
    """Time the steps of the configuration's optimizer, as in a run.

    The first chunk is left out, as it includes compilation and may have a longer line search.
    Memory is the growth of the process since the start, and the prediction for the run.
    """
    config = config_of(job)
    product_rate = measure_product_rate()
    before = resident_bytes() or 0
    reports: list[tuple[float, Progress]] = []

    def remember(progress: Progress) -> None:
        reports.append((time.perf_counter(), progress))

    content, style = load_images(config)
    stylize(content, style, config, callback=remember)
    (began, first), (ended, last) = reports[1], reports[-1]
    steps = last.num_steps - first.num_steps
    evaluations = last.num_evaluations - first.num_evaluations
    peak = peak_resident_bytes()
    plan = make_plan(make_pair(resolve_config(config), content, style))
    assert plan.prediction is not None
    return {
        "seconds": (ended - began) / steps,
        "evaluations_per_step": evaluations / steps,
        "product_gflops": product_rate,
        "peak_bytes": peak,
        "run_bytes": peak and peak - before,
        "predicted_bytes": plan.prediction.total,
    }


def measure_start(job: Job) -> Figures:
    """Time a process from its start, at "spawned" (Unix time), to its first step."""
    compiled: list[float] = []

    def remember(event: str, duration_secs: float, **_: Any) -> None:
        # Tracing, lowering, and compiling or loading from the cache.
        if "/compile/" in event:
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(remember)
    config = config_of(job)
    content, style = load_images(config)
    began = time.time()
    first_steps: list[float] = []

    def stop_at_once(progress: Progress) -> bool:
        if progress.num_steps:
            since = progress.seconds - progress.seconds_to_first_step
            first_steps.append(time.time() - since)
        return bool(first_steps)

    stylize(content, style, config, callback=stop_at_once)
    return {
        "import_seconds": job["import_seconds"],
        "before_seconds": began - job["spawned"],
        "compile_seconds": sum(compiled),
        "first_step_seconds": first_steps[0] - job["spawned"],
    }


def paint_from_the_shell(job: Job) -> Figures:
    """Time a whole command, from its start to its end, with its seconds by phase.

    Its caches are in "caches"; steps at all sizes are one phase.
    """
    with tempfile.TemporaryDirectory() as scratch:
        settings, where = Path(scratch, "config.json"), Path(scratch, "profile")
        settings.write_text(dump_json(job["config"]))
        command = [sys.executable, "-m", "neuart_jax.main", f"--config={settings}", "--offline"]
        command += [f"--output={Path(scratch, 'painted.png')}", f"--profile={where}"]
        environment = {
            name: text for name, text in os.environ.items() if "COMPILATION_CACHE" not in name
        }
        began = time.time()
        done = subprocess.run(
            command,
            env=environment | {"XDG_CACHE_HOME": job["caches"]},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.time() - began
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no word"]
            raise RuntimeError(f"exit code {done.returncode}: {said[-1]}")
        profile = json.loads((where / "profile.json").read_text())
    phases: dict[str, float] = {}
    for name, spent in profile["seconds"].items():
        name = "steps" if name.startswith("steps ") else name
        phases[name] = phases.get(name, 0.0) + spent
    return {
        "seconds": seconds,
        "evaluations": sum(profile["evaluations"].values()),
        "phases": phases,
    }


def follow_loss(job: Job) -> Figures:
    """Run a configuration, and record how the loss at full size falls.

    "path" has, after each chunk at full size, seconds, evaluations, the smallest loss so far, and
    the loss of the image clipped to [0, 1], as in a file: optimizers that don't clip reach losses
    that no file can represent. "clipped_loss" is that of the result.
    """
    config = config_of(job)
    content, style = load_images(config)
    seen: list[tuple[float, Progress, np.ndarray]] = []
    began = time.perf_counter()

    def watch(progress: Progress) -> None:
        if progress.size == content.shape[:2]:
            seconds = time.perf_counter() - began
            seen.append((seconds, progress, np.clip(progress.image(), 0, 1)))

    result = stylize(content, style, config, callback=watch)
    problem = make_problem(config, batch=1)
    evaluate = compile_fn(problem.evaluate)
    path = []
    for seconds, progress, image in seen:
        [clipped], _ = evaluate(jnp.asarray(image)[None], problem.params, problem.targets)
        path.append([seconds, progress.num_evaluations, progress.best_loss, float(clipped)])
    seconds, evaluations, loss, _ = path[-1]
    return {
        "seconds": seconds,
        "seconds_to_first_step": result.seconds_to_first_step,
        "evaluations": evaluations,
        "steps": result.num_steps,
        "loss": loss,
        "clipped_loss": result.losses["total"],
        "path": path,
    }


JOBS: dict[str, Callable[[Job], Figures]] = {
    "describe": describe_machine,
    "network": prepare_network,
    "reference": write_reference,
    "evaluation": measure_evaluation,
    "steps": measure_steps,
    "start": measure_start,
    "loss": follow_loss,
    "picture": paint_from_the_shell,
}
"""Jobs of a measured process, by kind."""


def config_of(job: Job) -> Config:
    """Return the configuration of a job."""
    return Config.from_dict(job["config"])


def memory_of(compiled: Any) -> Figures:
    """Return the memory of a compiled function and of its arguments, and the peaks so far."""
    # Not available on every platform.
    analysis = compiled.memory_analysis()
    device = jax.devices()[0].memory_stats() or {}
    return {
        "temporary_bytes": getattr(analysis, "temp_size_in_bytes", None),
        "argument_bytes": getattr(analysis, "argument_size_in_bytes", None),
        "device_peak_bytes": device.get("peak_bytes_in_use"),
        "peak_bytes": peak_resident_bytes(),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()
