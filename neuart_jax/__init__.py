"""Neural style transfer by optimization, in JAX: two pictures in, one painting out."""

from neuart_jax.config import Config
from neuart_jax.errors import InputError
from neuart_jax.images import load_image, save_image
from neuart_jax.objective import Inputs, Term
from neuart_jax.result import Progress, Result
from neuart_jax.step import Status
from neuart_jax.stylize import FeatureNetwork, stylize, stylize_batch
from neuart_jax.transfer import transfer

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
