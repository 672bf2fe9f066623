"""What of a run is compiled, and what are its data.

Two runs share a program where all that it depends on is equal; coefficients, pictures and weights
are data, so that pairs with their own ones run together.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.config.config import Config
from neuart_jax.config.fields import LayerWeights
from neuart_jax.config.sections import LossConfig, OptimizerConfig, RealismConfig
from neuart_jax.engine.cache_key import cache_key
from neuart_jax.engine.loop import BatchRunFn, RunFn, make_batch_run_fn, make_run_fn
from neuart_jax.engine.step import Numbers, StopRule
from neuart_jax.engine.targets import bind_features, reaches_of
from neuart_jax.objective.build import make_terms
from neuart_jax.objective.style import Presence
from neuart_jax.objective.term import LossTerms, Objective, Targets, Term, layers_of, make_objective
from neuart_jax.objective.tiled import make_tiled_objective
from neuart_jax.objective.windows import Tiling
from neuart_jax.optimizers.base import Optimizer, make_optimizer, strip_numbers


class Program(NamedTuple):
    """All that a compiled run depends on, besides shapes.

    Attributes:
      source: a linen module, or a feature function of one's own.
      precision: key of `features.PRODUCTS`.
      losses: without coefficients.
      num_styles: pictures that give the style.
      presence: see `style.Presence`.
      realistic: whether the matting Laplacian counts.
      gray: whether the picture is gray.
      masked: whether only a part of it is painted.
      extra_terms: losses of one's own.
      optimizer: how pixels are moved, without its numbers; or one of the user's own.
      averages: whether the result is an average over the images.
      tiling: of a picture that is computed window by window; None computes it whole.
    """

    source: Any
    precision: str
    losses: LossConfig
    num_styles: int
    presence: Presence
    realistic: bool
    gray: bool
    masked: bool
    extra_terms: tuple[Term, ...]
    optimizer: OptimizerConfig | Optimizer
    averages: bool
    tiling: Tiling | None


def make_program(
    config: Config,
    *,
    source: Any,
    num_styles: int,
    presence: Presence,
    extra_terms: tuple[Term, ...] = (),
    optimizer: Optimizer | None = None,
    realistic: bool = True,
    gray: bool = False,
    masked: bool = False,
    tiling: Tiling | None = None,
) -> Program:
    """Reduce a run, or one of its scales, to what its program depends on.

    Args:
      config: resolved.
      source: a linen module, or a feature function of one's own.
      num_styles: pictures that give the style.
      presence: see `style.Presence`.
      extra_terms: losses of one's own; their weights are data.
      optimizer: instead of the one that the configuration names.
      realistic: whether this scale is to be held to the content's edges, if the run is to be.
      gray: whether the picture is gray.
      masked: whether only a part of it is painted.
      tiling: see `targets.plan_run_tiles`.
    """
    return Program(
        source=source,
        precision=config.compute.precision,
        losses=_without_coefficients(config.losses),
        num_styles=num_styles,
        presence=presence,
        realistic=realistic and config.realism.realism_weight > 0,
        gray=gray,
        masked=masked,
        extra_terms=tuple(dataclasses.replace(term, weight=1.0) for term in extra_terms),
        optimizer=strip_numbers(config.optimizer)
        if optimizer is None
        else optimizer._replace(numbers=()),
        averages=config.optimizer.average > 0,
        tiling=tiling,
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
        tv_weight=float((losses.tv_weight or 0) > 0),
        range_weight=float((losses.range_weight or 0) > 0),
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
    return {
        "decay": 0.5 * program.averages,  # Which one is data.
        "key": cache_key(program),
    }


def make_numbers(config: Config, *, num_steps: int, optimizer: Optimizer | None = None) -> Numbers:
    """Return what of a run is data beside its targets.

    Args:
      config: resolved.
      num_steps: updates at the most.
      optimizer: instead of the one that the configuration names.
    """
    optimizer = optimizer or make_optimizer(config.optimizer, num_steps=num_steps)
    return Numbers(
        StopRule(num_steps, config.run.stop_patience, config.run.stop_tolerance),
        optimizer.numbers,
        config.optimizer.average,
    )


def build_objective(program: Program) -> Objective:
    """Build the objective of a program: (image, params, targets) -> (loss, terms), pure."""
    terms = (
        *make_terms(
            program.losses,
            num_styles=program.num_styles,
            presence=program.presence,
            realism=RealismConfig(realism_weight=float(program.realistic)),
        ),
        *program.extra_terms,
    )
    layers = layers_of(terms, "layers")
    feature_fn = bind_features(program.source, layers, program.precision)
    if program.tiling is None:
        objective = make_objective(feature_fn, terms)
    else:
        reaches = reaches_of(program.source, layers)
        objective = make_tiled_objective(feature_fn, terms, program.tiling, reaches)
    if program.masked:
        objective = _paint_under_mask(objective)
    if program.gray:
        objective = _paint_in_gray(objective)
    return objective


def _parts(program: Program) -> tuple[Objective, Optimizer]:
    optimizer = program.optimizer
    if isinstance(optimizer, OptimizerConfig):
        optimizer = make_optimizer(optimizer, num_steps=1)
    return build_objective(program), optimizer


def _paint_under_mask(objective: Objective) -> Objective:
    """Return the objective of what is seen, as a function of the painted picture.

    Its terms see the photograph outside the mask, where its gradient is zero.

    Args:
      objective: of the whole picture; called with targets that have a canvas.
    """

    def seen_objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        return objective(targets.canvas.compose(image), params, targets)

    return seen_objective


def _paint_in_gray(objective: Objective) -> Objective:
    """Return an objective whose gradient is the same in all channels, so that gray stays gray."""

    def gray_objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        gray = jnp.broadcast_to(jnp.mean(image, axis=-1, keepdims=True), image.shape)
        return objective(gray, params, targets)

    return gray_objective
