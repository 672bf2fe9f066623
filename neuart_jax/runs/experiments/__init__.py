"""Experiments of the source systems: many runs, one contact sheet and one table each."""

from neuart_jax.runs.experiments.evaluation import evaluate
from neuart_jax.runs.experiments.interpolation import interpolate
from neuart_jax.runs.experiments.layer_grids import layer_grid
from neuart_jax.runs.experiments.model_comparison import compare_models
from neuart_jax.runs.experiments.reconstruction import reconstruct
from neuart_jax.runs.experiments.report import Report

__all__ = [
    "Report",
    "compare_models",
    "evaluate",
    "interpolate",
    "layer_grid",
    "reconstruct",
]
