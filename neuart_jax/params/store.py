"""Get the weights that a run asks for, check them, and make them a network."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from neuart_jax.config import NetworkConfig
from neuart_jax.errors import InputError
from neuart_jax.models import NetworkParams, find_architecture
from neuart_jax.params.canonical import nest
from neuart_jax.params.catalog import DEFAULT_FLAVOR, FLAVORS
from neuart_jax.params.convert import read_weights
from neuart_jax.params.download import Patience
from neuart_jax.params.fingerprint import take_fingerprint
from neuart_jax.params.fit_cache import load_fitted
from neuart_jax.params.published import (
    Found,
    fetch_published,
    fetch_quickly,
    files_of,
    find_published,
    is_offline,
    weights_folders,
)
from neuart_jax.params.request import Float32, Loaded, Request


class Network(NamedTuple):
    """A network ready for use.

    Attributes:
      module: the linen module.
      params: its arrays.
      identity: what made it, for the record of a result: "name", "file", "sha256".
      message: one line that says which weights these are.
    """

    module: Any
    params: NetworkParams
    identity: dict[str, str]
    message: str


def load_network(
    config: NetworkConfig,
    *,
    layers: Iterable[str],
    content_image: Float32,
    style_image: Float32,
    seed: int = 0,
) -> Network:
    """Load, download or fit the weights that `config` asks for.

    Args:
      config: model, weights, and the model's options.
      layers: the layers that will be read; `fitted` weights end at the deepest.
      content_image: float32[height, width, 3], sRGB in [0, 1]; read by `fitted` only.
      style_image: float32[height', width', 3]; likewise.
      seed: of the fit.

    Raises:
      InputError: no such weights, or they are damaged or don't fit the model.
    """
    find_architecture(config.model)
    request = Request(config, tuple(layers), content_image, style_image, seed)
    loaded = _SOURCES.get(config.weights, _load_file)(request)
    request.check(loaded.weights, source=loaded.source)
    mean, std = loaded.weights.normalization
    variables = jax.tree.map(jnp.asarray, nest(loaded.weights.variables))
    return Network(
        request.make_module(stride_on=loaded.weights.stride_on),
        NetworkParams(variables, jnp.asarray(mean), jnp.asarray(std)),
        dict(loaded.identity),
        loaded.message,
    )


def _load_auto(request: Request) -> Loaded:
    config = request.config
    found = find_published(config, DEFAULT_FLAVOR)
    if found is not None:
        return _describe(found)
    file = files_of(config, DEFAULT_FLAVOR)[0]
    place = f"put {file.name} into weights/ (from {file.url})"
    if is_offline(config):
        return load_fitted(
            request, hint=f"; for ImageNet weights {place}, or run once without --offline"
        )
    found, reason = fetch_quickly(config, DEFAULT_FLAVOR)
    if found is not None:
        return _describe(found)
    return load_fitted(
        request,
        hint=f", since {reason}; for ImageNet weights {place}, or try --weights={DEFAULT_FLAVOR}",
    )


def _load_published(request: Request) -> Loaded:
    config = request.config
    flavor = config.weights
    found = find_published(config, flavor)
    if found is None and is_offline(config):
        file = files_of(config, flavor)[0]
        raise InputError(
            f"--weights={flavor} found no ImageNet weights of {config.model} on this machine and "
            "may not download any (--offline or HF_HUB_OFFLINE)",
            expected=f"the file {file.name} in {' or '.join(map(str, weights_folders(config)))}",
            remedy=f"get it from {file.url} and put it there, or use --weights=fitted",
        )
    return _describe(found or fetch_published(config, flavor, patience=Patience()))


def _describe(found: Found) -> Loaded:
    file, provenance = found.file, found.weights.provenance
    name = file.flavor.replace("imagenet", "ImageNet")
    return Loaded(
        found.weights,
        identity={
            "name": file.flavor,
            "file": provenance["source"],
            "sha256": provenance["source_sha256"],
        },
        message=f"Weights: {name} {file.model} from {found.path} ({file.licence}).",
        source=str(found.path),
    )


def _load_file(request: Request) -> Loaded:
    config = request.config
    path = Path(os.path.expanduser(config.weights))
    # Unlike Path.is_file, this is also false for a name too long or a folder that is closed.
    if not os.path.isfile(path):
        raise InputError(
            f"--weights={config.weights} is not a file",
            expected=f"{', '.join(NAMED_WEIGHTS)}, or the path of a weights file",
            remedy="check the spelling",
        )
    digest = take_fingerprint(path).sha256
    return Loaded(
        read_weights(path, model=config.model),
        identity={"name": "file", "file": path.name, "sha256": digest},
        message=f"Weights: {config.model} from {path} (sha256 {digest[:12]}…).",
        source=str(path),
    )


_SOURCES: dict[str, Callable[[Request], Loaded]] = {
    "auto": _load_auto,
    "fitted": load_fitted,
    **dict.fromkeys(FLAVORS, _load_published),
}

NAMED_WEIGHTS = tuple(_SOURCES)
"""What `weights` may be, besides the name of a file."""
