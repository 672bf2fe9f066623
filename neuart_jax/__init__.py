"""Neural style transfer by optimization, in JAX: two images in, one painting out.

The names in `__all__` here, in `neuart_jax.losses` and in `neuart_jax.optimizers` are public;
everything else may move.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.presets import PRESETS, Preset, apply_preset
from neuart_jax.engine.bound_objective import BoundObjective
from neuart_jax.engine.own_parts import FeatureNetwork, Parametrization
from neuart_jax.engine.result import Callback, Progress, Result
from neuart_jax.engine.step import Status
from neuart_jax.engine.stylizer import make_objective, stylize, stylize_batch
from neuart_jax.inputs.pair import Masks
from neuart_jax.io.images import load_image, save_image
from neuart_jax.models.params.load import Network, load_network
from neuart_jax.objective.style import StyleTerm
from neuart_jax.objective.term import Inputs, Term

if TYPE_CHECKING:
    from neuart_jax.runs.batch import run_batch
    from neuart_jax.runs.driver import transfer
    from neuart_jax.runs.manifest import find_jobs
    from neuart_jax.runs.record import Record, read_record

try:
    __version__ = importlib.metadata.version("neuart_jax")
except importlib.metadata.PackageNotFoundError:  # Run from its source tree.
    __version__ = "0+unknown"

__all__ = [
    "PRESETS",
    "BoundObjective",
    "Callback",
    "Config",
    "FeatureNetwork",
    "InputError",
    "Inputs",
    "Masks",
    "Network",
    "Parametrization",
    "Preset",
    "Progress",
    "Record",
    "Result",
    "Status",
    "StyleTerm",
    "Term",
    "apply_preset",
    "find_jobs",
    "load_image",
    "load_network",
    "make_objective",
    "read_record",
    "run_batch",
    "save_image",
    "stylize",
    "stylize_batch",
    "transfer",
]

# Modules that write folders are imported on first use: library users may never need them.
_LATER = {
    "Record": "runs.record",
    "find_jobs": "runs.manifest",
    "read_record": "runs.record",
    "run_batch": "runs.batch",
    "transfer": "runs.driver",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
