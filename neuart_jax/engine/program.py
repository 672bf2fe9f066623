"""Separate what a run compiles from its data.

Two runs share a program if everything it depends on is equal; coefficients, images and network
parameters are data, so that pairs with different data run together.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jax import Array

from neuart_jax.config.config import Config
from neuart_jax.config.fields import LayerWeights
from neuart_jax.config.sections import LossConfig, OptimizerConfig
from neuart_jax.engine.cache_key import cache_key
from neuart_jax.engine.loop import Loop, compile_loop
from neuart_jax.engine.own_parts import OwnParts, Parametrization
from neuart_jax.engine.step import Numbers, StopRule
from neuart_jax.engine.targets import bind_features, reaches_of
from neuart_jax.inputs.pair import Pair
from neuart_jax.objective.style import Presence, StyleTerm
from neuart_jax.objective.term import LossTerms, Objective, Targets, Term, layers_of, make_objective
from neuart_jax.objective.tiled import make_tiled_objective
from neuart_jax.objective.windows import Tiling
from neuart_jax.optimizers.base import Optimizer
from neuart_jax.optimizers.build import make_optimizer, strip_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Everything a compiled run depends on, except for shapes: the key for sharing programs.

    Attributes:
      source: a linen module, or a custom feature function.
      precision: key of `features.PRODUCTS`.
      losses: settings of the losses, without coefficients.
      num_styles: number of style images.
      presence: the styles of every region; see `style.Presence`.
      realistic: whether there is a photorealism term.
      gray: whether the image is gray.
      masked: whether there is a paint mask.
      num_references: largest number of reference frames of a clip's frame; 0 for an image.
      own_terms: custom losses, without coefficients.
      optimizer: settings of the optimizer, without its numbers; or a custom optimizer.
      parametrization: parametrization of the image; None optimizes its pixels.
      averages: whether the result is a moving average of the iterates.
      tiling: windows of the image; None computes it whole.
      terms: terms of the objective; determined by the fields above, except for their coefficients.
    """

    source: Any
    precision: str
    losses: LossConfig
    num_styles: int
    presence: Presence
    realistic: bool
    gray: bool
    masked: bool
    num_references: int
    own_terms: tuple[Term | StyleTerm, ...]
    optimizer: OptimizerConfig | Optimizer
    parametrization: Parametrization | None
    averages: bool
    tiling: Tiling | None
    terms: tuple[Term, ...] = dataclasses.field(compare=False)

    @property
    def key(self) -> str:
        """Cache key of the program; empty if it has none, see `cache_key`."""
        return cache_key(*(getattr(self, field) for field in _TOLD))


_TOLD = [field.name for field in dataclasses.fields(Program) if field.compare]


def make_program(
    pair: Pair,
    own: OwnParts,
    *,
    presence: Presence,
    source: Any,
    terms: tuple[Term, ...],
    realistic: bool = True,
    num_references: int = 0,
) -> Program:
    """Reduce a run, or one of its stages, to what its program depends on.

    Args:
      pair: pair with a resolved configuration.
      own: custom parts of the run.
      presence: the styles of every region; see `style.Presence`.
      source: a linen module, a custom feature function, or a stand-in for the network to be loaded.
      terms: terms of the run's objective.
      realistic: whether this stage has the photorealism term, if the run has it.
      num_references: as in `Program`.
    """
    config = pair.config
    if not realistic:
        names = {term.name for term in own.terms}
        terms = tuple(t for t in terms if t.name != "realism" or t.name in names)
    return Program(
        source=source,
        precision=config.compute.precision,
        losses=_without_coefficients(config.losses),
        num_styles=len(pair.styles),
        presence=presence,
        realistic=realistic and config.realism.realism_weight > 0,
        gray=pair.gray,
        masked=pair.paint is not None,
        num_references=num_references,
        own_terms=tuple(map(_without_weights, own.terms)),
        optimizer=strip_numbers(config.optimizer)
        if own.optimizer is None
        else own.optimizer._replace(numbers=()),
        parametrization=own.parametrization,
        averages=config.optimizer.average > 0,
        tiling=None,  # Depends on the network; see `Plan.with_source`.
        terms=terms,
    )


def _without_weights(term: Term | StyleTerm) -> Term | StyleTerm:
    if isinstance(term, StyleTerm):
        return dataclasses.replace(term, weight=1.0, layers=_ones(term.layer_weights))
    return dataclasses.replace(term, weight=1.0)


def _ones(layer_weights: LayerWeights) -> LayerWeights:
    return tuple((name, 1.0) for name, _ in sorted(layer_weights))


def _without_coefficients(losses: LossConfig) -> LossConfig:
    return dataclasses.replace(
        losses,
        content_layers=_ones(losses.content_layers),
        style_layers=_ones(losses.style_layers),
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
def build_loop(program: Program, *, batched: bool = False, num_devices: int = 1) -> Loop:
    """Build the loop of a program, cached for all runs that share the program."""
    optimizer = program.optimizer
    if isinstance(optimizer, OptimizerConfig):
        optimizer = make_optimizer(optimizer, num_steps=1)  # Numbers are data.
    return compile_loop(
        build_objective(program),
        optimizer,
        averages=program.averages,
        render=None if program.parametrization is None else program.parametrization.render,
        key=program.key,
        batched=batched,
        num_devices=num_devices,
    )


def make_numbers(config: Config, *, num_steps: int, optimizer: Optimizer | None = None) -> Numbers:
    """Return the data of a run other than its targets.

    Args:
      config: resolved configuration.
      num_steps: largest number of updates.
      optimizer: optimizer to use instead of the configured one.
    """
    optimizer = optimizer or make_optimizer(config.optimizer, num_steps=num_steps)
    return Numbers(
        StopRule(num_steps, config.run.stop_patience, config.run.stop_tolerance),
        optimizer.numbers,
        config.optimizer.average,
    )


def build_objective(program: Program) -> Objective:
    """Build the objective of a program: (image, params, targets) -> (loss, terms), pure."""
    layers = layers_of(program.terms, "layers")
    feature_fn = bind_features(program.source, layers, program.precision)
    if program.tiling is None:
        objective = make_objective(feature_fn, program.terms)
    else:
        reaches = reaches_of(program.source, layers)
        objective = make_tiled_objective(feature_fn, program.terms, program.tiling, reaches)
    if program.masked:
        objective = _paint_under_mask(objective)
    if program.gray:
        objective = _paint_in_gray(objective)
    if program.parametrization is not None:
        objective = _paint_with_parameters(objective, program.parametrization)
    return objective


def _paint_under_mask(objective: Objective) -> Objective:
    """Return an objective whose terms see the image composited over the photograph.

    Outside the mask, the terms see the photograph, and the gradient is zero.

    Args:
      objective: objective of the whole image; called with targets that have a canvas.
    """

    def seen_objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        return objective(targets.canvas.compose(image), params, targets)

    return seen_objective


def _paint_with_parameters(objective: Objective, parametrization: Parametrization) -> Objective:
    """Return the objective of a rendered image as a function of its parameters."""

    def rendered_objective(given: Any, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        return objective(parametrization.render(given), params, targets)

    return rendered_objective


def _paint_in_gray(objective: Objective) -> Objective:
    """Return an objective whose gradient is the same in all channels, so that gray stays gray."""

    def gray_objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        gray = jnp.broadcast_to(jnp.mean(image, axis=-1, keepdims=True), image.shape)
        return objective(gray, params, targets)

    return gray_objective
