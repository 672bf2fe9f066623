"""Compute the targets of a run's terms by compiled programs, whole or window by window."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest
from neuart_jax.engine.cache_key import cache_key
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.scales import Scale
from neuart_jax.inputs.regions.memberships import memberships_at
from neuart_jax.models.features import FeatureFn, make_feature_fn
from neuart_jax.models.receptive_field import Reach
from neuart_jax.objective.term import (
    Memberships,
    Targets,
    Term,
    all_layers,
    layers_of,
    make_targets,
)
from neuart_jax.objective.tiled import make_tiled_targets
from neuart_jax.objective.windows import Tiling, find_margins, one_window, plan_tiles


def find_targets(
    scale: Scale,
    terms: Sequence[Term],
    *,
    source: Any,
    params: Any,
    precision: str,
    window: int = 0,
    key: str = "",
) -> Targets:
    """Compute the targets of terms at one scale.

    The features are computed by one program. The targets are computed from them by a second program
    if the terms have a `key`, else by dozens of small ones.

    Args:
      scale: the images at this size.
      terms: the terms of the run.
      source: a linen module, or a custom feature function.
      params: the network's parameters.
      precision: key of `features.PRODUCTS`.
      window: longest side of the windows in pixels; 0 for none.
      key: cache key of everything the terms depend on; see `cache_key`.

    Raises:
      InputError: the network doesn't return a layer that a term reads.
    """
    content_layers, style_layers = (
        layers_of(terms, field) for field in ("content_layers", "style_layers")
    )
    content_memberships: Memberships = {}
    style_memberships: tuple[Memberships, ...] = ()
    if scale.regions is not None:
        shapes_fn = functools.partial(
            jax.eval_shape, bind_features(source, style_layers, precision), params
        )
        content_memberships = _memberships(
            scale.regions.content, shapes_fn(scale.content_image), style_layers
        )
        style_memberships = tuple(
            _memberships(whole, shapes_fn(image), style_layers)
            for whole, image in zip(scale.regions.styles, scale.style_images, strict=True)
        )
    memberships: dict[str, Any] = {
        "content_memberships": content_memberships,
        "style_memberships": style_memberships,
    }
    layers = all_layers(terms)
    images = (scale.content_image, *scale.style_images)
    tilings = [plan_run_tiles(source, layers, image.shape, window=window) for image in images]
    if any(tilings):
        content_tiling, *style_tilings = (
            tiling or one_window(*image.shape[:2])
            for tiling, image in zip(tilings, images, strict=True)
        )

        tile = _make_tiled_targets_fn if key else _make_tiled_targets_fn.__wrapped__
        tiled_targets = tile(
            _Terms(f"tiled targets {key}", tuple(terms)),
            *(source, layers, precision, content_tiling, tuple(style_tilings)),
        )
        return tiled_targets(params, scale.content_image, scale.style_images, memberships)
    content_features, style_features = _make_target_features_fn(
        source, content_layers, style_layers, precision
    )(params, scale.content_image, scale.style_images)
    _check_features(content_features, content_layers)
    _check_features(style_features[0], style_layers)
    make: Callable[..., Targets] = functools.partial(make_targets, tuple(terms))
    if key:
        make = _make_targets_fn(_Terms(f"targets {key}", tuple(terms)))
    return make(
        content_image=scale.content_image,
        style_images=scale.style_images,
        content_features=content_features,
        style_features=style_features,
        **memberships,
    )


@dataclasses.dataclass(frozen=True)
class _Terms:
    """Terms that compare equal if their cache keys are equal."""

    key: str
    terms: tuple[Term, ...] = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=16)
def _make_targets_fn(terms: _Terms) -> Callable[..., Targets]:
    compiled = compile_fn(lambda inputs: make_targets(terms.terms, **inputs), key=terms.key)
    return lambda **inputs: compiled(inputs)


@functools.lru_cache(maxsize=16)
def _make_tiled_targets_fn(
    terms: _Terms,
    source: Any,
    layers: tuple[str, ...],
    precision: str,
    content_tiling: Tiling,
    style_tilings: tuple[Tiling, ...],
) -> Any:
    def tiled_targets(
        params: Any, content_image: Array, style_images: tuple[Array, ...], memberships: Any
    ) -> Targets:
        return make_tiled_targets(
            terms.terms,
            bind_features(source, layers, precision),
            params,
            content_image=content_image,
            style_images=style_images,
            content_tiling=content_tiling,
            style_tilings=style_tilings,
            reaches=reaches_of(source, layers),
            **memberships,
        )

    return compile_fn(tiled_targets)


def bind_features(source: Any, layers: tuple[str, ...], precision: str) -> FeatureFn:
    """Return the feature function of a linen module, or a custom one unchanged."""
    if hasattr(source, "apply"):
        return make_feature_fn(source, layers, precision=precision)
    return source


def plan_run_tiles(
    source: Any, layers: Sequence[str], size: Sequence[int], *, window: int
) -> Tiling | None:
    """Plan the windows of an image.

    Args:
      source: a linen module, or a custom feature function.
      layers: all layers that are read.
      size: (height, width, ...) of the image.
      window: longest side of the windows in pixels; 0 for none.

    Returns:
      The tiling, or None if a single window covers the image.

    Raises:
      InputError: the window is too small, or the source is a function whose receptive fields are
        unknown.
    """
    if not window or max(size[:2]) <= window:
        return None
    if not hasattr(source, "layer_reaches"):
        raise InputError(
            f"window={window} came with a custom network",
            expected="one of this package's, whose receptive fields are known",
            remedy="leave the window out",
        )
    halo, stride = find_margins(reaches_of(source, layers))
    return plan_tiles(size[0], size[1], halo=halo, stride=stride, window=window)


def reaches_of(source: Any, layers: Sequence[str]) -> dict[str, Reach]:
    """Return the receptive fields of a linen module's layers."""
    reaches = source.layer_reaches()
    return {name: reaches[name] for name in layers}


@functools.lru_cache(maxsize=16)
def _make_target_features_fn(
    source: Any, content: tuple[str, ...], style: tuple[str, ...], precision: str
) -> Any:
    def target_features(params: Any, content_image: Array, style_images: Any) -> Any:
        style_fn = bind_features(source, style, precision)
        styles = tuple(style_fn(params, image) for image in style_images)
        return bind_features(source, content, precision)(params, content_image), styles

    key = cache_key(source, "target_features", content, style, precision)
    return compile_fn(target_features, key=key)


def _memberships(whole: npt.ArrayLike, features: Any, layers: Sequence[str]) -> Memberships:
    return {name: memberships_at(jnp.asarray(whole), features[name].shape[:2]) for name in layers}


def _check_features(features: dict[str, Array], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in features:
            raise InputError(
                f"the network has no layer {name!r}",
                expected="one of the layers that it returns",
                remedy=f"did you mean {nearest(name, features)}",
            )
