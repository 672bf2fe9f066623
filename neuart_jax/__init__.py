"""Neural style transfer by optimization, in JAX: two pictures in, one painting out."""

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.engine.result import Progress, Result
from neuart_jax.engine.step import Status
from neuart_jax.engine.stylizer import FeatureNetwork, stylize, stylize_batch
from neuart_jax.io.images import load_image, save_image
from neuart_jax.objective.term import Inputs, Term
from neuart_jax.runs.driver import transfer

__all__ = [
    "Config",
    "FeatureNetwork",
    "InputError",
    "Inputs",
    "Progress",
    "Result",
    "Status",
    "Term",
    "load_image",
    "save_image",
    "stylize",
    "stylize_batch",
    "transfer",
]
