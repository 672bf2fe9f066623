"""The summands of the objective, and what a configuration makes of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.errors import InputError
from neuart_jax.features import Features
from neuart_jax.losses import CONTENT_LOSSES, TV_LOSSES
from neuart_jax.objective import Inputs, Targets, Term, weighted_sum
from neuart_jax.photoreal import affine_energy, make_affine_guide
from neuart_jax.sections import LossConfig, RealismConfig
from neuart_jax.settings import LayerWeights
from neuart_jax.smoothing import NO_SMOOTHING, Smoothing
from neuart_jax.style_losses import STYLE_LOSSES, blend_statistics

Presence = tuple[tuple[bool, ...], ...]
"""Of every region, whether each style picture has a part in it; empty without regions."""

# Below any loss between pictures that differ: a layer without a loss to divide by keeps its weight.
_SMALLEST_REFERENCE = 1e-8


class LayerTarget(NamedTuple):
    """What a term that goes through layers compares with.

    Attributes:
      values: layer to features, or to one statistic per region.
      temperatures: layer to that of the smoothing.
      layer_weights: layer to its w_l, balanced if that was asked for.
      memberships: layer to float32[height', width', regions]; empty without regions.
      importance: layer to each region's share of the loss, float32[regions].
    """

    values: dict[str, Any]
    temperatures: dict[str, Array]
    layer_weights: dict[str, Array]
    memberships: dict[str, Array]
    importance: dict[str, Array]


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
      weight: coefficient.
      layer_weights: layers with their w_l.
      formula: key of `losses.CONTENT_LOSSES`.
      smoothing: of the features.
      balance: divide each layer's loss by that of the layer's mean features at every position, so
        that 1 means that nothing of the content is left.
    """
    loss = CONTENT_LOSSES[formula]
    layers = _names(layer_weights)

    def make_target(inputs: Inputs) -> LayerTarget:
        features = inputs.content_features
        temperatures = smoothing.find_temperatures(features, layers)
        values = {n: smoothing(features[n], temperatures[n]) for n in layers}
        weights = _weight_arrays(layer_weights)
        if balance:
            empty = {n: _without_places(features[n]) for n in layers}
            references = {n: loss(smoothing(empty[n], temperatures[n]), values[n]) for n in layers}
            weights = _balanced(weights, references)
        return LayerTarget(values, temperatures, weights, {}, {})

    def loss_fn(image: Array, features: Features, target: LayerTarget) -> Array:
        smoothed = {n: smoothing(features[n], target.temperatures[n]) for n in layers}
        losses = {n: loss(smoothed[n], target.values[n]) for n in layers}
        return weighted_sum(losses, target.layer_weights)

    return Term(
        name="content",
        weight=weight,
        make_target=make_target,
        loss_fn=loss_fn,
        content_layers=layers,
        layers=layers,
    )


def _without_places(features: Array) -> Array:
    mean = jnp.mean(features, axis=(0, 1), keepdims=True)
    return jnp.broadcast_to(mean, features.shape)


