"""The objective over the pixels: a weighted sum of terms, each with a target computed once.

A term is a pair of pure functions. Adding a loss of one's own means writing one `Term`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.config import LossConfig
from neuart_jax.errors import InputError
from neuart_jax.features import FeatureFn, Features
from neuart_jax.losses import CONTENT_LOSSES, TV_LOSSES, smooth
from neuart_jax.settings import LayerWeights
from neuart_jax.style_losses import STYLE_LOSSES, blend_statistics

LossTerms = dict[str, Array]
"""Each term's loss before its coefficient, and their weighted sum as "total"."""


class Inputs(NamedTuple):
    """What targets are made from.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[style_height, style_width, 3], sRGB in [0, 1], per style.
      content_features: layer to float32[height', width', channels].
      style_features: the same of every style picture.
    """

    content_image: Array
    style_images: tuple[Array, ...]
    content_features: Features
    style_features: tuple[Features, ...]


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


class Smoothing(NamedTuple):
    """What becomes of features before they are compared; see `losses.smooth`.

    Attributes:
      kind: "none"; "softmax"; or "centered_softmax", less its mean. Gram matrices of features
        with the mean 1 are nearly all ones at high temperatures, and a relative error sees little
        else.
      temperature: of the softmax: of "softmax" in the features' unit, of "centered_softmax" in
        standard deviations of the target's features.
    """

    kind: str = "none"
    temperature: float = 1.0

    def find_temperatures(self, features: Features, layers: Sequence[str]) -> dict[str, Array]:
        """Return each layer's temperature, in the features' own unit: part of a target."""
        units = {
            "none": lambda values: jnp.ones(()),
            "softmax": lambda values: jnp.ones(()),
            # A flat picture's features have no spread to be measured in.
            "centered_softmax": lambda values: jnp.maximum(
                jnp.std(values.astype(jnp.promote_types(values.dtype, jnp.float32))), 1e-6
            ),
        }
        return {name: self.temperature * units[self.kind](features[name]) for name in layers}

    def __call__(self, features: Array, temperature: Array) -> Array:
        """Smooth one layer's features."""
        if self.kind == "none":
            return features
        smoothed = smooth(features, temperature)
        return smoothed - 1 if self.kind == "centered_softmax" else smoothed


NO_SMOOTHING = Smoothing()


def content_term(
    *, weight: float, layer_weights: LayerWeights, formula: str, smoothing: Smoothing = NO_SMOOTHING
) -> Term:
    """Compare features position by position: sum over layers of w_l times a content formula.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (1).
    """
    loss = CONTENT_LOSSES[formula]
    layers = _names(layer_weights)

    def make_target(inputs: Inputs) -> Any:
        temperatures = smoothing.find_temperatures(inputs.content_features, layers)
        features = {n: smoothing(inputs.content_features[n], temperatures[n]) for n in layers}
        return features, temperatures, _weight_arrays(layer_weights)

    def loss_fn(image: Array, features: Features, target: Any) -> Array:
        values, temperatures, weights = target
        losses = {n: loss(smoothing(features[n], temperatures[n]), values[n]) for n in layers}
        return _weighted_sum(losses, weights)

    return Term(
        name="content",
        weight=weight,
        make_target=make_target,
        loss_fn=loss_fn,
        content_layers=layers,
        layers=layers,
    )


