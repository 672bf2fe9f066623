"""Optimizers of the pixels, with an ask-and-tell interface: they propose images and observe losses.

The names in `__all__` are public.
"""

from neuart_jax.optimizers.adam import make_adam
from neuart_jax.optimizers.base import Decision, Evaluation, Optimizer, Point, from_optax
from neuart_jax.optimizers.lbfgs import make_lbfgs, make_lbfgs_fixed

__all__ = [
    "Decision",
    "Evaluation",
    "Optimizer",
    "Point",
    "from_optax",
    "make_adam",
    "make_lbfgs",
    "make_lbfgs_fixed",
]
