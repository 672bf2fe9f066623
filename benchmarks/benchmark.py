"""Run a benchmark: from a plan, through interleaved processes, to tables."""

import dataclasses
import itertools
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.plan import (
    OPTIMIZERS,
    PARTS,
    Plan,
    jax_variants,
    reference_settings,
    torch_variants,
)
from benchmarks.processes import Figures, Job, RunJob, run_job, run_rounds
from benchmarks.report import to_text, write_report
from benchmarks.rows import (
    Group,
    disagreement,
    evaluation_rows,
    find_error,
    loss_rows,
    picture_rows,
    start_rows,
    step_rows,
    torch_rows,
)
from neuart_jax.config.config import Config
from neuart_jax.config.fields import known
from neuart_jax.config.presets import apply_preset
from neuart_jax.config.sections import OptimizerConfig, RunConfig
from neuart_jax.engine.resolution import resolve_config, settle_config
from neuart_jax.runs.tables import Row

logger = logging.getLogger(__name__)

_TIMED_CHUNKS = 3
_HISTORY = 100
"""History of L-BFGS in `time_to_loss`, where it makes hundreds of steps."""


class Outcome(NamedTuple):
    """A finished benchmark.

    Attributes:
      tables: rows of every table, by title.
      text: all tables in Markdown.
      problems: sentences on results that can't be trusted or are missing.
    """

    tables: dict[str, list[Row]]
    text: str
    problems: list[str]


def benchmark(config: Config, plan: Plan, folder: Path, *, run: RunJob = run_job) -> Outcome:
    """Measure what the plan asks for, and write benchmark.json, benchmark.md and benchmark.png.

    The files are rewritten after each group of variants, with all measurements so far.

    Args:
      config: common settings of all variants, with `content` and `style`. The sizes are the plan's.
      plan: the plan, from `plan.read_plan`.
      folder: destination, an existing folder.
      run: runs a job in a separate process.

    Raises:
      InputError: an argument is invalid.
    """
    with tempfile.TemporaryDirectory() as scratch:
        session = _Session(config, plan, Path(scratch), run, folder)
        session.measure()
        return session.report()