def style_term(
    *,
    weight: float,
    layer_weights: LayerWeights,
    formula: str,
    smoothing: Smoothing = NO_SMOOTHING,
    shares: Sequence[float] = (1.0,),
    name: str = "style",
) -> Term:
    """Compare what is left of features without their places: sum over layers of w_l times a loss.

    Source: Gatys et al. 2015, arXiv 1508.06576, equations (3) to (5); several styles in one
    target: github.com/jcjohnson/neural-style.

    Args:
      weight: coefficient.
      layer_weights: layers with their w_l.
      formula: key of `style_losses.STYLE_LOSSES`.
      smoothing: of the features.
      shares: of each style's statistics in the target. A style with the share 0 has no part in
        it, not even as an input.
      name: of the term.
    """
    statistic, compare = STYLE_LOSSES[formula]
    layers = _names(layer_weights)
    used = [index for index, share in enumerate(shares) if share > 0]

    def make_target(inputs: Inputs) -> Any:
        first = inputs.style_features[used[0]]
        temperatures = smoothing.find_temperatures(first, layers)

        def find_statistic(index: int, layer: str) -> Any:
            features = inputs.style_features[index][layer]
            return statistic(smoothing(features, temperatures[layer]), None)

        def blend(layer: str) -> Any:
            parts = [find_statistic(index, layer) for index in used]
            return blend_statistics(parts, [jnp.float32(shares[index]) for index in used])

        statistics = {layer: blend(layer) for layer in layers}
        return statistics, temperatures, _weight_arrays(layer_weights)

    def loss_fn(image: Array, features: Features, target: Any) -> Array:
        statistics, temperatures, weights = target
        losses = {}
        for layer in layers:
            smoothed = smoothing(features[layer], temperatures[layer])
            losses[layer] = compare(smoothed, None, statistics[layer])
        return _weighted_sum(losses, weights)

    return Term(
        name=name,
        weight=weight,
        make_target=make_target,
        loss_fn=loss_fn,
        style_layers=layers,
        layers=layers,
    )


def total_variation_term(
    *, weight: float, formula: str = "mean_squares", pixel_scale: float = 1.0
) -> Term:
    """Penalize steps between neighboring pixels; see `losses.TV_LOSSES`."""
    loss = TV_LOSSES[formula]
    return Term(
        name="tv",
        weight=weight,
        make_target=lambda inputs: (),
        loss_fn=lambda image, features, target: loss(image * pixel_scale),
    )


def make_terms(config: LossConfig, *, num_styles: int = 1) -> tuple[Term, ...]:
    """Return the content, style and total variation terms whose coefficient isn't zero.

    Several separate styles are the terms style1, style2, ...; the style coefficient is shared out
    among them.

    Raises:
      InputError: the shares in `config.style_blend` don't fit the number of styles.
    """
    smoothing = Smoothing(config.smoothing or "none", config.temperature or 1.0)
    shares = _style_shares(config.style_blend, num_styles)
    style: dict[str, Any] = {
        "layer_weights": config.style_layers,
        "formula": config.style_loss,
        "smoothing": smoothing,
    }
    if num_styles == 1 or config.style_mix == "blended":
        style_terms = [style_term(weight=config.style_weight, shares=shares, **style)]
    else:
        style_terms = [
            style_term(
                weight=config.style_weight * share,
                shares=[float(other == index) for other in range(num_styles)],
                name=f"style{index + 1}",
                **style,
            )
            for index, share in enumerate(shares)
        ]
    terms = (
        content_term(
            weight=config.content_weight or 0.0,
            layer_weights=config.content_layers,
            formula=config.content_loss,
            smoothing=smoothing,
        ),
        *style_terms,
        total_variation_term(
            weight=config.tv_weight, formula=config.tv_loss, pixel_scale=config.pixel_scale
        ),
    )
    return tuple(term for term in terms if term.weight > 0)


def _style_shares(blend: Sequence[float], num_styles: int) -> list[float]:
    if not blend:
        return [1 / num_styles] * num_styles
    if len(blend) != num_styles or not 0 < sum(blend) < math.inf:
        raise InputError(
            f"style_blend has {len(blend)} shares with the sum {sum(blend):g}",
            expected=f"{num_styles} shares, one for each style, not all of them 0",
            remedy="give one share for every style, or none at all",
        )
    return [share / sum(blend) for share in blend]


def make_targets(
    terms: Sequence[Term],
    *,
    content_image: Array,
    style_images: tuple[Array, ...],
    content_features: Features,
    style_features: tuple[Features, ...],
) -> Targets:
    """Compute what every term compares with. Arguments as in `Inputs`."""
    inputs = Inputs(content_image, style_images, content_features, style_features)
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
