"""Which network and which weights a run gets that leaves the one or the other open."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.io.paths import check_place
from neuart_jax.models import DEFAULT_MODEL, find_architecture
from neuart_jax.models.params import catalog
from neuart_jax.models.params.catalog import DEFAULT_FLAVOR, FLAVORS, PACKAGE_FLAVOR
from neuart_jax.models.params.formats.convert import find_model
from neuart_jax.models.params.published.published import (
    Found,
    fetch_quickly,
    files_of,
    find_published,
    is_offline,
)

logger = logging.getLogger(__name__)

NAMED_WEIGHTS = ("auto", "fitted", "random", *FLAVORS)
"""What `weights` may be, besides the name of a file."""

_SECOND_MODEL = "vgg16"
"""Whose ImageNet weights a package index has."""


class Settled(NamedTuple):
    """What a configuration means on this machine now.

    Attributes:
      config: with a model, and with weights that are not "auto".
      reason: why it isn't something better, as half a sentence without an end; empty where there
        is nothing better, or where nothing was left open.
    """

    config: NetworkConfig
    reason: str


class Decision(NamedTuple):
    """What was settled and, where weights had to be found for that, these."""

    settled: Settled
    found: Found | None


def settle_network(config: NetworkConfig) -> Settled:
    """Replace an empty model and "auto" by what they mean on this machine now.

    Many runs then have the same weights, whatever happens between them.

    Args:
      config: ImageNet weights are downloaded for "auto", within about ten seconds if there is
        no network.

    Raises:
      InputError: there is no such model, or no such file of weights.
    """
    return decide(config).settled


def may_download(config: NetworkConfig) -> bool:
    """Tell whether settling a network may try to download weights."""
    if config.weights != "auto" or is_offline(config):
        return False
    offline = settle_network(dataclasses.replace(config, offline=True)).config
    return offline.weights != DEFAULT_FLAVOR


def decide(config: NetworkConfig) -> Decision:
    """Settle a network, and keep hold of the weights that were found for it.

    Weights left to "auto" are, the first of these that there are:

    1. ImageNet weights of the model, Keras' own: found on this machine, else downloaded; then any
       other ImageNet weights of it that are found.
    2. For VGG16, and where no model is asked for: VGG16's, found or from the package index.
    3. `fitted` ones.

    Args:
      config: see `settle_network`.

    Raises:
      InputError: see `settle_network`.
    """
    if config.model:
        find_architecture(config.model)
    if config.weights != "auto":
        model = config.model or _model_of_weights(config)
        return Decision(Settled(dataclasses.replace(config, model=model), ""), None)
    reasons: dict[str, None] = {}
    missing: list[str] = []
    for step in _steps(config):
        candidate = dataclasses.replace(config, model=step.model, weights=step.flavor)
        found, reason = step.look(candidate, step.flavor)
        if found is not None:
            told = [*reasons, *_tell_offline(missing)]
            return Decision(Settled(candidate, _join(told)), found)
        if reason == _FORBIDDEN:
            missing.append(f"{step.flavor} weights of {step.model}")
        elif reason:
            reasons[reason] = None
    model = config.model or DEFAULT_MODEL
    told = [*reasons, *_tell_offline(missing)]
    settled = dataclasses.replace(config, model=model, weights="fitted")
    return Decision(Settled(settled, f"{_join(told)}; {_hint(settled)}"), None)


def weights_path(config: NetworkConfig) -> Path:
    """Return the file that `weights` names.

    Raises:
      InputError: there is none.
    """
    path = check_place(config.weights, name="--weights")
    # Unlike Path.is_file, this is also false for a name too long or a folder that is closed.
    if not os.path.isfile(path):
        raise InputError(
            f"--weights={config.weights} is not a file",
            expected=f"{', '.join(NAMED_WEIGHTS)}, or the path of a weights file",
            remedy="check the spelling",
        )
    return path


_FORBIDDEN = "forbidden"


class _Step(NamedTuple):
    """A place to look for weights: gives them, or a reason why there are none, or neither."""

    model: str
    flavor: str
    look: Callable[[NetworkConfig, str], tuple[Found | None, str]]


def _steps(config: NetworkConfig) -> Iterator[_Step]:
    model = config.model or DEFAULT_MODEL
    yield _Step(model, DEFAULT_FLAVOR, _find)
    yield _Step(model, DEFAULT_FLAVOR, _fetch)
    yield from _other_steps(model)
    if config.model not in ("", _SECOND_MODEL):
        return
    if model != _SECOND_MODEL:
        yield _Step(_SECOND_MODEL, DEFAULT_FLAVOR, _find)
        yield from _other_steps(_SECOND_MODEL)
    yield _Step(_SECOND_MODEL, PACKAGE_FLAVOR, _find)
    yield _Step(_SECOND_MODEL, PACKAGE_FLAVOR, _fetch)


def _other_steps(model: str) -> Iterator[_Step]:
    for flavor in FLAVORS:
        has = any((file.model, file.flavor) == (model, flavor) for file in catalog.PUBLISHED)
        if has and flavor not in (DEFAULT_FLAVOR, PACKAGE_FLAVOR):
            yield _Step(model, flavor, _find)


def _find(config: NetworkConfig, flavor: str) -> tuple[Found | None, str]:
    try:
        return find_published(config, flavor), ""
    except InputError as error:
        # Bad luck for a run that wants this file; this one takes the next best.
        logger.warning("%s", error)
        return None, error.came


def _fetch(config: NetworkConfig, flavor: str) -> tuple[Found | None, str]:
    return (None, _FORBIDDEN) if is_offline(config) else fetch_quickly(config, flavor)


def _tell_offline(missing: list[str]) -> Iterator[str]:
    if missing:
        yield (
            f"no {' and no '.join(missing)} are on this machine, and --offline or HF_HUB_OFFLINE "
            "forbids to download any"
        )


def _join(reasons: list[str]) -> str:
    return ", and ".join(reasons)


def _hint(config: NetworkConfig) -> str:
    file = files_of(config, DEFAULT_FLAVOR)[0]
    place = f"for ImageNet weights put {file.name} into weights/ (from {file.url})"
    if is_offline(config):
        return f"{place}, or run once without --offline"
    return f"{place}, or try --weights={DEFAULT_FLAVOR}"


def _model_of_weights(config: NetworkConfig) -> str:
    """Return the model that weights are of which were asked for without one."""
    if config.weights in FLAVORS:
        models = [file.model for file in catalog.PUBLISHED if file.flavor == config.weights]
        return DEFAULT_MODEL if DEFAULT_MODEL in models else models[0]
    if config.weights in NAMED_WEIGHTS:
        return DEFAULT_MODEL
    return find_model(weights_path(config))