class _Session:
    """A running benchmark, with its scratch folder."""

    def __init__(
        self, config: Config, plan: Plan, scratch: Path, run: RunJob, folder: Path
    ) -> None:
        self._config, self._plan, self._scratch, self._run = config, plan, scratch, run
        self._folder = folder
        self._networks: dict[Any, str] = {}
        self._groups: dict[str, list[Group]] = {part: [] for part in PARTS}
        self._losses: list[Row] = []
        self._problems: list[str] = []
        self._rounds: list[dict[str, Any]] = []
        self._facts: Figures = self._ask("describe", config)

    def measure(self) -> None:
        plan = self._plan
        if "picture" in plan.parts:
            for model, size in itertools.product(plan.models, plan.sizes):
                self._measure_picture(model, size)
        if "torch" in plan.parts:
            self._find_torch()
        if {"evaluation", "torch"} & set(plan.parts):
            for model, size, batch in itertools.product(plan.models, plan.sizes, plan.batches):
                self._measure_evaluations(model, size, batch)
        if "steps" in plan.parts:
            for model, size in itertools.product(plan.models, plan.sizes):
                self._measure_steps(model, size)
        if "start" in plan.parts:
            for model in plan.models:
                self._measure_start(model)
        if "time_to_loss" in plan.parts:
            for preset in plan.presets:
                self._measure_time_to_loss(preset)

    def report(self) -> Outcome:
        """Write all measurements so far."""
        plan, groups = self._plan, self._groups
        tables: dict[str, list[Row]] = {
            "picture": [row for group in groups["picture"] for row in picture_rows(group)],
            "evaluation": [
                row
                for group in groups["evaluation"]
                for row in evaluation_rows(group, peak_tflops=plan.peak_tflops)
            ],
            "jax / torch": [row for group in groups["evaluation"] for row in torch_rows(group)],
            "steps": [row for group in groups["steps"] for row in step_rows(group)],
            "start": [row for group in groups["start"] for row in start_rows(group)],
            "time to loss": self._losses,
        }
        problems = [*self._problems, *filter(None, map(disagreement, groups["evaluation"]))]
        text = to_text(tables, facts=self._facts, notes="\n\n".join(problems))
        document = {
            "machine": self._facts,
            "plan": plan._asdict(),
            "settings": self._config.to_dict(),
            "problems": problems,
            "tables": tables,
            "rounds": self._rounds,
        }
        write_report(self._folder, text=text, document=document)
        return Outcome(tables, text, problems)

    def _ask(self, kind: str, config: Config, **more: Any) -> Figures:
        return self._run(_job(kind, config, **more))

    def _find_torch(self) -> None:
        found = self._run(Job({"kind": "describe"}, interpreter=self._plan.torch_python))
        if "error" in found:
            self._problems.append(
                f"torch was left out: {self._plan.torch_python} can't import it "
                f"({found['error']}); --torch_python names another interpreter."
            )
            return
        self._facts["torch"] = found
        if found["has_gpu"] != self._facts["has_gpu"]:
            self._problems.append(
                "jax and torch run on different devices: no ratio means anything."
            )

    def _with_network(self, config: Config) -> Config:
        """Write the network's weights to a file, at the configuration's own size.

        Weights in a file count as trained, so empty settings are resolved before.
        """
        precision = config.compute.precision
        # The precision is resolved by the measuring process; this one has no GPU.
        config = resolve_config(settle_config(config)).replace(precision=precision)
        key = config.images, config.network, config.losses
        if key not in self._networks:
            path = str(self._scratch / f"network{len(self._networks)}.safetensors")
            figures = self._ask("network", config, weights=path)
            if "error" in figures:
                raise RuntimeError(figures["error"])
            self._networks[key] = path
        # The file states its own preprocessing.
        return config.replace(weights=self._networks[key], preprocessing="", normalize_weights="")

    def _base(self, model: str, size: int) -> Config:
        config = self._config.replace(model=model)
        # One network for all sizes.
        config = self._with_network(config.replace(size=max(self._plan.sizes)))
        return config.replace(size=size)

    def _keep(self, group: Group, part: str) -> None:
        self._rounds.append({"part": part, **group.labels, "runs": group.runs})
        for variant, rounds in group.runs.items():
            seconds = [f"{f['seconds']:.3g} s" for f in rounds if "seconds" in f]
            said = ", ".join(seconds) or find_error(rounds) or "done"
            logger.info(
                "%s: %s, %d pixels, %d pair(s), %s: %s",
                *(part, group.model, group.size, group.batch, variant, said),
            )
        self._groups[part].append(group)
        # Hours may follow, and an unexpected end.
        self.report()

    def _measure_evaluations(self, model: str, size: int, batch: int) -> None:
        plan = self._plan
        base = self._base(model, size)
        npz = str(self._scratch / "reference.npz")
        with_torch = "torch" in self._facts
        reference = self._ask(
            "reference",
            base.replace(**reference_settings()),
            npz=npz,
            batch=batch,
            for_torch=with_torch,
        )
        more = {"npz": npz, "batch": batch, "evaluations": plan.evaluations}
        variants = jax_variants(plan)
        if "error" in reference:
            # The reference takes several times the memory of what is measured.
            left_out = "errors and torch are" if with_torch else "errors are"
            self._problems.append(
                f"{model}, {size} pixels, {batch} pair(s): no float64 evaluation to compare with "
                f"({reference['error']}), so {left_out} left out."
            )
            more["npz"], with_torch = "", False
        cache = str(self._scratch / "programs")
        jobs = {
            name: _job("evaluation", base.replace(**settings), cache=cache, **more)
            for name, settings in variants.items()
        }
        check = None
        if with_torch:
            has_gpu = self._facts["torch"]["has_gpu"]
            task = {
                **{"kind": "measure", "model": model, **more, **reference},
                "pooling": base.network.pooling,
                "padding": base.network.padding,
                "device": "cuda" if has_gpu else "cpu",
            }
            exact = {"precision": "float64", "channels_last": False, "compile": False}
            check = self._run(
                Job({**task, **exact, "evaluations": 0}, interpreter=plan.torch_python)
            )
            for name, ways in torch_variants(plan, has_gpu=has_gpu).items():
                jobs[name] = Job({**task, **ways}, interpreter=plan.torch_python)
        jobs = {name: job._replace(time_limit=plan.time_limit) for name, job in jobs.items()}
        runs = run_rounds(jobs, rounds=plan.rounds, run=self._run)
        self._keep(Group(model, size, batch, runs, check), "evaluation")

    def _measure_steps(self, model: str, size: int) -> None:
        base = self._base(model, size)
        cache = str(self._scratch / "programs")
        steps = (1 + _TIMED_CHUNKS) * base.run.report_every
        jobs = {
            f"{optimizer}, {name}": _job(
                "steps",
                base.replace(
                    **settings, optimizer=optimizer, learning_rate=0.0, scales=1, steps=steps
                ),
                cache=cache,
            )
            for optimizer in OPTIMIZERS
            for name, settings in jax_variants(self._plan).items()
        }
        runs = run_rounds(jobs, rounds=self._plan.rounds, run=self._run)
        self._keep(Group(model, size, 1, runs), "steps")

    def _measure_picture(self, model: str, size: int) -> None:
        config = self._with_network(self._config.replace(model=model, size=size))
        runs: dict[str, list[Figures]] = {"compiled": [], "cached": []}
        for number in range(self._plan.rounds):
            caches = str(self._scratch / f"picture_{model}_{size}_{number}")
            for rounds in runs.values():
                rounds.append(self._run(_job("picture", config, caches=caches)))
        self._keep(Group(model, size, 1, runs), "picture")

    def _measure_start(self, model: str) -> None:
        size = min(self._plan.sizes)
        config = self._base(model, size)
        runs: dict[str, list[Figures]] = {"cold": [], "warm": []}
        for number in range(self._plan.rounds):
            # A new cache for each round, which is empty for the first process.
            cache = str(self._scratch / f"start_{model}_{number}")
            for rounds in runs.values():
                rounds.append(self._run(_job("start", config, cache=cache)))
        self._keep(Group(model, size, 1, runs), "start")

    def _measure_time_to_loss(self, preset: str) -> None:
        """Run a recipe to its end, and our optimizer for a quarter of that.

        Both minimize the recipe's objective. Our run uses our optimizer and starts at the content.
        """
        config = apply_preset(preset, self._config)
        # The recipe's weights may not be available; both runs use those of the command line.
        config = config.replace(weights=self._config.network.weights, save_every=0)
        if self._plan.loss_size:
            config = config.replace(size=self._plan.loss_size)
        theirs = self._with_network(config)
        end = self._ask("loss", theirs)
        if "error" in end:
            self._losses.append({"preset": preset, "of": "their end", "error": end["error"]})
            return
        run = RunConfig(steps=-(-known(theirs.run.steps) // 4), seed=theirs.run.seed, scales=1)
        optimizer = OptimizerConfig(history=_HISTORY)
        ours = self._ask("loss", dataclasses.replace(theirs, optimizer=optimizer, run=run))
        self._rounds.append({"part": "time_to_loss", "preset": preset, "runs": [end, ours]})
        self._losses += loss_rows(preset, theirs.images.size, end, ours)
        self.report()


def _job(kind: str, config: Config, *, cache: str = "", **more: Any) -> Job:
    task: Mapping[str, Any] = {"kind": kind, "config": config.to_dict(), **more}
    return Job(task, cache=cache)
