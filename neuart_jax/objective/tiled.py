"""The objective and its targets window by window: large images in the memory of a small one.

Source: Galerne, Raad, Lezama & Morel 2024, "Scaling painting style transfer", arXiv 2212.13459,
section 4: what a style loss reads of a layer are sums over positions. A first pass adds them up, a
second one takes every window's gradient, given that of the sums; the image never goes through the
network as a whole.
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
    """Check that every term can be found window by window.

    Raises:
      InputError: one needs the features of the whole image.
    """
    for term in terms:
        if term.additive is None and (term.layers or term.content_layers or term.style_layers):
            raise InputError(
                f"the loss term {term.name!r} needs all features of a layer at once",
                expected="terms that sums over windows are enough for",
                remedy="choose a style loss that doesn't sort, such as relative or wasserstein, or "
                "paint without windows",
            )


def make_tiled_objective(
    feature_fn: FeatureFn, terms: Sequence[Term], tiling: Tiling, reaches: Mapping[str, Reach]
) -> Objective:
    """Return the function that `term.make_objective` returns, with one window's activations.

    It is differentiable once in the image, in reverse mode; nothing is kept of the layers between
    the value and its gradient, so that these take two forward passes and a backward one. Terms that
    read no layer see the whole image. Features more than 40 temperatures of a softmax above the
    target's give no finite loss.

    Args:
      feature_fn: (params, image) -> features, with at least the layers that the terms read.
      terms: see `check_additive`.
      tiling: of the image being made.
      reaches: of every layer that the terms read; see `models`.

    Raises:
      InputError: see `check_additive`.
    """
    check_additive(terms)
    additive = {term.name: term.additive for term in terms if term.additive is not None}

    def sums_of(pixels: Array, params: Any, targets: Targets, spot: tuple[Span, Span]) -> Any:
        features = feature_fn(params, pixels)
        window = _open(tiling, spot, features, reaches)
        return {n: form.sums(features, targets.values[n], window) for n, form in additive.items()}

    def losses_of(image: Array, sums: Any, targets: Targets) -> tuple[Array, LossTerms]:
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
            tiling, lambda spot: sums_of(cut_pixels(tiling, spot, image), params, targets, spot)
        )
        return losses_of(image, sums, targets), (image, params, targets, sums)

    def backward(saved: Any, cotangent: Any) -> tuple[Array, None, None]:
        image, params, targets, sums = saved
        _, pull_back = jax.vjp(lambda image, sums: losses_of(image, sums, targets), image, sums)
        image_bar, sums_bar = pull_back(cotangent)

        def add_window(gradient: Array, spot: tuple[Span, Span]) -> Array:
            pixels = cut_pixels(tiling, spot, image)
            _, pull_back = jax.vjp(lambda pixels: sums_of(pixels, params, targets, spot), pixels)
            return add_pixels(tiling, spot, gradient, pull_back(sums_bar)[0])

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
    """Compute what `term.make_targets` does, with the activations of one window.

    Pure: compile it with all arrays as arguments. A style image is passed through the network
    once or, depending on losses and smoothing, up to five times.

    Args:
      terms: see `check_additive`.
      feature_fn: (params, image) -> features, with at least the layers that the terms read of any
        image.
      params: its parameters.
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[style_height, style_width, 3] per style.
      content_tiling: of the content image.
      style_tilings: one for each style image.
      reaches: of every layer that the terms read.
      content_memberships: as in `term.Inputs`.
      style_memberships: one for each style image.

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
    tiling: Tiling, spot: tuple[Span, Span], features: Features, reaches: Mapping[str, Reach]
) -> Window:
    shapes = {name: array.shape for name, array in features.items() if name in reaches}
    return open_window(tiling, spot, shapes, reaches)


def _add_up(tiling: Tiling, fn: Any, combine: Any = jnp.add, initial: float = 0.0) -> Any:
    """Combine what a function of the spot gives for every window."""
    spot = jax.tree.map(lambda values: values[0], tiling.spots())
    shapes = jax.eval_shape(fn, spot)
    start = jax.tree.map(lambda s: jnp.full(s.shape, initial, s.dtype), shapes)
    return scan_windows(tiling, lambda sums, spot: jax.tree.map(combine, sums, fn(spot)), start)


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
        def found(spot: tuple[Span, Span]) -> Any:
            features = feature_fn(params, cut_pixels(tiling, spot, image))
            return fn(features, _open(tiling, spot, features, reaches))

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
    """Put some layers' features of the whole image together from windows."""
    if tiling.is_whole or not layers:
        return {n: f for n, f in feature_fn(params, image).items() if n in layers}
    shapes = jax.eval_shape(feature_fn, params, image)
    empty = {n: jnp.zeros(shapes[n].shape, shapes[n].dtype) for n in layers}

    def paste(whole: Features, spot: tuple[Span, Span]) -> Features:
        features = feature_fn(params, cut_pixels(tiling, spot, image))
        window = _open(tiling, spot, features, reaches)
        return {n: window.paste(n, whole[n], features[n]) for n in layers}

    return scan_windows(tiling, paste, empty)
