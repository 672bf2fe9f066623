"""Statistics of smoothed layers, one per region, from complete features or window by window."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.losses.moments import Moments, find_mean, map_moments, mean_of, sum_moments
from neuart_jax.losses.style import MomentLoss
from neuart_jax.models.features import Features
from neuart_jax.objective.smoothing import Smoothing, sum_elements
from neuart_jax.objective.windows import Measure, Window

Origins = Sequence[Array | None]
"""Origin of the moments of every region; None is 0."""


class LayerSums(NamedTuple):
    """Sums over the `Smoothing.part` of a layer.

    Attributes:
      total: sum over all elements, for the smoothing; None without smoothing.
      num_elements: number of elements, for the smoothing; None without smoothing.
      moments: moments of every region; None for a region without a part in the term.
      means: mean of every region, the origin of its moments; None if origins were given.
    """

    total: Array | None
    num_elements: Array | None
    moments: list[Moments | None]
    means: list[Array | None] | None = None


def region_weights(
    memberships: Array | None, number: int, *, layer: str = "", window: Window | None = None
) -> Array | None:
    """Return the weights of a window's positions in a region; None stands for ones.

    Args:
      memberships: soft masks of the whole layer, float32[height', width', regions]; None without
        regions.
      number: index of the region.
      layer: name of the layer.
      window: the window; None stands for the whole layer.
    """
    core = None if window is None else window.core(layer)
    if memberships is None:
        return core
    if window is not None:
        memberships = window.cut(layer, memberships)
    return memberships[..., number] if core is None else core * memberships[..., number]


def sum_layer(
    loss: MomentLoss,
    smoothing: Smoothing,
    part: Array,
    weights: Callable[[int], Array | None],
    origins: Origins | None,
    *,
    present: Sequence[bool],
    core: Array | None,
) -> LayerSums:
    """Compute the sums over a window that a style formula and the smoothing need.

    Args:
      loss: the style formula.
      smoothing: smoothing of the features.
      part: the features, from `Smoothing.part`.
      weights: index of a region -> weights of the positions.
      origins: origins of the moments, in the unit of `part`; None takes the window's means.
      present: whether each region has a part in the term.
      core: core of the window.
    """
    means = None
    if origins is None:
        origins = means = [
            find_mean(part, weights(number)) if loss.centered else None
            for number in range(len(present))
        ]
    total = count = None
    if not smoothing.is_none:
        total, count = sum_elements(part, core)
    moments = [
        loss.sum(part, weights(number), origin) if is_present else None
        for number, (origin, is_present) in enumerate(zip(origins, present, strict=True))
    ]
    return LayerSums(total, count, moments, means)


def read_sums(
    smoothing: Smoothing, sums: LayerSums, origins: Origins
) -> list[tuple[Moments, Array | None] | None]:
    """Return the moments of the smoothed features for every region, and their origins.

    Args:
      smoothing: the remaining smoothing.
      sums: sums over the whole layer.
      origins: origins given to `sum_layer`, if any.
    """
    origins = origins if sums.means is None else sums.means
    if sums.total is None or sums.num_elements is None:
        return [
            None if moments is None else (moments, origin)
            for moments, origin in zip(sums.moments, origins, strict=True)
        ]
    mean = sums.total / sums.num_elements
    found: list[tuple[Moments, Array | None] | None] = []
    for moments, origin in zip(sums.moments, origins, strict=True):
        if moments is None:
            found.append(None)
            continue
        part = jnp.zeros_like(moments.first) if origin is None else origin
        scaled = map_moments(moments, smoothing.factor(mean))
        found.append((scaled, smoothing.origin(part, mean)))
    return found


def describe_moments(
    loss: MomentLoss,
    smoothing: Smoothing,
    measure: Measure,
    temperatures: Mapping[str, Array],
    memberships: Mapping[str, Array],
    num_regions: int,
) -> dict[str, list[tuple[Moments, Array | None]]]:
    """Compute the moments of an image for a style formula.

    Args:
      loss: the style formula.
      smoothing: smoothing of the features.
      measure: `Measure` of the image.
      temperatures: temperature of every layer.
      memberships: soft masks of every layer, float32[height', width', regions]; empty without
        regions.
      num_regions: number of regions; 1 without regions.

    Returns:
      For every layer, each region's moments and their origin, as arguments of `MomentLoss.read`.
    """
    shifts = smoothing.find_shifts(measure, dict(temperatures))
    numbers = range(num_regions)

    def add_up(
        fn: Callable[[str, Array, Callable[[int], Array | None], Array | None], Any],
    ) -> Any:
        """Sum a function of (layer, part, weights of a region, core) over all windows."""

        def sums(features: Features, window: Window) -> dict[str, Any]:
            found = {}
            for layer, temperature in temperatures.items():
                part = smoothing.part(features[layer], temperature, shifts[layer])

                def weights(number: int, layer: str = layer) -> Array | None:
                    return region_weights(
                        memberships.get(layer), number, layer=layer, window=window
                    )

                found[layer] = fn(layer, part, weights, window.core(layer))
            return found

        return measure(sums)

    origins: dict[str, list[Array | None]] = {n: [None] * num_regions for n in temperatures}
    if loss.centered:
        firsts = add_up(
            lambda _, part, weights, core: [
                sum_moments(part, weights(number), diagonal=True) for number in numbers
            ]
        )
        origins = {
            layer: [mean_of(moments, None) for moments in found] for layer, found in firsts.items()
        }
    sums = add_up(
        lambda layer, part, weights, core: sum_layer(
            loss,
            smoothing,
            part,
            weights,
            origins[layer],
            present=(True,) * num_regions,
            core=core,
        )
    )
    # All regions are present, so no entry is None.
    return {n: read_sums(smoothing, sums[n], origins[n]) for n in sums}  # type: ignore[misc]
