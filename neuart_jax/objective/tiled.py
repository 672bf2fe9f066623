"""The objective and its targets window by window: large images in the memory of a small one.

Source: Galerne, Raad, Lezama & Morel 2024, "Scaling painting style transfer", arXiv 2212.13459,
section 4: a style loss depends on a layer only through sums over positions. A first pass computes
the sums, a second one every window's gradient from the gradient of the sums; the whole image never
passes through the network at once.
Differs from source: equal to the objective of the whole image up to rounding; see `windows`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.models.features import FeatureFn, Features
from neuart_jax.models.receptive_field import Reach
from neuart_jax.objective.term import (
    LOSSES,
    NETWORK,
    LossTerms,
    Memberships,
    Objective,
    Targets,
    Term,
    layers_of,
    make_targets,
    measure_features,
    weighted_sum,
)
from neuart_jax.objective.windows import (
    Measure,
    Span,
    Tiling,
    Window,
    add_pixels,
    cut_pixels,
    open_window,
    scan_windows,
)


def check_additive(terms: Sequence[Term]) -> None:
    """Check that every term can be computed window by window.

    Raises:
      InputError: a term needs the features of the whole image.
    """
    for term in terms:
        if term.additive is None and (term.layers or term.content_layers or term.style_layers):
            raise InputError(
                f"the loss term {term.name!r} needs all features of a layer at once",
                expected="terms that depend on sums over windows only",
                remedy="choose a style loss that doesn't sort, such as relative or wasserstein, or "
                "paint without windows",
            )


def make_tiled_objective(
    feature_fn: FeatureFn, terms: Sequence[Term], tiling: Tiling, reaches: Mapping[str, Reach]
) -> Objective:
    """Make the function of `term.make_objective` with the activations of one window at a time.

    The function is differentiable once with respect to the image, in reverse mode. No activations
    are kept between the value and its gradient, so together they take two forward passes and a
    backward pass. Terms that read no layer see the whole image. The loss is not finite for features
    more than 40 temperatures of a softmax above the target's.

    Args:
      feature_fn: (params, image) -> features, with at least the layers that the terms read.
      terms: terms that pass `check_additive`.
      tiling: tiling of the image being optimized.
      reaches: receptive fields of all layers that the terms read; see `models`.

    Raises:
      InputError: see `check_additive`.
    """
    check_additive(terms)
    additive = {term.name: term.additive for term in terms if term.additive is not None}

    def sums_of(pixels: Array, params: Any, targets: Targets, tile: tuple[Span, Span]) -> Any:
        with jax.named_scope(NETWORK):
            features = feature_fn(params, pixels)
        window = _open(tiling, tile, features, reaches)
        with jax.named_scope(LOSSES):
            return {
                n: form.sums(features, targets.values[n], window) for n, form in additive.items()
            }

    def losses_of(image: Array, sums: Any, targets: Targets) -> tuple[Array, LossTerms]:
        with jax.named_scope(LOSSES):
            losses = {
                term.name: term.loss_fn(image, {}, targets.values[term.name])
                if term.additive is None
                else term.additive.loss(sums[term.name], targets.values[term.name])
                for term in terms
            }
            total = weighted_sum(losses, targets.weights)
        return total, {"total": total, **losses}

    @jax.custom_vjp
    def objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        return forward(image, params, targets)[0]

    def forward(image: Array, params: Any, targets: Targets) -> tuple[Any, Any]:
        sums = _add_up(
            tiling, lambda tile: sums_of(cut_pixels(tiling, tile, image), params, targets, tile)
        )
        return losses_of(image, sums, targets), (image, params, targets, sums)

    def backward(saved: Any, cotangent: Any) -> tuple[Array, None, None]:
        image, params, targets, sums = saved
        _, pull_back = jax.vjp(lambda image, sums: losses_of(image, sums, targets), image, sums)
        image_bar, sums_bar = pull_back(cotangent)

        def add_window(gradient: Array, tile: tuple[Span, Span]) -> Array:
            pixels = cut_pixels(tiling, tile, image)
            _, pull_back = jax.vjp(lambda pixels: sums_of(pixels, params, targets, tile), pixels)
            return add_pixels(tiling, tile, gradient, pull_back(sums_bar)[0])

        return scan_windows(tiling, add_window, image_bar), None, None

    objective.defvjp(forward, backward)
    return objective


def make_tiled_targets(
    terms: Sequence[Term],
    feature_fn: FeatureFn,
    params: Any,
    *,
    content_image: Array,
    style_images: tuple[Array, ...],
    content_tiling: Tiling,
    style_tilings: tuple[Tiling, ...],
    reaches: Mapping[str, Reach],
    content_memberships: Memberships | None = None,
    style_memberships: tuple[Memberships, ...] = (),
) -> Targets:
    """Compute the targets of `term.make_targets` with the activations of one window at a time.

    Pure: compile it with all arrays as arguments. A style image passes through the network once or,
    depending on losses and smoothing, up to five times.

    Args:
      terms: terms that pass `check_additive`.
      feature_fn: (params, image) -> features, with at least the layers that the terms read of any
        image.
      params: parameters of the network.
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[style_height, style_width, 3] per style.
      content_tiling: tiling of the content image.
      style_tilings: tiling of every style image.
      reaches: receptive fields of all layers that the terms read.
      content_memberships: the content's soft masks; see `term.Inputs`.
      style_memberships: soft masks of every style image; see `term.Inputs`.

    Raises:
      InputError: see `check_additive`.
    """
    check_additive(terms)
    kept = tuple(
        dict.fromkeys(n for t in terms if t.additive is not None for n in t.additive.kept_layers)
    )
    content_features = _keep_features(
        feature_fn, params, content_image, content_tiling, reaches, layers=kept
    )
    measured = tuple(n for n in layers_of(terms, "content_layers") if n not in kept)
    if measured:
        content_measure = _measure(feature_fn, params, content_image, content_tiling, reaches)
    else:
        content_measure = measure_features(content_features)
    return make_targets(
        terms,
        content_image=content_image,
        style_images=style_images,
        content_features=content_features,
        style_features=(),
        content_memberships=content_memberships,
        style_memberships=style_memberships,
        content_measure=content_measure,
        style_measures=tuple(
            _measure(feature_fn, params, image, tiling, reaches)
            for image, tiling in zip(style_images, style_tilings, strict=True)
        ),
    )


def _open(
    tiling: Tiling, tile: tuple[Span, Span], features: Features, reaches: Mapping[str, Reach]
) -> Window:
    shapes = {name: array.shape for name, array in features.items() if name in reaches}
    return open_window(tiling, tile, shapes, reaches)


def _add_up(tiling: Tiling, fn: Any, combine: Any = jnp.add, initial: float = 0.0) -> Any:
    """Combine the results of a function of the tile over all windows."""
    tile = jax.tree.map(lambda values: values[0], tiling.tiles())
    shapes = jax.eval_shape(fn, tile)
    start = jax.tree.map(lambda s: jnp.full(s.shape, initial, s.dtype), shapes)
    return scan_windows(tiling, lambda sums, tile: jax.tree.map(combine, sums, fn(tile)), start)


def _measure(
    feature_fn: FeatureFn,
    params: Any,
    image: Array,
    tiling: Tiling,
    reaches: Mapping[str, Reach],
) -> Measure:
    if tiling.is_whole:
        return measure_features(feature_fn(params, image))

    def measure(fn: Any, *, combine: Any = jnp.add, initial: float = 0.0) -> Any:
        def found(tile: tuple[Span, Span]) -> Any:
            features = feature_fn(params, cut_pixels(tiling, tile, image))
            return fn(features, _open(tiling, tile, features, reaches))

        return _add_up(tiling, found, combine, initial)

    return measure


def _keep_features(
    feature_fn: FeatureFn,
    params: Any,
    image: Array,
    tiling: Tiling,
    reaches: Mapping[str, Reach],
    *,
    layers: Sequence[str],
) -> Features:
    """Assemble the features of some layers for the whole image from windows."""
    if tiling.is_whole or not layers:
        return {n: f for n, f in feature_fn(params, image).items() if n in layers}
    shapes = jax.eval_shape(feature_fn, params, image)
    empty = {n: jnp.zeros(shapes[n].shape, shapes[n].dtype) for n in layers}

    def paste(whole: Features, tile: tuple[Span, Span]) -> Features:
        features = feature_fn(params, cut_pixels(tiling, tile, image))
        window = _open(tiling, tile, features, reaches)
        return {n: window.paste(n, whole[n], features[n]) for n in layers}

    return scan_windows(tiling, paste, empty)
