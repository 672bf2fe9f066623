"""The objective over the pixels: a weighted sum of terms, each with a target computed once.

A term is a pair of pure functions. Adding a loss of one's own means writing one `Term`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.config import LossConfig
from neuart_jax.features import FeatureFn, Features
from neuart_jax.losses import CONTENT_LOSSES, STYLE_LOSSES, gram_matrix, total_variation
from neuart_jax.settings import LayerWeights

LossTerms = dict[str, Array]
"""Each term's loss before its coefficient, and their weighted sum as "total"."""


class Inputs(NamedTuple):
    """What targets are made from.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_image: float32[style_height, style_width, 3], sRGB in [0, 1].
      content_features: layer to float32[height', width', channels].
      style_features: the same of the style picture.
    """

    content_image: Array
    style_image: Array
    content_features: Features
    style_features: Features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of the objective.

    Attributes:
      name: key in `LossTerms`.
      weight: its coefficient.
      make_target: `Inputs` -> any pytree of arrays that the loss compares with.
      loss_fn: (image, features, target) -> scalar. Pure, differentiable in image and features.
      content_layers: layers that `make_target` reads of the content picture.
      style_layers: layers that `make_target` reads of the style picture.
      layers: layers that `loss_fn` reads of the image being made.
    """

    name: str
    weight: float
    make_target: Callable[[Inputs], Any]
    loss_fn: Callable[[Array, Features, Any], Array]
    content_layers: tuple[str, ...] = ()
    style_layers: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


class Targets(NamedTuple):
    """All numbers of an objective: an argument of the compiled step, so that pairs can share it.

    Attributes:
      weights: term name to its coefficient, float32[].
      values: term name to what its `make_target` returned.
    """

    weights: dict[str, Array]
    values: dict[str, Any]


Objective = Callable[[Array, Any, Targets], tuple[Array, LossTerms]]
"""(image, params, targets) -> (loss, terms)."""


def _names(layer_weights: LayerWeights) -> tuple[str, ...]:
    return tuple(name for name, _ in layer_weights)


def _weight_arrays(layer_weights: LayerWeights) -> dict[str, Array]:
    return {name: jnp.float32(weight) for name, weight in layer_weights}


def _weighted_sum(losses: dict[str, Array], weights: dict[str, Array]) -> Array:
    total = jnp.zeros(())
    for name, loss in losses.items():
        total = total + weights[name] * loss
    return total


def content_term(*, weight: float, layer_weights: LayerWeights, formula: str) -> Term:
    """Compare features position by position: sum over layers of w_l times a content formula.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (1).
    """
    loss = CONTENT_LOSSES[formula]
    layers = _names(layer_weights)

    def make_target(inputs: Inputs) -> Any:
        features = {name: inputs.content_features[name] for name in layers}
        return features, _weight_arrays(layer_weights)

    def loss_fn(image: Array, features: Features, target: Any) -> Array:
        values, weights = target
        return _weighted_sum({n: loss(features[n], values[n]) for n in layers}, weights)

    return Term(
        name="content",
        weight=weight,
        make_target=make_target,
        loss_fn=loss_fn,
        content_layers=layers,
        layers=layers,
    )


def style_term(*, weight: float, layer_weights: LayerWeights, formula: str) -> Term:
    """Compare Gram matrices: sum over layers of w_l times a style formula.

    Source: Gatys et al. 2015, arXiv 1508.06576, equations (3) to (5).
    """
    loss = STYLE_LOSSES[formula]
    layers = _names(layer_weights)

    def make_target(inputs: Inputs) -> Any:
        grams = {
            name: gram_matrix(inputs.style_features[name], divisor="positions") for name in layers
        }
        return grams, _weight_arrays(layer_weights)

    def loss_fn(image: Array, features: Features, target: Any) -> Array:
        grams, weights = target
        losses = {n: loss(gram_matrix(features[n], divisor="positions"), grams[n]) for n in layers}
        return _weighted_sum(losses, weights)

    return Term(
        name="style",
        weight=weight,
        make_target=make_target,
        loss_fn=loss_fn,
        style_layers=layers,
        layers=layers,
    )


def total_variation_term(*, weight: float) -> Term:
    """Penalize steps between neighboring pixels; see `losses.total_variation`."""
    return Term(
        name="tv",
        weight=weight,
        make_target=lambda inputs: (),
        loss_fn=lambda image, features, target: total_variation(image),
    )


def make_terms(config: LossConfig) -> tuple[Term, ...]:
    """Return the content, style and total variation terms whose coefficient isn't zero."""
    terms = (
        content_term(
            weight=config.content_weight,
            layer_weights=config.content_layers,
            formula=config.content_loss,
        ),
        style_term(
            weight=config.style_weight,
            layer_weights=config.style_layers,
            formula=config.style_loss,
        ),
        total_variation_term(weight=config.tv_weight),
    )
    return tuple(term for term in terms if term.weight > 0)


def make_targets(
    terms: Sequence[Term],
    *,
    content_image: Array,
    style_image: Array,
    content_features: Features,
    style_features: Features,
) -> Targets:
    """Compute what every term compares with. Arguments as in `Inputs`."""
    inputs = Inputs(content_image, style_image, content_features, style_features)
    return Targets(
        weights={term.name: jnp.float32(term.weight) for term in terms},
        values={term.name: term.make_target(inputs) for term in terms},
    )


def make_objective(feature_fn: FeatureFn, terms: Sequence[Term]) -> Objective:
    """Return the function of the pixels that is minimized: sum over terms of weight * loss.

    Args:
      feature_fn: (params, image) -> features, with at least the layers that the terms read.
      terms: see `Term`. Only their functions are used here; the numbers come with the targets.
    """

    def objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        features = feature_fn(params, image)
        losses = {t.name: t.loss_fn(image, features, targets.values[t.name]) for t in terms}
        total = _weighted_sum(losses, targets.weights)
        return total, {"total": total, **losses}

    return objective
