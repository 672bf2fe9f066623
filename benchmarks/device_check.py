"""Check a device in a few minutes: correctness, speed, memory, and a comparison with torch.

Every part runs in separate processes, so that a failure is shown in its row and the other parts
continue.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.device_plan import (
    COLUMNS,
    GRADIENT_LIMIT,
    LOSS_LIMIT,
    MEMORY_LIMIT,
    SAME_LOSS,
    SAME_PIXELS,
    Scope,
    left_out,
    make_row,
)
from benchmarks.plan import reference_settings
from benchmarks.processes import Figures, Job, RunJob, run_job
from neuart_jax.config.config import Config
from neuart_jax.engine.resolution import resolve_config, settle_config
from neuart_jax.io.files import dump_json, write_atomically
from neuart_jax.runs.tables import Row, to_markdown

_CPU = {"JAX_PLATFORMS": "cpu"}
_ONE_ANSWER = 100.0
"""Time limit of a process in seconds, unless less time is left."""


class Outcome(NamedTuple):
    """The results of a check.

    Attributes:
      rows: a row for each figure: "part", "what", "value", "unit", and "verdict", which is "ok",
        "WRONG", "left out", or empty for figures without a limit.
      text: a description of the machine, and the rows as a table.
      wrong: number of figures that are wrong or parts that failed.
    """

    rows: list[Row]
    text: str
    wrong: int


def check_device(
    config: Config,
    scope: Scope,
    folder: Path,
    *,
    seconds: float,
    torch_python: str = sys.executable,
    run: RunJob = run_job,
) -> Outcome:
    """Check the device that JAX computes on, and write device.json and device.md.

    The files are rewritten after each part, with all results so far.

    Args:
      config: configuration with `content`, `style` and `weights`.
      scope: scope of the check.
      folder: destination, an existing folder.
      seconds: time after which no further part is started; those are marked as left out.
      torch_python: interpreter with torch and numpy.
      run: runs a job in a separate process.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _Check(config, scope, folder, Path(scratch), seconds, torch_python, run).check()


Part = Callable[[], Iterator[Row]]


