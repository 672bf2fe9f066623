"""The style term, which compares position-invariant statistics of features."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import LayerWeights, nearest, parse_layer_weights
from neuart_jax.losses.style import (
    MOMENT_LOSSES,
    STYLE_LOSSES,
    MomentLoss,
    StyleLoss,
    blend_statistics,
)
from neuart_jax.models.features import Features
from neuart_jax.objective.layer_target import (
    LayerTarget,
    balance_weights,
    layer_names,
    weight_arrays,
)
from neuart_jax.objective.smoothing import NO_SMOOTHING, Smoothing
from neuart_jax.objective.style_statistics import (
    LayerSums,
    Origins,
    describe_moments,
    read_sums,
    region_weights,
    sum_layer,
)
from neuart_jax.objective.term import Additive, Inputs, Memberships, Term, weighted_sum
from neuart_jax.objective.windows import Measure, Window

Presence = tuple[tuple[bool, ...], ...]
"""For every region, whether each style image has a part in it; empty without regions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleTerm:
    """A style loss in addition to those of the configuration, with any formula.

    Regions, opacity, the styles' shares, `stylization`, `balance` and smoothing are those of the
    run.

    Attributes:
      name: key in the reported losses.
      weight: coefficient of the loss.
      layers: layers with their weights w_l, as a mapping, as pairs, or as text,
        "relu1_1:0.5,relu2_1:2".
      formula: key of `losses.STYLE_LOSSES`, or a custom `losses.StyleLoss`.
    """

    name: str
    weight: float
    layers: Mapping[str, float] | LayerWeights | str
    formula: str | StyleLoss

    def __post_init__(self) -> None:
        # A tuple, since terms are hashed.
        object.__setattr__(self, "layers", parse_layer_weights(self.layers))
        if not self.layers:
            raise InputError(
                f"the style term {self.name!r} has no layers",
                expected="at least one layer with its weight",
                remedy='give some, such as layers={"relu2_1": 1.0}',
            )
        if isinstance(self.formula, StyleLoss):
            return
        if callable(self.formula):
            raise InputError(
                f"a function came as the formula of the style term {self.name!r}",
                expected="a StyleLoss(statistic, compare), or a formula's name",
                remedy="wrap the function, and that of its target, in neuart_jax.losses.StyleLoss",
            )
        if self.formula not in STYLE_LOSSES:
            raise InputError(
                f"style formula {self.formula!r} is not known",
                expected="one of " + ", ".join(STYLE_LOSSES),
                remedy=f"did you mean {nearest(str(self.formula), STYLE_LOSSES)}",
            )

    @property
    def layer_weights(self) -> LayerWeights:
        """The layers with their weights, in the order given."""
        return parse_layer_weights(self.layers)


def style_term(
    *,
    weight: float,
    layer_weights: LayerWeights,
    formula: str | StyleLoss,
    smoothing: Smoothing = NO_SMOOTHING,
    shares: Sequence[float] = (1.0,),
    members: Sequence[int] | None = None,
    presence: Presence = (),
    stylization: float = 1.0,
    balance: bool = False,
    name: str = "style",
) -> Term:
    """Compare position-invariant statistics of features: sum over layers of w_l times a loss.

    With regions, the loss is a sum over regions: the share of the image that a region covers times
    the loss between its features and those of the same region in the styles.

    Sources: Gatys et al. 2015, arXiv 1508.06576, equations (3) to (5); several styles in one
    target: github.com/jcjohnson/neural-style; regions: Gatys et al. 2017, arXiv 1611.07865,
    section 4.1, and Luan et al. 2017, arXiv 1703.07511, equations (4) and (5).
    Differs from source: a region counts in proportion to its area; and soft masks weight positions
    linearly, whereas guidance channels multiply features, so that soft regions add up to the whole.

    Args:
      weight: coefficient of the term.
      layer_weights: layers with their w_l.
      formula: key of `style.STYLE_LOSSES`, or a custom `StyleLoss`.
      smoothing: smoothing of the features.
      shares: shares of all styles.
      members: the styles whose statistics are blended into this term's target; None takes all. A
        style with the share 0 has no part in the term, not even as an input.
      presence: see `Presence`. A region's styles share it in proportion to their `shares`.
      stylization: interpolation of the target between the content image's own statistics, 0, and
        the style's, 1.
      balance: whether to divide each layer's loss by that of the content image, so that the term
        is 1 there.
      name: name of the term.
    """
    layers = layer_names(layer_weights)
    members = [i for i in (range(len(shares)) if members is None else members) if shares[i] > 0]
    total = sum(shares[index] for index in members)
    regions = [_RegionMix.of(shares, members, has) for has in presence or ((True,) * len(shares),)]
    reads_content = balance or stylization < 1
    moment_loss = MOMENT_LOSSES.get(formula) if isinstance(formula, str) else None
    # `compare` takes the arguments of `read`, (moments, origin) or (features, weights).
    read, prepare, compare = _formulas(formula)

    def describe(
        measure: Measure, temperatures: Mapping[str, Array], memberships: Memberships
    ) -> dict[str, list[Any]]:
        if moment_loss is not None:
            return describe_moments(
                moment_loss, smoothing, measure, temperatures, memberships, len(regions)
            )
        return measure(lambda features, _: describe_features(features, temperatures, memberships))

    def describe_features(
        features: Features, temperatures: Mapping[str, Array], memberships: Memberships
    ) -> dict[str, list[Any]]:
        found = {}
        for layer in layers:
            smoothed = smoothing(features[layer], temperatures[layer])
            places = memberships.get(layer)
            found[layer] = [(smoothed, region_weights(places, n)) for n in range(len(regions))]
        return found

    def compare_all(described: list[Any], targets: Iterable[Any], importance: Array) -> Array:
        return sum(
            (
                importance[number] * compare(*described[number], target)
                for number, target in enumerate(targets)
                if target is not None
            ),
            jnp.zeros(()),
        )

    def make_target(inputs: Inputs) -> LayerTarget:
        first = inputs.style_measures[members[0]]
        temperatures = smoothing.find_temperatures(first, layers)
        shifts = smoothing.find_shifts(first, temperatures)
        places = {n: inputs.content_memberships[n] for n in layers} if presence else {}
        found = {
            index: describe(
                inputs.style_measures[index],
                temperatures,
                inputs.style_memberships[index] if presence else {},
            )
            for index in members
        }
        content = describe(inputs.content_measure, temperatures, places) if reads_content else {}
        values, references, importance = {}, {}, {}
        for layer in layers:
            wanted = [
                _blend([(share, read(*found[index][layer][number])) for index, share in mix.parts])
                for number, mix in enumerate(regions)
            ]
            covered = jnp.mean(places[layer], axis=(0, 1)) if presence else jnp.ones(1)
            fractions = jnp.array([region.fraction / total for region in regions])
            importance[layer] = covered * fractions
            values[layer] = wanted
            if reads_content:
                own = content[layer]
                references[layer] = compare_all(own, map(prepare, wanted), importance[layer])
                values[layer] = [
                    None
                    if style is None
                    else _blend([(1 - stylization, read(*c)), (stylization, style)])
                    for c, style in zip(own, wanted, strict=True)
                ]
            values[layer] = list(map(prepare, values[layer]))
        weights = weight_arrays(layer_weights)
        if balance:
            weights = balance_weights(weights, references)
        return LayerTarget(values, temperatures, shifts, weights, places, importance)

    def loss_of(described: Mapping[str, list[Any]], target: LayerTarget) -> Array:
        losses = {
            layer: compare_all(described[layer], target.values[layer], target.importance[layer])
            for layer in layers
        }
        return weighted_sum(losses, target.layer_weights)

    def loss_fn(image: Array, features: Features, target: LayerTarget) -> Array:
        return loss_of(describe_features(features, target.temperatures, target.memberships), target)

    additive = _additive(moment_loss, smoothing, layers, loss_of) if moment_loss else None
    return Term(
        name=name,
        weight=weight,
        make_target=make_target,
        loss_fn=additive.loss_fn if additive else loss_fn,
        content_layers=layers if reads_content else (),
        style_layers=layers,
        layers=layers,
        additive=additive,
        of_styles=not reads_content,
    )


