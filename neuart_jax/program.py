"""What of a run is compiled, and what are its data.

Two runs share a program where all that it depends on is equal; coefficients, pictures and weights
are data, so that pairs with their own ones run together.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax import Array

from neuart_jax.compiling import compile_fn
from neuart_jax.config import Config
from neuart_jax.errors import InputError
from neuart_jax.features import FeatureFn, make_feature_fn
from neuart_jax.loop import BatchRunFn, RunFn, make_batch_run_fn, make_run_fn
from neuart_jax.objective import (
    LossTerms,
    Memberships,
    Objective,
    Targets,
    Term,
    layers_of,
    make_objective,
    make_targets,
)
from neuart_jax.optimizers import Optimizer, make_optimizer
from neuart_jax.pyramid import Scale
from neuart_jax.regions.memberships import memberships_at
from neuart_jax.sections import LossConfig, OptimizerConfig, RealismConfig
from neuart_jax.settings import LayerWeights, nearest
from neuart_jax.step import StopRule
from neuart_jax.terms import Presence, make_terms


class Program(NamedTuple):
    """All that a compiled run depends on, besides shapes.

    Attributes:
      source: a linen module, or a feature function of one's own.
      precision: key of `features.PRODUCTS`.
      losses: without coefficients.
      num_styles: pictures that give the style.
      presence: see `terms.Presence`.
      realistic: whether the matting Laplacian counts.
      luminance_only: whether color stays as it is.
      extra_terms: losses of one's own.
      optimizer: how pixels are moved.
      stop: when it ends.
      chunk_steps: steps per compiled call.
    """

    source: Any
    precision: str
    losses: LossConfig
    num_styles: int
    presence: Presence
    realistic: bool
    luminance_only: bool
    extra_terms: tuple[Term, ...]
    optimizer: OptimizerConfig
    stop: StopRule
    chunk_steps: int


def make_program(
    config: Config,
    *,
    source: Any,
    num_styles: int,
    presence: Presence,
    extra_terms: tuple[Term, ...] = (),
    num_steps: int,
    realistic: bool = True,
) -> Program:
    """Reduce a run, or one of its scales, to what its program depends on.

    Args:
      config: resolved.
      source: as in `Program`, like the other arguments that aren't told here.
      num_styles: likewise.
      presence: likewise.
      extra_terms: likewise.
      num_steps: updates at the most.
      realistic: whether this scale is to be held to the content's edges, if the run is to be.
    """
    return Program(
        source=source,
        precision=config.compute.precision,
        losses=_without_coefficients(config.losses),
        num_styles=num_styles,
        presence=presence,
        realistic=realistic and config.realism.realism_weight > 0,
        luminance_only=config.images.color == "luminance",
        extra_terms=extra_terms,
        optimizer=config.optimizer,
        stop=StopRule(num_steps, config.run.stop_patience, config.run.stop_tolerance),
        chunk_steps=config.run.report_every,
    )


def _without_coefficients(losses: LossConfig) -> LossConfig:
    def ones(layer_weights: LayerWeights) -> LayerWeights:
        return tuple((name, 1.0) for name, _ in layer_weights)

    return dataclasses.replace(
        losses,
        content_layers=ones(losses.content_layers),
        style_layers=ones(losses.style_layers),
        content_weight=float((losses.content_weight or 0) > 0),
        style_weight=float(losses.style_weight > 0),
        tv_weight=float(losses.tv_weight > 0),
        style_blend=tuple(float(share > 0) for share in losses.style_blend),
        stylization=float(losses.stylization > 0),
        balance=False,
        temperature=1.0,
    )


@functools.lru_cache(maxsize=16)
def make_program_fn(program: Program) -> RunFn:
    """Build a program for one pair at a time, once for all runs that share it."""
    return make_run_fn(*_parts(program), **_options(program))


@functools.lru_cache(maxsize=16)
def make_batch_program_fn(program: Program, *, num_devices: int) -> BatchRunFn:
    """Build a program for many pairs at once, shared out among devices of this machine."""
    return make_batch_run_fn(*_parts(program), **_options(program), num_devices=num_devices)


def _options(program: Program) -> dict[str, Any]:
    return {"chunk_steps": program.chunk_steps, "decay": program.optimizer.average}


def _parts(program: Program) -> tuple[Objective, Optimizer, StopRule]:
    terms = (
        *make_terms(
            program.losses,
            num_styles=program.num_styles,
            presence=program.presence,
            realism=RealismConfig(realism_weight=float(program.realistic)),
        ),
        *program.extra_terms,
    )
    feature_fn = _bind(program.source, layers_of(terms, "layers"), program.precision)
    objective = make_objective(feature_fn, terms)
    if program.luminance_only:
        objective = _without_color(objective)
    optimizer = make_optimizer(program.optimizer, num_steps=program.stop.num_steps)
    return objective, optimizer, program.stop


def _without_color(objective: Objective) -> Objective:
    """Return an objective whose gradient is the same in all channels, so that gray stays gray."""

    def gray_objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        gray = jnp.broadcast_to(jnp.mean(image, axis=-1, keepdims=True), image.shape)
        return objective(gray, params, targets)

    return gray_objective


def find_targets(
    scale: Scale, terms: Sequence[Term], *, source: Any, params: Any, precision: str
) -> Targets:
    """Compute what the terms compare with at one scale; features are computed by one program.

    Args:
      scale: the pictures.
      terms: all of the run's.
      source: as in `Program`.
      params: the network's arrays.
      precision: as in `Program`.

    Raises:
      InputError: the network doesn't return a layer that a term reads.
    """
    content_layers, style_layers = (
        layers_of(terms, field) for field in ("content_layers", "style_layers")
    )
    content_features, style_features = _make_target_features_fn(
        source, content_layers, style_layers, precision
    )(params, scale.content_image, scale.style_images)
    _check_features(content_features, content_layers)
    _check_features(style_features[0], style_layers)
    content_memberships: Memberships = {}
    style_memberships: tuple[Memberships, ...] = ()
    if scale.regions is not None:
        shapes = jax.eval_shape(_bind(source, style_layers, precision), params, scale.content_image)
        content_memberships = _memberships(scale.regions.content, shapes, style_layers)
        style_memberships = tuple(
            _memberships(whole, features, style_layers)
            for whole, features in zip(scale.regions.styles, style_features, strict=True)
        )
    return make_targets(
        terms,
        content_image=scale.content_image,
        style_images=scale.style_images,
        content_features=content_features,
        style_features=style_features,
        content_memberships=content_memberships,
        style_memberships=style_memberships,
    )


def _bind(source: Any, layers: tuple[str, ...], precision: str) -> FeatureFn:
    if hasattr(source, "apply"):
        return make_feature_fn(source, layers, precision=precision)
    return source


@functools.lru_cache(maxsize=16)
def _make_target_features_fn(
    source: Any, content: tuple[str, ...], style: tuple[str, ...], precision: str
) -> Any:
    def target_features(params: Any, content_image: Array, style_images: Any) -> Any:
        style_fn = _bind(source, style, precision)
        styles = tuple(style_fn(params, image) for image in style_images)
        return _bind(source, content, precision)(params, content_image), styles

    return compile_fn(target_features)


def _memberships(whole: npt.ArrayLike, features: Any, layers: Sequence[str]) -> Memberships:
    return {name: memberships_at(jnp.asarray(whole), features[name].shape[:2]) for name in layers}


def _check_features(features: dict[str, Array], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in features:
            raise InputError(
                f"the network has no layer {name!r}",
                expected="a layer that it returns",
                remedy=f"did you mean {nearest(name, features)}",
            )
