"""The objective over the pixels: a weighted sum of terms, each with a target computed once.

A term is a pair of pure functions. A custom loss is added by writing a `Term`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.models.features import FeatureFn, Features
from neuart_jax.objective.windows import WHOLE, Measure, Window

LossTerms = dict[str, Array]
"""Each term's loss before its coefficient, and their weighted sum as "total"."""


NETWORK, LOSSES = "network", "losses"
"""Names of the parts of an objective in the metadata of compiled programs."""

Memberships = dict[str, Array]
"""Soft masks by layer, float32[height', width', regions], which sum to 1 at every position."""


class Inputs(NamedTuple):
    """The inputs from which targets are computed.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[style_height, style_width, 3], sRGB in [0, 1], per style.
      content_features: the content's features by layer, float32[height', width', channels].
      style_features: the features of every style image, by layer.
      content_memberships: the content's soft masks by layer, float32[height', width', regions], how
        much each position belongs to each region; empty without regions.
      style_memberships: the soft masks of every style image, by layer.
      content_measure: computes sums over the content's features, also for images that are too large
        for `content_features`; see `windows.Measure`.
      style_measures: the same for every style image.
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
    """A loss as a function of sums over positions, which can be computed window by window.

    Attributes:
      sums: (features of a window, target, `Window`) -> any pytree of arrays, to be summed over all
        windows.
      loss: (sums over all windows, target) -> scalar.
      kept_layers: layers whose complete content features `Term.make_target` needs; for all other
        layers it only uses `Inputs.content_measure` and `Inputs.style_measures`.
    """

    sums: Callable[[Features, Any, Window], Any]
    loss: Callable[[Any, Any], Array]
    kept_layers: tuple[str, ...] = ()

    def loss_fn(self, image: Array, features: Features, target: Any) -> Array:
        """Compute the loss with a single window for the whole image, as a `Term.loss_fn`."""
        return self.loss(self.sums(features, target, WHOLE), target)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of the objective.

    Attributes:
      name: key in `LossTerms`.
      weight: coefficient of the term.
      make_target: `Inputs` -> target, any pytree of arrays.
      loss_fn: (image, features, target) -> scalar. Pure, differentiable in image and features.
      content_layers: layers of the content image that `make_target` reads.
      style_layers: layers of the style images that `make_target` reads.
      layers: layers of the image being optimized that `loss_fn` reads.
      additive: the loss as a function of sums, if it can be computed window by window; `loss_fn` is
        then `additive.loss_fn`.
      of_styles: whether `make_target` only reads the styles and, with regions, the content's
        memberships, so that all frames of a clip share the target.
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
    """All data of an objective: an argument of the compiled step, so that pairs can share it.

    Attributes:
      weights: coefficient of every term, float32[], by name.
      values: target of every term, from its `make_target`, by name.
      canvas: photograph and paint mask, for an objective that needs them; see `canvas.Canvas`.
    """

    weights: dict[str, Array]
    values: dict[str, Any]
    canvas: Any = None


Objective = Callable[[Array, Any, Targets], tuple[Array, LossTerms]]
"""(image, params, targets) -> (loss, terms)."""


def weighted_sum(losses: Mapping[str, Array], weights: Mapping[str, Array]) -> Array:
    """Sum losses, each multiplied by the weight of the same name."""
    total = jnp.zeros(())
    for name, loss in losses.items():
        total = total + weights[name] * loss
    return total


def layers_of(terms: Sequence[Term], field: str) -> tuple[str, ...]:
    """Return the union of the terms' layers in one of their fields of layers."""
    return tuple(dict.fromkeys(name for term in terms for name in getattr(term, field)))


def all_layers(terms: Sequence[Term]) -> tuple[str, ...]:
    """Return all layers that terms read, of any image."""
    fields = ("content_layers", "style_layers", "layers")
    return tuple(dict.fromkeys(name for field in fields for name in layers_of(terms, field)))


def measure_features(features: Features) -> Measure:
    """Return the `Measure` of an image whose complete features are given."""
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
    """Compute the targets of all terms.

    The other arguments are the attributes of `Inputs`; without measures, sums are computed from the
    features.
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
    """Make the function of the pixels that is minimized: sum over terms of weight * loss.

    Args:
      feature_fn: (params, image) -> features, with at least the layers that the terms read.
      terms: the terms, of which only the functions are used; their data are in `Targets`.
    """

    def objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        with jax.named_scope(NETWORK):
            features = feature_fn(params, image)
        with jax.named_scope(LOSSES):
            losses = {t.name: t.loss_fn(image, features, targets.values[t.name]) for t in terms}
            total = weighted_sum(losses, targets.weights)
        return total, {"total": total, **losses}

    return objective