def style_term(
    *,
    weight: float,
    layer_weights: LayerWeights,
    formula: str,
    smoothing: Smoothing = NO_SMOOTHING,
    shares: Sequence[float] = (1.0,),
    members: Sequence[int] | None = None,
    presence: Presence = (),
    stylization: float = 1.0,
    balance: bool = False,
    name: str = "style",
) -> Term:
    """Compare what is left of features without their places: sum over layers of w_l times a loss.

    With regions, the loss is the sum over regions of the share of the picture that each covers
    times the loss between its features and those of its region in the styles.

    Sources: Gatys et al. 2015, arXiv 1508.06576, equations (3) to (5); several styles in one
    target: github.com/jcjohnson/neural-style; regions: Gatys et al. 2017, arXiv 1611.07865,
    section 4.1, and Luan et al. 2017, arXiv 1703.07511, equations (4) and (5).
    Differs from source: a region counts as much as it covers; and memberships weigh positions
    linearly, where guidance maps weigh features, so that soft regions add up to the whole.

    Args:
      weight: coefficient.
      layer_weights: layers with their w_l.
      formula: key of `style_losses.STYLE_LOSSES`.
      smoothing: of the features.
      shares: of all styles.
      members: the styles whose statistics are blended into this term's target; None takes all. A
        style with the share 0 has no part in it, not even as an input.
      presence: see `Presence`. A region's styles share it in proportion to their `shares`.
      stylization: how far the target is from the content picture's own statistics, 0, to the
        style's, 1.
      balance: divide each layer's loss by that of the content picture, so that the term begins at
        1 from there.
      name: of the term.
    """
    statistic, compare = STYLE_LOSSES[formula]
    layers = _names(layer_weights)
    members = [i for i in (range(len(shares)) if members is None else members) if shares[i] > 0]
    total = sum(shares[index] for index in members)
    regions = [_RegionMix.of(shares, members, has) for has in presence or ((True,) * len(shares),)]
    reads_content = balance or stylization < 1

    def find_statistics(features: Array, memberships: Array | None) -> list[Any]:
        return [statistic(features, _region(memberships, number)) for number in range(len(regions))]

    def make_target(inputs: Inputs) -> LayerTarget:
        temperatures = smoothing.find_temperatures(inputs.style_features[members[0]], layers)
        values, references, importance = {}, {}, {}
        for layer in layers:
            found = {
                index: find_statistics(
                    smoothing(inputs.style_features[index][layer], temperatures[layer]),
                    inputs.style_memberships[index][layer] if presence else None,
                )
                for index in members
            }
            wanted = [
                _blend([(share, found[index][number]) for index, share in region.parts])
                for number, region in enumerate(regions)
            ]
            memberships = inputs.content_memberships.get(layer)
            covered = jnp.ones(1) if memberships is None else jnp.mean(memberships, axis=(0, 1))
            fractions = jnp.array([region.fraction / total for region in regions])
            importance[layer] = covered * fractions
            values[layer] = wanted
            if reads_content:
                content = smoothing(inputs.content_features[layer], temperatures[layer])
                references[layer] = compare_all(content, memberships, wanted, importance[layer])
                own = find_statistics(content, memberships)
                values[layer] = [
                    None if style is None else _blend([(1 - stylization, c), (stylization, style)])
                    for c, style in zip(own, wanted, strict=True)
                ]
        weights = _weight_arrays(layer_weights)
        if balance:
            weights = _balanced(weights, references)
        places = {n: inputs.content_memberships[n] for n in layers} if presence else {}
        return LayerTarget(values, temperatures, weights, places, importance)

    def compare_all(
        features: Array, memberships: Array | None, wanted: list[Any], importance: Array
    ) -> Array:
        return sum(
            (
                importance[number] * compare(features, _region(memberships, number), target)
                for number, target in enumerate(wanted)
                if target is not None
            ),
            jnp.zeros(()),
        )

    def loss_fn(image: Array, features: Features, target: LayerTarget) -> Array:
        losses = {
            layer: compare_all(
                smoothing(features[layer], target.temperatures[layer]),
                target.memberships.get(layer),
                target.values[layer],
                target.importance[layer],
            )
            for layer in layers
        }
        return weighted_sum(losses, target.layer_weights)

    return Term(
        name=name,
        weight=weight,
        make_target=make_target,
        loss_fn=loss_fn,
        content_layers=layers if reads_content else (),
        style_layers=layers,
        layers=layers,
    )


class _RegionMix(NamedTuple):
    """What a term has to do with one region.

    Attributes:
      parts: its styles there, with their shares of its target.
      fraction: of the region's loss that is this term's, times the sum of its shares.
    """

    parts: list[tuple[int, float]]
    fraction: float

    @classmethod
    def of(cls, shares: Sequence[float], members: Sequence[int], has: Sequence[bool]) -> Any:
        own = {index: shares[index] for index in members if has[index]}
        mine, all_shares = sum(own.values()), sum(s for s, h in zip(shares, has, strict=True) if h)
        parts = [(index, share / mine) for index, share in own.items()]
        return cls(parts, mine / all_shares if mine else 0.0)