def _formulas(
    formula: str | StyleLoss,
) -> tuple[Callable[..., Any], Callable[[Any], Any], Callable[..., Array]]:
    """Return the functions that read a statistic, prepare a target, and compare with it."""
    loss = MOMENT_LOSSES.get(formula) if isinstance(formula, str) else None
    if loss is None:
        read, compare = STYLE_LOSSES[formula] if isinstance(formula, str) else formula
        return read, lambda statistic: statistic, compare
    prepare = lambda statistic: None if statistic is None else loss.prepare(statistic)  # noqa: E731
    return loss.read, prepare, loss.compare


def _additive(
    loss: MomentLoss,
    smoothing: Smoothing,
    layers: Sequence[str],
    loss_of: Callable[[Mapping[str, list[Any]], LayerTarget], Array],
) -> Additive:
    """Return the loss as a function of sums over every region.

    For a complete layer, moments are taken about its own mean, which avoids the cancellation about
    the target's mean if that is far away.
    """

    def origins_of(wanted: Sequence[Any]) -> Origins:
        origins = [None if target is None else loss.origin(target) for target in wanted]
        return [None if o is None else smoothing.origin_of_part(o) for o in origins]

    def sums(features: Features, target: LayerTarget, window: Window) -> dict[str, LayerSums]:
        found = {}
        for layer in layers:
            core, wanted = window.core(layer), target.values[layer]
            values, rest = smoothing.begin(
                features[layer], target.temperatures[layer], target.shifts[layer], core
            )
            weights = functools.partial(
                region_weights, target.memberships.get(layer), layer=layer, window=window
            )
            found[layer] = sum_layer(
                loss,
                rest,
                values,
                weights,
                None if core is None else origins_of(wanted),
                present=[statistic is not None for statistic in wanted],
                core=core,
            )
        return found

    def total(sums: dict[str, LayerSums], target: LayerTarget) -> Array:
        return loss_of(
            {n: read_sums(smoothing, sums[n], origins_of(target.values[n])) for n in layers},
            target,
        )

    return Additive(sums, total)


class _RegionMix(NamedTuple):
    """A term's part in one region.

    Attributes:
      parts: the term's styles in the region, with their shares of the target.
      fraction: the term's fraction of the region's loss, times the sum of its shares.
    """

    parts: list[tuple[int, float]]
    fraction: float

    @classmethod
    def of(cls, shares: Sequence[float], members: Sequence[int], has: Sequence[bool]) -> Any:
        own = {index: shares[index] for index in members if has[index]}
        mine, all_shares = sum(own.values()), sum(s for s, h in zip(shares, has, strict=True) if h)
        parts = [(index, share / mine) for index, share in own.items()]
        return cls(parts, mine / all_shares if mine else 0.0)


def _blend(parts: Sequence[tuple[float, Any]]) -> Any:
    """Return the weighted mean of statistics; None if there are none."""
    if len(parts) < 2:
        return parts[0][1] if parts else None
    shares, statistics = zip(*parts, strict=True)
    return blend_statistics(statistics, shares)