class _Check:
    """A running check."""

    def __init__(
        self,
        config: Config,
        scope: Scope,
        folder: Path,
        scratch: Path,
        seconds: float,
        torch_python: str,
        run: RunJob,
    ) -> None:
        self._config, self._scope, self._folder, self._scratch = config, scope, folder, scratch
        self._torch_python, self._run = torch_python, run
        self._deadline = time.time() + seconds
        self._rows: list[Row] = []
        self._facts: Figures = {}
        self._networks: dict[str, Config] = {}

    def check(self) -> Outcome:
        models = self._scope.models
        self._facts = dict(self._ask("describe", self._config))
        for name, part in [
            ("products", self._products),
            *((f"agreement, {model}", self._with(self._agreement, model)) for model in models),
            (f"evaluations, {models[0]}", self._with(self._grid, models[0])),
            ("from the shell", self._from_the_shell),
            ("torch", self._torch),
            *((f"evaluations, {model}", self._with(self._grid, model)) for model in models[1:]),
            ("the same pixels", self._same_pixels),
            ("steps", self._steps),
            ("the program", self._program),
            ("tests", self._tests),
        ]:
            self._take(name, part)
        return self._report()

    def _take(self, name: str, part: Part) -> None:
        if self._left() <= 0:
            self._rows.append(left_out(name, "there was no time"))
            return
        began = time.time()
        try:
            for row in part():
                self._rows.append({"part": name, **row})
        except _PartFailed as error:
            verdict = "left out" if error.is_absence else "WRONG"
            self._rows.append(
                {"part": name, "what": "not measured", "value": str(error), "verdict": verdict}
            )
        took = time.time() - began
        self._rows.append({"part": name, "what": "this part took", "value": took, "unit": "s"})
        self._report()

    def _report(self) -> Outcome:
        rows: list[Row] = [{name: row.get(name) for name in COLUMNS} for row in self._rows]
        facts = self._facts
        versions = ", ".join(f"{n} {v}" for n, v in facts.get("versions", {}).items())
        head = f"{facts.get('device')}; {facts.get('processor')}; {facts.get('machine')}  \n"
        text = f"{head}{versions}\n\n{to_markdown(rows)}"
        wrong = sum(row["verdict"] == "WRONG" for row in rows)
        document = {"machine": facts, "rows": rows, "wrong": wrong}
        contents = {"device.json": dump_json(document, indent=2) + "\n", "device.md": text}
        for name, content in contents.items():
            with write_atomically(self._folder / name) as file:
                file.write(content.encode())
        return Outcome(rows, text, wrong)

    def _left(self) -> float:
        return self._deadline - time.time()

    def _with(self, part: Callable[[str], Iterator[Row]], model: str) -> Part:
        return lambda: part(model)

    def _ask(
        self, kind: str, config: Config, *, on_cpu: bool = False, cache: bool = True, **more: Any
    ) -> Figures:
        """Run a job; raise `_PartFailed` if it fails."""
        job = Job(
            {"kind": kind, "config": config.to_dict(), **more},
            cache=str(self._scratch / "programs") if cache else "",
            time_limit=max(self._left(), 10.0),
            environment=_CPU if on_cpu else {},
        )
        return self._checked(job)

    def _checked(self, job: Job) -> Figures:
        figures = self._run(job)
        if "error" in figures:
            raise self._failure(figures["error"])
        return figures

    def _failure(self, why: str) -> "_PartFailed":
        # A part that was cut short by the time limit is not wrong.
        return _PartFailed(why, is_absence=self._left() <= 0)

    def _base(self, model: str) -> Config:
        """Return a configuration with the network in a file, created once, on the CPU."""
        if model not in self._networks:
            size = self._scope.agreement_size
            config = self._config.replace(model=model, size=size)
            # Weights in a file count as trained, so empty settings are resolved before.
            precision = config.compute.precision
            config = resolve_config(settle_config(config)).replace(
                precision=precision, convolution="auto"
            )
            path = str(self._scratch / f"{model}.safetensors")
            self._ask("network", config, on_cpu=True, weights=path)
            self._networks[model] = config.replace(
                weights=path, preprocessing="", normalize_weights=""
            )
        return self._networks[model]

    def _products(self) -> Iterator[Row]:
        rates = self._ask("products", self._config, side=self._scope.product_side)
        self._facts["product_tflops"] = rates
        for precision, rate in rates.items():
            yield make_row(f"{precision} products of {self._scope.product_side}²", rate, "TFLOP/s")

    def _reference(self, config: Config, *, batch: int, for_torch: bool) -> tuple[str, Figures]:
        npz = str(self._scratch / "reference.npz")
        plain = config.replace(**reference_settings())
        return npz, self._ask(
            "reference", plain, on_cpu=True, npz=npz, batch=batch, for_torch=for_torch
        )

    def _agreement(self, model: str) -> Iterator[Row]:
        config = self._base(model)
        npz, _ = self._reference(config, batch=2, for_torch=False)
        precisions = list(LOSS_LIMIT)
        found = self._ask("agreement", config, npz=npz, batch=2, precisions=precisions)
        for row in found["rows"]:
            name = row["precision"]
            for what, key, limit in (
                ("loss against float64", "loss_error", LOSS_LIMIT[name]),
                ("gradient against float64", "gradient_error", GRADIENT_LIMIT[name]),
                ("loss, a batch against one", "batch_loss_error", max(SAME_LOSS, LOSS_LIMIT[name])),
            ):
                yield make_row(f"{name}: {what}", row[key], "relative", limit=limit)

    def _cells(self) -> list[dict[str, Any]]:
        scope = self._scope
        return [
            {"size": size, "batch": batch, "precision": precision}
            # The most important cells come first, as time may run out.
            for size in scope.sizes
            for batch in scope.batches
            for precision in ("tensorfloat32", "bfloat16")
            if batch * size**2 <= scope.most_pixels
        ]

    def _grid(self, model: str) -> Iterator[Row]:
        found = self._time_cells(self._base(model), self._cells())
        rates = self._facts.get("product_tflops", {})
        for row in found:
            what = f"{row['size']}², {row['batch']} pairs, {row['precision']}"
            if "error" in row:
                yield {"what": what, "value": row["error"], "verdict": "left out"}
                continue
            yield make_row(f"{what}: an evaluation", row["seconds"], "s")
            if rate := rates.get(row["precision"]):
                yield make_row(f"{what}: of the product rate", row["tflops"] / rate, "share")
            if row["bytes"]:
                off = abs(row["predicted_bytes"] / row["bytes"] - 1)
                yield make_row(f"{what}: memory", row["bytes"] / 1e9, "GB")
                yield make_row(f"{what}: prediction of it off by", off, "share", limit=MEMORY_LIMIT)

    def _time_cells(self, config: Config, cells: list[dict[str, Any]]) -> list[Figures]:
        # Half of the time left, as other parts follow.
        deadline = time.time() + self._left() / 2
        evaluations = self._scope.evaluations
        figures = self._ask("grid", config, cells=cells, deadline=deadline, evaluations=evaluations)
        rows: list[Figures] = figures["rows"]
        return rows

    def _from_the_shell(self) -> Iterator[Row]:
        for size in self._scope.run_sizes:
            for state in ("nothing cached", "cached"):
                yield make_row(f"{size} pixels, {state}", self._time_command(size), "s")

    def _time_command(self, size: int) -> float:
        images, scratch = self._config.images, self._scratch
        flags = {
            "content": images.content,
            "style": images.style[0],
            "size": size,
            "weights": self._base(self._scope.models[0]).network.weights,
            "output": scratch / f"painted{size}",
        }
        command = [sys.executable, "-m", "neuart_jax.main", "--enlarge", "--overwrite", "--offline"]
        losses = self._config.losses
        for name, layers in (("content", losses.content_layers), ("style", losses.style_layers)):
            flags[f"{name}_layers"] = ",".join(f"{layer}:{weight}" for layer, weight in layers)
        command += [f"--{name}={value}" for name, value in flags.items() if value != ""]
        root = str(Path(__file__).resolve().parents[1])
        environment = os.environ | {"PYTHONPATH": _join_paths(root, os.environ.get("PYTHONPATH"))}
        environment["XDG_CACHE_HOME"] = str(scratch / f"cache{size}")
        seconds, _ = self._time(command, environment)
        return seconds

    def _time(self, command: Sequence[str], environment: dict[str, str]) -> tuple[float, str]:
        began = time.time()
        limit = min(max(self._left(), 10.0), 2 * _ONE_ANSWER)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"ended after {limit:.0f} s") from error
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            said = lines[-1][:300] if lines else "no word"
            raise _PartFailed(f"exit code {done.returncode}: {said}")
        return time.time() - began, done.stdout

    def _torch(self) -> Iterator[Row]:
        scope, model = self._scope, self._scope.models[0]
        describe = Job({"kind": "describe"}, interpreter=self._torch_python)
        torch = self._run(describe)
        if "error" in torch:
            raise _PartFailed(torch["error"], is_absence=True)
        self._facts["torch"] = torch
        if torch["has_gpu"] != self._facts["has_gpu"]:
            raise _PartFailed("jax and torch compute on different devices")
        config = self._base(model).replace(size=scope.torch_size)
        npz, reference = self._reference(config, batch=1, for_torch=True)
        cells = [
            {"size": scope.torch_size, "batch": 1, "precision": precision}
            for precision in ("tensorfloat32", "bfloat16")
        ]
        ours = self._time_cells(config, cells)
        task = {
            **{"kind": "measure", "model": model, "npz": npz, "evaluations": scope.evaluations},
            **reference,
            "pooling": config.network.pooling,
            "padding": config.network.padding,
            "device": "cuda" if torch["has_gpu"] else "cpu",
            "channels_last": True,
        }
        for cell in ours:
            for compiled in (False, True):
                ways = {"precision": cell["precision"], "compile": compiled}
                name = f"{cell['precision']}{', compiled' * compiled}"
                figures = self._run(
                    Job(
                        {**task, **ways},
                        interpreter=self._torch_python,
                        time_limit=min(max(self._left(), 10.0), _ONE_ANSWER),
                    )
                )
                if "error" in figures:
                    yield {"what": name, "value": figures["error"], "verdict": "left out"}
                    continue
                yield make_row(f"{name}: an evaluation", figures["seconds"], "s")
                limit = GRADIENT_LIMIT[cell["precision"]]
                yield make_row(
                    f"{name}: gradient against float64",
                    figures["gradient_error"],
                    "relative",
                    limit=limit,
                )
                if "seconds" in cell:
                    ratio = figures["seconds"] / cell["seconds"]
                    yield make_row(f"{name}: its time over ours", ratio, "times")

    def _same_pixels(self) -> Iterator[Row]:
        model, size = self._scope.models[0], self._scope.agreement_size
        config = self._base(model).replace(steps=10, report_every=5, size=size, scales=1)
        found = self._ask("same_pixels", config)
        yield make_row("a run that was cut", found["resumed_difference"], "of 1", limit=0.0)
        yield make_row("a pair in a batch", found["batch_difference"], "of 1", limit=SAME_PIXELS)

    def _steps(self) -> Iterator[Row]:
        for optimizer in ("lbfgs", "adam"):
            config = self._base(self._scope.models[0])
            config = config.replace(optimizer=optimizer, learning_rate=0.0, scales=1, steps=40)
            found = self._ask("steps", config.replace(size=self._scope.sizes[0], report_every=10))
            yield make_row(f"{optimizer}: a step at {self._scope.sizes[0]}²", found["seconds"], "s")
            each = found["evaluations_per_step"]
            yield make_row(f"{optimizer}: evaluations in it", each, "")

    def _program(self) -> Iterator[Row]:
        for precision in ("tensorfloat32", "bfloat16"):
            config = self._base(self._scope.models[0])
            config = config.replace(precision=precision, convolution="direct")
            found = self._ask("program", config, on_cpu=True, batch=1, platform="cuda")
            for name in ("convolutions", "products", "transposes"):
                yield make_row(f"{precision}: {name.replace('_', ' ')}", found[name], "")
            allowed = 0.0 if precision == "bfloat16" else None
            yield make_row(
                f"{precision}: convolutions in float32",
                found["convolutions_float32"],
                "",
                limit=allowed,
            )
            yield make_row(f"{precision}: calls to the host", found["host_calls"], "", limit=0.0)

    def _tests(self) -> Iterator[Row]:
        if not self._scope.tests:
            return
        tests = Path(__file__).resolve().parents[1] / "tests"
        if not tests.is_dir():
            raise _PartFailed("the tests are not beside the package", is_absence=True)
        files = [str(tests / f"test_{name}.py") for name in self._scope.tests]
        # The tests expect the rounding errors of float32 and float64.
        environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
        _, said = self._time(command, environment)
        [summary] = [line for line in said.splitlines() if " passed" in line][-1:] or [""]
        yield {"what": ", ".join(self._scope.tests), "value": summary, "verdict": "ok"}


class _PartFailed(Exception):
    """A part failed; the text gives the reason.

    Attributes:
      is_absence: whether something optional is missing.
    """

    def __init__(self, why: str, *, is_absence: bool = False) -> None:
        super().__init__(why)
        self.is_absence = is_absence


def _join_paths(*paths: str | None) -> str:
    return os.pathsep.join(filter(None, paths))
