"""Experiments of the source systems: many runs, one contact sheet and one table each."""

from neuart_jax.experiments.compare_models import compare_models
from neuart_jax.experiments.evaluate import evaluate
from neuart_jax.experiments.interpolate import interpolate
from neuart_jax.experiments.layer_grid import layer_grid
from neuart_jax.experiments.reconstruct import reconstruct
from neuart_jax.experiments.report import Report

__all__ = [
    "Report",
    "compare_models",
    "evaluate",
    "interpolate",
    "layer_grid",
    "reconstruct",
]
