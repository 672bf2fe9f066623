"""The objective over the pixels: a weighted sum of terms, each with a target computed once.

A term is a pair of pure functions. Adding a loss of one's own means writing one `Term`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from neuart_jax.models.features import FeatureFn, Features
from neuart_jax.objective.windows import WHOLE, Measure, Window

LossTerms = dict[str, Array]
"""Each term's loss before its coefficient, and their weighted sum as "total"."""


Memberships = dict[str, Array]
"""Layer to float32[height', width', regions], which sum to 1 at every position."""


class Inputs(NamedTuple):
    """What targets are made from.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[style_height, style_width, 3], sRGB in [0, 1], per style.
      content_features: layer to float32[height', width', channels].
      style_features: the same of every style picture.
      content_memberships: layer to float32[height', width', regions], how much each position
        belongs to each region; empty where there are no regions.
      style_memberships: the same of every style picture.
      content_measure: sums over the content's features, which serve pictures too large for
        `content_features`, too; see `windows.Measure`.
      style_measures: the same of every style picture.
    """

    content_image: Array
    style_images: tuple[Array, ...]
    content_features: Features
    style_features: tuple[Features, ...]
    content_memberships: Memberships
    style_memberships: tuple[Memberships, ...]
    content_measure: Measure
    style_measures: tuple[Measure, ...]


class Additive(NamedTuple):
    """A loss that goes through layers as a function of sums, so that it is found in windows, too.

    Attributes:
      sums: (features of a window, target, `Window`) -> any pytree of arrays, to be added up over
        all windows.
      loss: (sums of all windows, target) -> scalar.
      kept_layers: layers whose content features `Term.make_target` wants in full; of all others
        it only asks `Inputs.content_measure` and `Inputs.style_measures`.
    """

    sums: Callable[[Features, Any, Window], Any]
    loss: Callable[[Any, Any], Array]
    kept_layers: tuple[str, ...] = ()

    def loss_fn(self, image: Array, features: Features, target: Any) -> Array:
        """Compute the loss with one window that shows all: a `Term.loss_fn`."""
        return self.loss(self.sums(features, target, WHOLE), target)


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
      additive: how to do without the features of the whole picture, where that can be done;
        `loss_fn` is its own then.
      of_styles: whether `make_target` asks for nothing but the styles, with regions also for the
        content's memberships, so that it serves every frame of a clip.
    """

    name: str
    weight: float
    make_target: Callable[[Inputs], Any]
    loss_fn: Callable[[Array, Features, Any], Array]
    content_layers: tuple[str, ...] = ()
    style_layers: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    additive: Additive | None = None
    of_styles: bool = False


class Targets(NamedTuple):
    """All numbers of an objective: an argument of the compiled step, so that pairs can share it.

    Attributes:
      weights: term name to its coefficient, float32[].
      values: term name to what its `make_target` returned.
      canvas: what is painted on, for an objective that asks for it; see `canvas.Canvas`.
    """

    weights: dict[str, Array]
    values: dict[str, Any]
    canvas: Any = None


Objective = Callable[[Array, Any, Targets], tuple[Array, LossTerms]]
"""(image, params, targets) -> (loss, terms)."""


def weighted_sum(losses: Mapping[str, Array], weights: Mapping[str, Array]) -> Array:
    """Add up losses, each times the weight of its name."""
    total = jnp.zeros(())
    for name, loss in losses.items():
        total = total + weights[name] * loss
    return total


def layers_of(terms: Sequence[Term], field: str) -> tuple[str, ...]:
    """Return what all terms name in one of their fields of layers, each layer once."""
    return tuple(dict.fromkeys(name for term in terms for name in getattr(term, field)))


def all_layers(terms: Sequence[Term]) -> tuple[str, ...]:
    """Return every layer that terms read of any picture."""
    fields = ("content_layers", "style_layers", "layers")
    return tuple(dict.fromkeys(name for field in fields for name in layers_of(terms, field)))


def measure_features(features: Features) -> Measure:
    """Return the `Measure` of a picture whose features are there in full."""
    return lambda fn, **_: fn(features, WHOLE)


def make_targets(
    terms: Sequence[Term],
    *,
    content_image: Array,
    style_images: tuple[Array, ...],
    content_features: Features,
    style_features: tuple[Features, ...],
    content_memberships: Memberships | None = None,
    style_memberships: tuple[Memberships, ...] = (),
    content_measure: Measure | None = None,
    style_measures: tuple[Measure, ...] = (),
) -> Targets:
    """Compute what every term compares with.

    Arguments as in `Inputs`; without measures, the features themselves are measured.
    """
    inputs = Inputs(
        content_image=content_image,
        style_images=style_images,
        content_features=content_features,
        style_features=style_features,
        content_memberships=content_memberships or {},
        style_memberships=style_memberships,
        content_measure=content_measure or measure_features(content_features),
        style_measures=style_measures or tuple(map(measure_features, style_features)),
    )
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
        total = weighted_sum(losses, targets.weights)
        return total, {"total": total, **losses}

    return objective
