"""Losses on arrays: pure functions of features, float[height, width, channels], and of images.

The names in `__all__` are public. Every function can be differentiated, compiled and vmapped.
"""

from neuart_jax.losses.elementwise import content_loss, range_penalty, total_variation
from neuart_jax.losses.matting import AffineGuide, affine_energy, make_affine_guide
from neuart_jax.losses.moments import gaussian_statistic, gram_matrix, mean_and_deviation
from neuart_jax.losses.style import STYLE_LOSSES, StyleLoss
from neuart_jax.losses.temporal import temporal_loss, warping_error

__all__ = [
    "STYLE_LOSSES",
    "AffineGuide",
    "StyleLoss",
    "affine_energy",
    "content_loss",
    "gaussian_statistic",
    "gram_matrix",
    "make_affine_guide",
    "mean_and_deviation",
    "range_penalty",
    "temporal_loss",
    "total_variation",
    "warping_error",
]
