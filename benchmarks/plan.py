"""Plan of a benchmark: the variants, as settings of a configuration, and the repetitions."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from neuart_jax.config.config import FIELDS, Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest
from neuart_jax.config.presets import find_preset
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.models import check_image_size, find_architecture
from neuart_jax.objective.build import run_layers

PARTS = ("picture", "evaluation", "steps", "start", "torch", "time_to_loss")
"""Parts of a benchmark."""

OPTIMIZERS = ("adam", "lbfgs")
"""Optimizers whose steps are timed."""


class Plan(NamedTuple):
    """Plan of a benchmark.

    Attributes:
      parts: some of `PARTS`.
      sizes: sides of the square images, in pixels.
      models: names of the networks.
      batches: numbers of pairs evaluated at once.
      precisions: values of the setting `precision`, and torch's equivalents if there are any.
      convolutions: values of the setting `convolution`.
      rounds: number of measurements of each variant, interleaved with the others.
      evaluations: number of evaluations timed together.
      time_limit: seconds after which a process that times evaluations is killed and its variant
        abandoned; None waits.
      torch_python: interpreter with torch.
      peak_tflops: the device's nominal peak in TFLOP/s; 0 if unknown.
      presets: recipes whose final loss should be reached.
      loss_size: size of their images; 0 takes each recipe's own.
    """

    parts: tuple[str, ...]
    sizes: tuple[int, ...]
    models: tuple[str, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    convolutions: tuple[str, ...]
    rounds: int
    evaluations: int
    time_limit: float | None
    torch_python: str
    peak_tflops: float
    presets: tuple[str, ...]
    loss_size: int


def read_plan(config: Config, flags: dict[str, Any]) -> Plan:
    """Parse a plan from the command line.

    Args:
      config: common settings of all variants, with `content` and `style`.
      flags: text or texts of every field of `Plan`, by name.

    Raises:
      InputError: a value is invalid, or a size is too small for a model.
    """
    plan = Plan(
        parts=_read_names("parts", flags["parts"], PARTS),
        sizes=_read_counts("sizes", flags["sizes"]),
        models=tuple(flags["models"]),
        batches=_read_counts("batches", flags["batches"]),
        precisions=_read_names("precisions", flags["precisions"], _choices("precision")),
        convolutions=_read_names("convolutions", flags["convolutions"], _choices("convolution")),
        rounds=_read_counts("rounds", [flags["rounds"]])[0],
        evaluations=_read_counts("evaluations", [flags["evaluations"]])[0],
        time_limit=_read_number("time_limit", flags["time_limit"]) or None,
        torch_python=flags["torch_python"],
        peak_tflops=_read_number("peak_tflops", flags["peak_tflops"]),
        presets=tuple(flags["presets"]),
        loss_size=int(_read_number("loss_size", flags["loss_size"])),
    )
    for preset in plan.presets:
        find_preset(preset)
    for model in plan.models:
        find_architecture(model)
        resolved = resolve_config(config.replace(model=model))
        check_image_size(
            model,
            run_layers(resolved.losses),
            height=min(plan.sizes),
            width=min(plan.sizes),
            padding=config.network.padding,
            name="the smallest of --sizes",
        )
        if "torch" in plan.parts:
            _check_torch_can(resolved)
    return plan


def jax_variants(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the settings of this project's variants, by name."""
    variants = {}
    for precision in plan.precisions:
        for convolution in plan.convolutions:
            name = f"jax {precision} {convolution}".removesuffix(" auto")
            variants[name] = {"precision": precision, "convolution": convolution}
    return variants


def reference_settings() -> dict[str, Any]:
    """Return the settings of the reference, the simplest variant."""
    return {"precision": "float32", "convolution": "direct"}


def torch_variants(plan: Plan, *, has_gpu: bool) -> dict[str, dict[str, Any]]:
    """Return the arguments of `torch_objective.measure` for torch's variants, by name.

    Args:
      plan: the plan.
      has_gpu: whether torch runs on a GPU; CPUs have no TensorFloat-32.
    """
    known = ("float32", "bfloat16", *(("tensorfloat32",) if has_gpu else ()))
    return {
        f"torch {precision} {name}": {"precision": precision, **ways}
        for precision in plan.precisions
        if precision in known
        for name, ways in {
            "NCHW": {"channels_last": False, "compile": False},
            "channels-last": {"channels_last": True, "compile": False},
            "channels-last compiled": {"channels_last": True, "compile": True},
        }.items()
    }


def _choices(setting: str) -> tuple[str, ...]:
    return tuple(FIELDS[setting].metadata["choices"])


def _read_names(flag: str, texts: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    for text in texts:
        if text not in known:
            raise InputError(
                f"--{flag} has {text!r}",
                expected="some of " + ", ".join(known),
                remedy=f"did you mean {nearest(text, known)}",
            )
    if not texts:
        raise InputError(
            f"--{flag} is empty", expected="some of " + ", ".join(known), remedy="name one"
        )
    return tuple(dict.fromkeys(texts))


def _read_counts(flag: str, texts: Sequence[str]) -> tuple[int, ...]:
    numbers = [_read_number(flag, text) for text in texts]
    if not numbers or not all(number >= 1 and number.is_integer() for number in numbers):
        raise InputError(
            f"--{flag}={','.join(map(str, texts))}",
            expected="whole numbers of at least 1",
            remedy=f"write --{flag}=4, say",
        )
    return tuple(dict.fromkeys(map(int, numbers)))


def _read_number(flag: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise InputError(
            f"--{flag}={text}", expected="a number of at least 0", remedy="write it in digits"
        )
    return number


def _check_torch_can(config: Config) -> None:
    """Check that `torch_objective` implements the formulas of a resolved configuration."""
    losses = config.losses
    has = {
        "content_loss": "relative",
        "style_loss": "relative",
        "tv_loss": "mean_squares",
        "pixel_scale": 1.0,
        "range_weight": 0.0,
        "stylization": 1.0,
    }
    for name, value in has.items():
        if getattr(losses, name) != value:
            raise InputError(
                f"--{name}={getattr(losses, name)} is not written in torch",
                expected=f"{value} for the part torch",
                remedy=f"give --{name}={value}, or leave torch out of --parts",
            )
