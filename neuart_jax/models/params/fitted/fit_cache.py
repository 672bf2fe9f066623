"""Cache of weights fitted to the images, for later runs with the same images."""

import contextlib
import hashlib
import logging
import os
import time
from pathlib import Path

import jax
import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import remove_leftovers, user_cache
from neuart_jax.models.params.canonical import (
    CanonicalParams,
    digest_variables,
    flatten,
    read_safetensors,
    write_safetensors,
)
from neuart_jax.models.params.catalog import FITTED
from neuart_jax.models.params.fitted.fitted import VERSION, FitRecipe, fit_variables, make_fit_batch
from neuart_jax.models.params.request import Loaded, Request

logger = logging.getLogger(__name__)

_CACHED_FITS = 16
_SECONDS_OF_A_WRITE = 24 * 3600


def load_fitted(request: Request) -> Loaded:
    """Fit weights to the request's images, or read an earlier fit from the cache."""
    began = time.perf_counter()
    recipe, architecture = FitRecipe(), request.architecture
    batch = make_fit_batch(request.images, longest_side=recipe.longest_side)
    key = hashlib.sha256(batch.tobytes())
    depth = max(map(architecture.layer_names.index, request.layers))
    deepest = architecture.layer_names[depth]
    key.update(repr((VERSION, recipe, request.make_module(), deepest, request.seed)).encode())
    path = user_cache("fitted") / f"{request.config.model}-{key.hexdigest()[:32]}.safetensors"
    params = _read(path, request)
    how = "from the cache"
    if params is None:
        logger.info("Fitting filters to the images, which can take a minute.")
        variables = fit_variables(
            request.make_module, batch, layers=request.layers, seed=request.seed, recipe=recipe
        )
        arrays = {name: np.asarray(array) for name, array in flatten(variables).items()}
        params = CanonicalParams(arrays, FITTED, "")
        # Free the programs compiled for the fit, which are never used again: with them, VGG19 at
        # 512x384 took 1.9 GiB at its peak instead of 1.5.
        jax.clear_caches()
        _keep(path, params, request.config.model)
        how = f"in {time.perf_counter() - began:.0f} s"
    count = {2: "two"}.get(len(request.images), str(len(request.images)))
    return Loaded(
        params,
        identity={
            "name": f"fitted, version {VERSION}",
            "file": "",
            "sha256": digest_variables(params.variables),
        },
        message=f"Weights: fitted to the {count} images {how}, no ImageNet weights.",
        source="the fit",
    )


def _read(path: Path, request: Request) -> CanonicalParams | None:
    if not os.path.isfile(path):
        return None
    try:
        params = read_safetensors(path, model=request.config.model)
        request.check(params, source=str(path))
    except InputError as error:
        logger.warning("Fitting again, as the cached fit is damaged: %s", error)
        return None
    with contextlib.suppress(OSError):
        path.touch()
    return params


def _keep(path: Path, params: CanonicalParams, model: str) -> None:
    """Store a fit in the cache, and keep only the most recent ones."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, seconds=_SECONDS_OF_A_WRITE)
        write_safetensors(path, params, model=model)
        kept = sorted(path.parent.glob("*.safetensors"), key=lambda p: -p.stat().st_mtime)
        for old in kept[_CACHED_FITS:]:
            old.unlink(missing_ok=True)
    # If the cache can't be written, later runs take longer, but this one goes on.
    except (OSError, InputError) as error:
        logger.warning("The fitted weights could not be cached: %s", error)
