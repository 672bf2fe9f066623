"""Compute the rows of tables from the figures of all rounds: medians, ratios, shares."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from neuart_jax.runs.tables import Row

Figures = Mapping[str, Any]

CHECK_TOLERANCE = 1e-6
"""Relative error up to which two programs agree, both in float64."""

TOLERANCE = 1e-2
"""Relative error of float32 losses, against float64. torch's own was 1.4e-3 with ResNet50 at 512
pixels; agreement is judged by `CHECK_TOLERANCE`."""

GRADIENT_TOLERANCE = 1e-2
"""The same for gradients, which a single ReLU that is on instead of off changes by 3e-3 at 64
pixels."""

MARGINS = (0.05, 0.02, 0.01, 0.0)
"""Relative margins above another run's final loss at which a run's progress is reported."""


class Group(NamedTuple):
    """Variants that were measured interleaved, for one model, size and batch.

    Attributes:
      model: name of the network.
      size: side of the images, in pixels.
      batch: number of pairs.
      runs: figures of all rounds by variant, in the same order for all.
      check: figures of torch in float64; None without torch.
    """

    model: str
    size: int
    batch: int
    runs: dict[str, list[dict[str, Any]]]
    check: dict[str, Any] | None = None

    @property
    def labels(self) -> dict[str, Any]:
        """First columns of the group's rows."""
        return {"model": self.model, "size": self.size, "batch": self.batch}


def median(rounds: Sequence[Figures], name: str) -> float | None:
    """Return the median of a figure over the rounds that have it."""
    values = [figures[name] for figures in rounds if figures.get(name) is not None]
    return statistics.median(values) if values else None


def highest(rounds: Sequence[Figures], name: str) -> float | None:
    """Return the highest value of a figure over the rounds that have it, such as peak memory."""
    return max((figures[name] for figures in rounds if figures.get(name) is not None), default=None)


def find_error(rounds: Sequence[Figures]) -> str:
    """Return why a variant could not be measured; empty if it could."""
    return next((figures["error"] for figures in rounds if "error" in figures), "")


def median_ratio(rounds: Sequence[Figures], others: Sequence[Figures]) -> float | None:
    """Return the median over rounds of the ratio of two variants' seconds."""
    if find_error(rounds) or find_error(others):
        return None
    pairs = zip(rounds, others, strict=True)
    return statistics.median(one["seconds"] / other["seconds"] for one, other in pairs)


def disagreement(group: Group) -> str:
    """Describe how torch's objective differs from ours, which makes ratios of times meaningless."""
    if group.check is None:
        return ""
    where = f"({group.model}, {group.size} pixels, {group.batch} pairs)"
    if error := find_error([group.check]):
        return f"torch could not be compared with jax {where}: {error}; so there are no ratios"
    exact = CHECK_TOLERANCE, CHECK_TOLERANCE
    suspects = [("torch float64", group.check, exact)]
    suspects += [
        (variant, figures, (TOLERANCE, GRADIENT_TOLERANCE))
        for variant, rounds in group.runs.items()
        if variant.startswith("torch float32") and not find_error(rounds)
        for figures in rounds
    ]
    for variant, figures, limits in suspects:
        errors = [figures["loss_error"], figures["gradient_error"]]
        # Not `error > limit`, which is false for NaN.
        if not all(e is not None and e <= limit for e, limit in zip(errors, limits, strict=True)):
            return (
                f"{variant} computes something else than jax {where}: loss and gradient differ by "
                f"{errors[0]} and {errors[1]} of their size, where {limits[0]} and {limits[1]} are "
                "allowed; so there are no ratios"
            )
    return ""


def evaluation_rows(group: Group, *, peak_tflops: float = 0) -> list[Row]:
    """Tabulate a group, one row per variant.

    Args:
      group: the group, whose first variant is the reference of `ratio`.
      peak_tflops: the device's nominal peak in TFLOP/s; 0 leaves that column out.
    """
    first, *_ = group.runs.values()
    flops = median(first, "flops")
    refused = disagreement(group)
    rows: list[Row] = []
    for variant, rounds in group.runs.items():
        seconds = median(rounds, "seconds")
        pixels = group.batch * group.size**2
        rate = flops / seconds / 1e9 if flops and seconds else None
        product_rate = median(rounds, "product_gflops")
        is_ratio = not (refused and variant.startswith("torch"))
        temporary = rounds[0].get("temporary_bytes")
        row: dict[str, Any] = {
            **group.labels,
            "variant": variant,
            "seconds": seconds,
            "ns_per_pixel": seconds / pixels * 1e9 if seconds else None,
            "ratio": median_ratio(rounds, first) if is_ratio else None,
            "GFLOP/s": rate,
            "products_GFLOP/s": product_rate,
            "of_products": rate / product_rate if rate and product_rate else None,
            "compile_s": rounds[0].get("compile_seconds"),
            "temporary_MB": _megabytes(temporary),
            "arguments_MB": _megabytes(rounds[0].get("argument_bytes")),
            "temporary_bytes_per_pixel": temporary / pixels if temporary else None,
            "peak_MB": _megabytes(median(rounds, "peak_bytes")),
            "device_peak_MB": _megabytes(median(rounds, "device_peak_bytes")),
            "loss_error": median(rounds, "loss_error"),
            "gradient_error": median(rounds, "gradient_error"),
        }
        if peak_tflops:
            row["of_peak"] = rate / 1000 / peak_tflops if rate else None
        if error := find_error(rounds):
            row["error"] = error
        rows.append(row)
    return rows