def _region(memberships: Array | None, number: int) -> Array | None:
    return None if memberships is None else memberships[..., number]


def _blend(parts: Sequence[tuple[float, Any]]) -> Any:
    """Return the weighted mean of statistics; None where there are none."""
    if len(parts) < 2:
        return parts[0][1] if parts else None
    shares, statistics = zip(*parts, strict=True)
    return blend_statistics(statistics, shares)


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


def realism_term(*, weight: float) -> Term:
    """Penalize what isn't locally an affine function of the content picture's colors.

    Source: Luan et al. 2017, arXiv 1703.07511, equation (2); see `photoreal.affine_energy`.
    """
    return Term(
        name="realism",
        weight=weight,
        make_target=lambda inputs: make_affine_guide(inputs.content_image),
        loss_fn=lambda image, features, target: affine_energy(image, target),
    )


def make_terms(
    config: LossConfig,
    *,
    num_styles: int = 1,
    presence: Presence = (),
    realism: RealismConfig = RealismConfig(),
) -> tuple[Term, ...]:
    """Return the terms of a run whose coefficient isn't zero.

    Several separate styles are the terms style1, style2, ...; the style coefficient is shared out
    among them. Where no region has more than one style, they are one term. Total variation counts
    in proportion to the stylization.

    Raises:
      InputError: the shares in `config.style_blend` don't fit the number of styles.
    """
    smoothing = Smoothing(config.smoothing or "none", config.temperature or 1.0)
    shares = _style_shares(config.style_blend, num_styles)
    style: dict[str, Any] = {
        "layer_weights": config.style_layers,
        "formula": config.style_loss,
        "smoothing": smoothing,
        "shares": shares,
        "presence": presence,
        "stylization": config.stylization,
        "balance": config.balance,
    }
    one_style_each = presence and all(sum(has) == 1 for has in presence)
    if num_styles == 1 or config.style_mix == "blended" or one_style_each:
        style_terms = [style_term(weight=config.style_weight, **style)]
    else:
        style_terms = [
            style_term(
                weight=config.style_weight * share,
                members=[index],
                name=f"style{index + 1}",
                **style,
            )
            for index, share in enumerate(shares)
            if share > 0
        ]
    terms = (
        content_term(
            weight=config.content_weight or 0.0,
            layer_weights=config.content_layers,
            formula=config.content_loss,
            smoothing=smoothing,
            balance=config.balance,
        ),
        *style_terms,
        total_variation_term(
            # A photograph isn't smooth.
            weight=config.tv_weight * config.stylization,
            formula=config.tv_loss,
            pixel_scale=config.pixel_scale,
        ),
        realism_term(weight=realism.realism_weight),
    )
    return tuple(term for term in terms if term.weight > 0)


def find_layer_weights(targets: Targets) -> dict[str, dict[str, float]]:
    """Return term to layer to w_l, as the terms of `make_terms` use them."""
    return {
        name: {layer: float(weight) for layer, weight in target.layer_weights.items()}
        for name, target in targets.values.items()
        if isinstance(target, LayerTarget)
    }


def _names(layer_weights: LayerWeights) -> tuple[str, ...]:
    return tuple(name for name, _ in layer_weights)


def _weight_arrays(layer_weights: LayerWeights) -> dict[str, Array]:
    return {name: jnp.float32(weight) for name, weight in layer_weights}


def _balanced(weights: Mapping[str, Array], references: Mapping[str, Array]) -> dict[str, Array]:
    return {
        name: jnp.where(references[name] > _SMALLEST_REFERENCE, weight / references[name], weight)
        for name, weight in weights.items()
    }


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
