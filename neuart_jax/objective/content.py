"""The content term, which compares features position by position."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.config.fields import LayerWeights
from neuart_jax.losses.elementwise import CONTENT_FORMULAS, SquaredErrors, content_loss
from neuart_jax.models.features import Features
from neuart_jax.objective.layer_target import (
    LayerTarget,
    balance_weights,
    layer_names,
    weight_arrays,
)
from neuart_jax.objective.smoothing import NO_SMOOTHING, Smoothing, sum_elements
from neuart_jax.objective.term import Additive, Inputs, Term, measure_features, weighted_sum
from neuart_jax.objective.windows import Window


def content_term(
    *,
    weight: float,
    layer_weights: LayerWeights,
    formula: str,
    smoothing: Smoothing = NO_SMOOTHING,
    balance: bool = False,
) -> Term:
    """Compare features position by position: sum over layers of w_l times a content formula.

    Source: Gatys et al. 2015, arXiv 1508.06576, equation (1).

    Args:
      weight: coefficient of the term.
      layer_weights: layers with their w_l.
      formula: key of `elementwise.CONTENT_FORMULAS`.
      smoothing: smoothing of the features.
      balance: whether to divide each layer's loss by the loss of a constant image with the layer's
        mean features, so that 1 means that nothing of the content is left.
    """
    layers = layer_names(layer_weights)

    def make_target(inputs: Inputs) -> LayerTarget:
        features = {name: inputs.content_features[name] for name in layers}
        measure = measure_features(features)
        temperatures = smoothing.find_temperatures(measure, layers)
        shifts = smoothing.find_shifts(measure, temperatures)
        values = {n: smoothing(features[n], temperatures[n]) for n in layers}
        weights = weight_arrays(layer_weights)
        if balance:
            empty = {n: smoothing(_without_places(features[n]), temperatures[n]) for n in layers}
            references = {n: content_loss(formula, empty[n], values[n]) for n in layers}
            weights = balance_weights(weights, references)
        return LayerTarget(values, temperatures, shifts, weights, {}, {})

    def sums(features: Features, target: LayerTarget, window: Window) -> dict[str, _Sums]:
        found = {}
        for n in layers:
            core = window.core(n)
            values, rest = smoothing.begin(
                features[n], target.temperatures[n], target.shifts[n], core
            )
            found[n] = _sum_errors(rest, values, window.cut(n, target.values[n]), core)
        return found

    def loss(sums: dict[str, _Sums], target: LayerTarget) -> Array:
        errors = {n: _squared_errors(smoothing, sums[n]) for n in layers}
        losses = {n: CONTENT_FORMULAS[formula](errors[n]) for n in layers}
        return weighted_sum(losses, target.layer_weights)

    additive = Additive(sums, loss, kept_layers=layers)
    return Term(
        name="content",
        weight=weight,
        make_target=make_target,
        loss_fn=additive.loss_fn,
        content_layers=layers,
        layers=layers,
        additive=additive,
    )


def _without_places(features: Array) -> Array:
    mean = jnp.mean(features, axis=(0, 1), keepdims=True)
    return jnp.broadcast_to(mean, features.shape)


class _Smoothed(NamedTuple):
    """Sums over a layer's elements that are only needed for smoothing.

    Attributes:
      total: sum of d.
      cross: sum of d q.
      mass: sum of q^2.
    """

    total: Array
    cross: Array
    mass: Array


class _Sums(NamedTuple):
    """Sums over a layer's elements.

    Let q be the target's smoothed features, of mean 1, and E the `Smoothing.part` of the image
    being optimized. Then d = E - (q - 1) is small for similar features, and the difference of the
    smoothed features is (d - m q) / (1 + m), where m is the mean of E, and of d.

    Attributes:
      squares: sum of d^2, or of squared differences if no smoothing is left to do.
      energy: sum of squares of the target.
      num_elements: number of the layer's elements.
      smoothed: see `_Smoothed`; None if no smoothing is left to do.
    """

    squares: Array
    energy: Array
    num_elements: Array
    smoothed: _Smoothed | None


def _sum_errors(smoothing: Smoothing, part: Array, target: Array, core: Array | None) -> _Sums:
    dtype = jnp.promote_types(part.dtype, jnp.float32)
    part, target = part.astype(dtype), target.astype(dtype)

    def add_up(values: Array) -> Array:
        return sum_elements(values, core)[0]

    origin = smoothing.origin_of_part(target)
    difference = part - origin
    squares, count = sum_elements(jnp.square(difference), core)
    smoothed = None
    if not smoothing.is_none:
        level = 1 + origin
        smoothed = _Smoothed(
            add_up(difference), add_up(difference * level), add_up(jnp.square(level))
        )
    return _Sums(squares, add_up(jnp.square(target)), count, smoothed)


def _squared_errors(smoothing: Smoothing, sums: _Sums) -> SquaredErrors:
    error = sums.squares
    if sums.smoothed is not None:
        mean = sums.smoothed.total / sums.num_elements
        error = error - 2 * mean * sums.smoothed.cross + mean**2 * sums.smoothed.mass
        error = smoothing.factor(mean) ** 2 * error
    return SquaredErrors(error, sums.energy, sums.num_elements)
