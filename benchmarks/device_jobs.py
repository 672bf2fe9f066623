"""Jobs of a process that checks a device: from a job to its figures, as in `jobs`."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from benchmarks.jobs import Figures, Job, compile_evaluations, config_of, find_errors, memory_of
from benchmarks.problem import Problem, load_images, make_problem
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.memory import predict_step
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.stylizer import stylize, stylize_batch
from neuart_jax.objective.build import run_layers
from neuart_jax.runs.driver import transfer

_PRODUCTS = {
    "float32": (jnp.float32, "highest"),
    "tensorfloat32": (jnp.float32, "default"),
    "bfloat16": (jnp.bfloat16, "default"),
}
"""Dtype of the factors, and `precision` of the products, by the name of a precision."""

_CHAIN = 8
"""Number of chained products, enough for the overhead of the call to be negligible."""


def measure_products(job: Job) -> Figures:
    """Measure the rates of matrix products of "side", in TFLOP/s, by precision."""
    side = job["side"]
    values = np.random.default_rng(0).normal(0, side**-0.5, (side, side))
    rates = {}
    for name, (dtype, precision) in _PRODUCTS.items():

        def multiply(matrix: Array, first: Array, precision: str = precision) -> Array:
            for _ in range(_CHAIN):
                first = jnp.matmul(first, matrix, precision=precision)
            return first

        matrix = jnp.asarray(values, dtype)
        compiled = jax.jit(multiply).lower(matrix, matrix).compile()
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            jax.block_until_ready(compiled(matrix, matrix))
            seconds.append(time.perf_counter() - began)
        rates[name] = _CHAIN * 2 * side**3 / min(seconds) / 1e12
    return rates


def measure_agreement(job: Job) -> Figures:
    """Compare loss and gradient with the reference in "npz", for each of "precisions".

    A batch of "batch" pairs, which are shifted copies, is also compared with each pair alone.
    """
    config = config_of(job)
    rows = []
    for precision in job["precisions"]:
        problem = make_problem(config.replace(precision=precision), batch=job["batch"])
        loss, gradient = _evaluate_batch(problem)
        alone = [_evaluate_pair(problem, pair) for pair in range(job["batch"])]
        rows.append(
            {
                "precision": precision,
                **find_errors(job["npz"], loss=loss, gradient=gradient),
                "batch_loss_error": _difference(loss, np.stack([one[0] for one in alone])),
                "batch_gradient_error": _difference(gradient, np.stack([one[1] for one in alone])),
            }
        )
    return {"rows": rows}


def _evaluate_batch(problem: Problem) -> tuple[Array, Array]:
    evaluate = compile_fn(problem.evaluate)
    found: tuple[Array, Array] = evaluate(problem.images, problem.params, problem.targets)
    return found


def _evaluate_pair(problem: Problem, pair: int) -> tuple[Array, Array]:
    image, targets = jax.tree.map(lambda array: array[pair], (problem.images, problem.targets))
    found: tuple[Array, Array] = compile_fn(problem.evaluate_pair)(image, problem.params, targets)
    return found


def _difference(one: Any, other: Any) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def measure_grid(job: Job) -> Figures:
    """Time "evaluations" of each of "cells", one after another in this process.

    A cell has "size", "batch" and "precision". A failed cell gets an "error", as do cells left out
    after the "deadline" (Unix time).
    """
    config = config_of(job)
    rows = []
    for cell in job["cells"]:
        if time.time() > job["deadline"]:
            rows.append({**cell, "error": "left out, there was no time"})
            continue
        try:
            figures = _measure_cell(config, cell, job["evaluations"])
        # Mostly running out of memory; the next cell may be smaller.
        except Exception as error:
            figures = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        rows.append({**cell, **figures})
    return {"rows": rows}


def _measure_cell(config: Any, cell: dict[str, Any], count: int) -> Figures:
    size, batch = cell["size"], cell["batch"]
    config = config.replace(size=size, precision=cell["precision"])
    problem = make_problem(config, batch=batch)
    chunk = compile_evaluations(problem, count)
    chunk.run(1)
    seconds = min(chunk.run(count)[0] for _ in range(2)) / count
    memory = memory_of(chunk.compiled)
    needed = [memory["temporary_bytes"], memory["argument_bytes"]]
    layers = run_layers(problem.config.losses)
    predicted = predict_step(problem.config, layers, height=size, width=size, num_pairs=batch)
    return {
        "seconds": seconds,
        "tflops": problem.flops / seconds / 1e12,
        "compile_seconds": chunk.compile_seconds,
        "bytes": None if None in needed else sum(needed),
        "predicted_bytes": predicted.total,
    }


def measure_same_pixels(job: Job) -> Figures:
    """Run a pair normally, interrupted and resumed, and in a batch of two copies.

    The figures are the largest differences between pixels, in [0, 1].
    """
    config = resolve_config(config_of(job))
    content, style = load_images(config)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = (
            config.replace(output=str(Path(folder, name)), checkpoint_seconds=1e4)
            for name in ("whole", "cut")
        )
        undisturbed = transfer(whole).result.image
        transfer(cut, callback=lambda progress: progress.num_steps >= config.run.report_every)
        gone_on = transfer(cut).result.image
    alone = stylize(content, style, config).image
    both = stylize_batch([content, content], [style, style], config)
    return {
        "resumed_difference": float(np.abs(gone_on - undisturbed).max()),
        "batch_difference": max(float(np.abs(one.image - alone).max()) for one in both),
    }


def inspect_program(job: Job) -> Figures:
    """Lower an evaluation for "platform", which may be absent, and count its operations.

    This detects, without the device, products in a higher precision than requested, calls back to
    the host, and transposes that aren't fused into convolutions.
    """
    problem = make_problem(config_of(job), batch=job["batch"])
    arguments = problem.images, problem.params, problem.targets
    exported = export.export(jax.jit(problem.evaluate), platforms=[job["platform"]])(*arguments)
    lines = exported.mlir_module().splitlines()

    def count(operation: str, *words: str) -> int:
        named = f"stablehlo.{operation}"
        return sum(named in line and all(word in line for word in words) for line in lines)

    return {
        "convolutions": count("convolution"),
        # By the dtype of the result, which is that of the factors.
        "convolutions_float32": sum(
            "stablehlo.convolution" in line and line.rstrip().split("->")[-1].count("xf32>")
            for line in lines
        ),
        "products": count("dot_general"),
        "transposes": count("transpose"),
        "host_calls": count("custom_call", "callback"),
        "loops": count("while"),
    }


DEVICE_JOBS: dict[str, Callable[[Job], Figures]] = {
    "products": measure_products,
    "agreement": measure_agreement,
    "grid": measure_grid,
    "same_pixels": measure_same_pixels,
    "program": inspect_program,
}
"""Further jobs of a measured process, by kind."""