def torch_rows(group: Group) -> list[Row]:
    """Tabulate the ratios of jax's seconds to torch's: a row per jax variant, a column per torch's.

    Empty if the objectives differ; see `disagreement`.
    """
    theirs = [variant for variant in group.runs if variant.startswith("torch")]
    if disagreement(group):
        return []
    return [
        {
            **group.labels,
            "variant": variant,
            **{f"/ {other}": median_ratio(rounds, group.runs[other]) for other in theirs},
        }
        for variant, rounds in group.runs.items()
        if theirs and variant not in theirs
    ]


def step_rows(group: Group) -> list[Row]:
    """Tabulate the steps of a group, whose variants are named by optimizer and settings."""
    rows: list[Row] = []
    for variant, rounds in group.runs.items():
        seconds, evaluations = median(rounds, "seconds"), median(rounds, "evaluations_per_step")
        row: dict[str, Any] = {
            **group.labels,
            "variant": variant,
            "seconds_per_step": seconds,
            "evaluations_per_step": evaluations,
            "seconds_per_evaluation": seconds / evaluations if seconds and evaluations else None,
            "products_GFLOP/s": median(rounds, "product_gflops"),
            "peak_MB": _megabytes(highest(rounds, "peak_bytes")),
            "run_MB": _megabytes(highest(rounds, "run_bytes")),
            "predicted_MB": _megabytes(median(rounds, "predicted_bytes")),
        }
        rows.append(row | ({"error": error} if (error := find_error(rounds)) else {}))
    return rows


def picture_rows(group: Group) -> list[Row]:
    """Tabulate whole commands, whose variants are the cache's states, with seconds by phase."""
    rows: list[Row] = []
    for variant, rounds in group.runs.items():
        row: dict[str, Any] = {
            "model": group.model,
            "size": group.size,
            "programs": variant,
            "seconds": median(rounds, "seconds"),
            "evaluations": median(rounds, "evaluations"),
        }
        phases = [figures.get("phases", {}) for figures in rounds]
        names = dict.fromkeys(name for each in phases for name in each)
        row |= {f"{name}_s": median(phases, name) for name in names}
        rows.append(row | ({"error": error} if (error := find_error(rounds)) else {}))
    return rows


def start_rows(group: Group) -> list[Row]:
    """Tabulate starts, whose variants are the cache's states."""
    names = ("import_seconds", "before_seconds", "compile_seconds", "first_step_seconds")
    return [
        {
            **group.labels,
            "cache": variant,
            **{name: median(rounds, name) for name in names},
            **({"error": error} if (error := find_error(rounds)) else {}),
        }
        for variant, rounds in group.runs.items()
    ]


def loss_rows(preset: str, size: int, theirs: Figures, ours: Figures) -> list[Row]:
    """Tabulate when two runs approached the final loss of the first.

    Args:
      preset: name of the recipe.
      size: size of the image, in pixels.
      theirs: figures of `jobs.follow_loss` for the recipe, up to its end.
      ours: figures of `jobs.follow_loss` for our optimizer; may have an "error".

    Returns:
      For the optimized image and for the clipped one, a row for each of `MARGINS`, with the seconds
      and evaluations of both runs, and ours as a share of all of theirs. A cell is empty if a run
      never got that far.
    """
    labels = {"preset": preset, "size": size}
    if "error" in ours:
        return [{**labels, "of": "ours", "error": ours["error"]}]
    rows: list[Row] = []
    for kind, name, place in (("image", "loss", 2), ("file", "clipped_loss", 3)):
        for margin in MARGINS:
            limit = (1 + margin) * theirs[name]
            row: dict[str, Any] = {**labels, "of": kind, "to": f"within {margin:.0%}"}
            row["loss"] = limit
            for whose, figures in (("their", theirs), ("our", ours)):
                found = next((at for at in figures["path"] if at[place] <= limit), None)
                row |= {f"{whose}_seconds": found and found[0]}
                row |= {f"{whose}_evaluations": found and found[1]}
            for unit in ("seconds", "evaluations"):
                count = row[f"our_{unit}"]
                row[f"our_{unit} / all of theirs"] = count and count / theirs[unit]
            rows.append(row)
    return rows


def _megabytes(count: float | None) -> float | None:
    return None if count is None else count / 1e6
