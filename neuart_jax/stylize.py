"""Two images and a configuration in, a `Result` out: the pieces of the core put together.

Or many pairs of images in, as many results out.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.compiling import compile_fn
from neuart_jax.config import MODEL_SETTINGS, Config, LossConfig, OptimizerConfig
from neuart_jax.errors import InputError
from neuart_jax.features import (
    FeatureFn,
    make_feature_fn,
    resolve_precision,
    takes_winograd,
    transform_kernels,
)
from neuart_jax.loop import (
    BatchCallback,
    Callback,
    Result,
    make_batch_run_fn,
    make_next_stop,
    make_run_fn,
)
from neuart_jax.memory import check_memory
from neuart_jax.models import NetworkParams, check_image_size, find_architecture, resolve_layers
from neuart_jax.objective import Targets, Term, make_objective, make_targets, make_terms
from neuart_jax.optimizers import make_optimizer
from neuart_jax.params.store import Network, load_network
from neuart_jax.pyramid import Scale, make_scales, run_scales
from neuart_jax.settings import LayerWeights, nearest, parse_layer_weights
from neuart_jax.starts import make_start
from neuart_jax.step import StopRule


class FeatureNetwork(NamedTuple):
    """A network of one's own: any pure function with its parameters.

    Attributes:
      feature_fn: (params, image float32[height, width, 3] in [0, 1]) -> {layer: features}.
      params: any pytree of arrays.
    """

    feature_fn: FeatureFn
    params: Any


def stylize(
    content_image: npt.ArrayLike,
    style_images: npt.ArrayLike | Sequence[npt.ArrayLike],
    config: Config = Config(),
    *,
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term] = (),
    callback: Callback | None = None,
) -> Result:
    """Paint the content in the manner of the style.

    Neither the files nor the sizes named in `config.images` play a part: the arrays are taken as
    they are. Calls with the same shapes and settings compile once.

    Args:
      content_image: float[height, width, 3], sRGB in [0, 1].
      style_images: float[height', width', 3], sRGB in [0, 1], any size; or a list of several, each
        of its own size.
      config: what to do; see `Config`.
      network: instead of loading the one that `config.network` names.
      extra_terms: losses of one's own, beside those of `config.losses`.
      callback: called with a `Progress` after every chunk; returning True stops the run.

    Returns:
      The picture with its losses; see `Result`. A loss that stops being finite is no exception
      but a status.

    Raises:
      InputError: an image, a setting or a weights file can't be used.
    """
    content = check_image(content_image, name="the content picture")
    styles = check_style_images(style_images)
    report = None if callback is None else lambda _, progress: callback(progress)
    return _stylize_pairs([(content, styles)], config, network, extra_terms, report)[0]


def stylize_batch(
    content_images: Sequence[npt.ArrayLike],
    style_images: Sequence[npt.ArrayLike | Sequence[npt.ArrayLike]],
    config: Config = Config(),
    *,
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term] = (),
    callback: BatchCallback | None = None,
) -> list[Result]:
    """Paint many pairs at once; each comes out as if it had been painted alone by `stylize`.

    All share one network; filters that are fitted are fitted to all the pictures. An accelerator
    is busy with many pairs where one alone would leave it idle.

    Args:
      content_images: one per pair, all of one shape.
      style_images: one per pair, or several as a list; of the same shapes for every pair.
      config: as in `stylize`. Frames and reports come when the slowest pair is due; the others
        may be some steps ahead.
      network: as in `stylize`.
      extra_terms: as in `stylize`.
      callback: called with the pair's number and its `Progress` after every chunk; returning True
        stops that pair.

    Returns:
      One result per pair. A pair that fails or ends early leaves the others alone.

    Raises:
      InputError: as in `stylize`, or the pairs are none, or don't fit together.
    """
    if not content_images or len(content_images) != len(style_images):
        raise InputError(
            f"there are {len(content_images)} content and {len(style_images)} style pictures",
            expected="as many of the one as of the other, one pair at least",
            remedy="give one style picture, or one list of several, for every content picture",
        )
    pairs = [
        (check_image(content, name=f"the content picture {number}"), check_style_images(styles))
        for number, (content, styles) in enumerate(
            zip(content_images, style_images, strict=True), 1
        )
    ]
    shapes = [[image.shape for image in (content, *styles)] for content, styles in pairs]
    for number, others in enumerate(shapes, 1):
        if others != shapes[0]:
            raise InputError(
                f"pair {number} has the shapes {others}, pair 1 has {shapes[0]}",
                expected="one shape for all content pictures, and one for all style pictures",
                remedy="resize them, or paint pairs of each shape in a batch of their own",
            )
    return _stylize_pairs(pairs, config, network, extra_terms, callback)


def _stylize_pairs(
    pairs: Sequence[tuple[Array, tuple[Array, ...]]],
    config: Config,
    network: Network | FeatureNetwork | None,
    extra_terms: Sequence[Term],
    callback: BatchCallback | None,
) -> list[Result]:
    config = resolve_config(config, check_names=not isinstance(network, FeatureNetwork))
    if not isinstance(network, FeatureNetwork):
        check_sizes(config, *pairs[0])
    if network is None:
        network = _load_network(config, [image for c, styles in pairs for image in (c, *styles)])
    feature_source: Any = network.module if isinstance(network, Network) else network.feature_fn
    extra_terms = tuple(extra_terms)
    num_styles = len(pairs[0][1])
    terms = (*make_terms(config.losses, num_styles=num_styles), *extra_terms)
    _check_terms(terms)

    params: Any = network.params
    precision = config.compute.precision
    if isinstance(network, Network):
        params = prepare_params(network, config, pairs[0][0], layers=_all_layers(terms))

    def find_targets(scale: Scale) -> Targets:
        content, styles, _ = scale
        content_features, style_features = _target_features(feature_source, terms, precision)(
            params, content, styles
        )
        _check_features(content_features, _layers_of(terms, "content_layers"))
        _check_features(style_features[0], _layers_of(terms, "style_layers"))
        return make_targets(
            terms,
            content_image=content,
            style_images=styles,
            content_features=content_features,
            style_features=style_features,
        )

    def find_start(scale: Scale, coarser: Array | None) -> Array:
        if coarser is not None:
            return coarser
        return make_start(
            config.run, content_image=scale.content_image, style_image=scale.style_images[0]
        )

    def run_scale(
        scales: list[Scale], coarser: list[Array | None], first_step: int, report: BatchCallback
    ) -> list[Result]:
        targets = [find_targets(scale) for scale in scales]
        starts = [find_start(*pair) for pair in zip(scales, coarser, strict=True)]
        run_fn = functools.partial(
            _make_run_fn,
            feature_source,
            precision,
            _program_of(config.losses),
            num_styles,
            extra_terms,
            config.optimizer,
            StopRule(scales[0].num_steps, config.run.stop_patience, config.run.stop_tolerance),
            config.run.report_every,
        )
        frames = config.output
        next_stop = make_next_stop(
            every=frames.save_every, at=frames.save_at, first_step=first_step
        )
        if len(scales) == 1:
            run_one = run_fn(make=make_run_fn)
            alone = functools.partial(report, 0)
            return [run_one(starts[0], params, targets[0], next_stop=next_stop, callback=alone)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *targets)
        run_all = run_fn(make=make_batch_run_fn)
        return run_all(jnp.stack(starts), params, stacked, next_stop=next_stop, callback=report)

    pyramids = [
        make_scales(
            content,
            styles,
            count=config.run.scales,
            num_steps=config.run.steps,
            coarse_steps=config.run.coarse_steps,
        )
        for content, styles in pairs
    ]
    return run_scales(pyramids, run_scale, callback=callback)


def check_image(image: npt.ArrayLike, *, name: str) -> Array:
    """Return an image as float32[height, width, 3].

    Raises:
      InputError: another shape, integers, or values that are not in [0, 1].
    """
    array = np.asarray(image)
    expected = "floats in [0, 1] of shape (height, width, 3)"
    if array.ndim != 3 or array.shape[-1] != 3 or min(array.shape) < 1:
        raise InputError(
            f"{name} has the shape {array.shape}",
            expected=expected,
            remedy="give one color picture, without a batch axis or transparency",
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"{name} holds {array.dtype}",
            expected=expected,
            remedy="divide by 255 first if it holds bytes",
        )
    if not np.all((array >= 0) & (array <= 1)):
        raise InputError(
            f"{name} has values from {np.min(array):.4g} to {np.max(array):.4g}",
            expected=expected,
            remedy="scale or clip it first",
        )
    return jnp.asarray(array, jnp.float32)


def check_style_images(images: npt.ArrayLike | Sequence[npt.ArrayLike]) -> tuple[Array, ...]:
    """Return one style picture or several as float32[height, width, 3] each.

    Raises:
      InputError: there is none, or one of them is no image; see `check_image`.
    """
    several = isinstance(images, list | tuple) and (not images or np.ndim(images[0]) > 2)
    pictures: Sequence[Any] = images if several else [images]  # type: ignore[assignment]
    if not pictures:
        raise InputError(
            "there is no style picture", expected="at least one", remedy="give one or more"
        )
    names = _style_names(len(pictures))
    return tuple(check_image(p, name=name) for p, name in zip(pictures, names, strict=True))


def _style_names(count: int) -> list[str]:
    if count == 1:
        return ["the style picture"]
    return [f"the style picture {number}" for number in range(1, count + 1)]


def resolve_config(config: Config, *, check_names: bool = True) -> Config:
    """Fill in the model's own settings and replace aliases, so that the record is explicit.

    Args:
      config: as given.
      check_names: False leaves the layers alone, for a network that isn't in the table.

    Raises:
      InputError: no such model or layer, or an objective without any term.
    """
    losses = config.losses
    if losses.content_weight == losses.style_weight == 0:
        raise InputError(
            "content_weight and style_weight are both 0",
            expected="something to paint",
            remedy="make one of them positive",
        )
    if check_names:
        find_architecture(config.network.model)
    own = MODEL_SETTINGS[config.network.model if check_names else "vgg19"]
    empty = {name for name in own if getattr(losses, name) in ("", (), None)}
    config = config.replace(
        precision=resolve_precision(config.compute.precision), **{name: own[name] for name in empty}
    )
    if not check_names:
        return config
    resolved: dict[str, LayerWeights] = {}
    for setting in ("content_layers", "style_layers"):
        given = getattr(config.losses, setting)
        names = resolve_layers(config.network.model, [name for name, _ in given])
        pairs = tuple(zip(names, (weight for _, weight in given), strict=True))
        # Checked again: two names may have been aliases of one layer.
        resolved[setting] = parse_layer_weights(pairs)
    return config.replace(**resolved)


def check_sizes(
    config: Config, content_image: npt.ArrayLike, style_images: Sequence[npt.ArrayLike]
) -> None:
    """Check that all images reach the deepest layer, and that the run fits into memory.

    Args:
      config: resolved.
      content_image: float[height, width, 3].
      style_images: likewise, each of its own size.

    Raises:
      InputError: one of them is too small, the content too large, or the styles' shares don't
        fit their number.
    """
    make_terms(config.losses, num_styles=len(style_images))  # Complains about shares.
    layers = run_layers(config)
    names = ["the content picture", *_style_names(len(style_images))]
    for image, name in zip((content_image, *style_images), names, strict=True):
        height, width = np.shape(image)[:2]
        check_image_size(
            config.network.model,
            layers,
            height=height,
            width=width,
            padding=config.network.padding,
            name=name,
        )
    height, width = np.shape(content_image)[:2]
    check_memory(config, layers, height=height, width=width)


def load_run_network(
    config: Config, content_image: npt.ArrayLike, style_images: Sequence[npt.ArrayLike]
) -> Network:
    """Load or fit the network of a resolved configuration; see `params.store.load_network`."""
    return _load_network(config, [content_image, *style_images])


def _load_network(config: Config, images: Sequence[npt.ArrayLike]) -> Network:
    return load_network(
        config.network,
        layers=run_layers(config),
        images=[np.asarray(image) for image in images],
        seed=config.run.seed,
    )


def prepare_params(
    network: Network, config: Config, content_image: Array, *, layers: tuple[str, ...]
) -> NetworkParams:
    """Return a network's arrays as a run with a resolved configuration computes with them."""
    if not takes_winograd(config.compute):
        return network.params
    height, width, _ = content_image.shape
    return transform_kernels(network.module, network.params, layers, size=(height, width))


def run_layers(config: Config) -> tuple[str, ...]:
    """Return every layer that a run with a resolved configuration reads."""
    # How the styles share their coefficient doesn't matter here.
    return _all_layers(make_terms(dataclasses.replace(config.losses, style_blend=())))


def _layers_of(terms: Sequence[Term], field: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for term in terms for name in getattr(term, field)))


def _all_layers(terms: Sequence[Term]) -> tuple[str, ...]:
    fields = ("content_layers", "style_layers", "layers")
    return tuple(dict.fromkeys(name for field in fields for name in _layers_of(terms, field)))


def _check_terms(terms: Sequence[Term]) -> None:
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1 or name == "total":
            raise InputError(
                f"the loss term {name!r} is taken",
                expected="a name of its own for every term",
                remedy="rename the extra term",
            )


def _check_features(features: dict[str, Array], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in features:
            raise InputError(
                f"the network has no layer {name!r}",
                expected="a layer that it returns",
                remedy=f"did you mean {nearest(name, features)}",
            )


def _bind(source: Any, layers: tuple[str, ...], precision: str) -> FeatureFn:
    if hasattr(source, "apply"):
        return make_feature_fn(source, layers, precision=precision)
    return source


@functools.lru_cache(maxsize=16)
def _target_features_fn(
    source: Any, content: tuple[str, ...], style: tuple[str, ...], precision: str
) -> Any:
    def target_features(params: Any, content_image: Array, style_images: Any) -> Any:
        style_fn = _bind(source, style, precision)
        styles = tuple(style_fn(params, image) for image in style_images)
        return _bind(source, content, precision)(params, content_image), styles

    return compile_fn(target_features)


def _target_features(source: Any, terms: Sequence[Term], precision: str) -> Any:
    return _target_features_fn(
        source, _layers_of(terms, "content_layers"), _layers_of(terms, "style_layers"), precision
    )


def _program_of(losses: LossConfig) -> LossConfig:
    """Reduce an objective to what the compiled program depends on: its coefficients are data."""

    def ones(layer_weights: LayerWeights) -> LayerWeights:
        return tuple((name, 1.0) for name, _ in layer_weights)

    return dataclasses.replace(
        losses,
        content_layers=ones(losses.content_layers),
        style_layers=ones(losses.style_layers),
        content_weight=float((losses.content_weight or 0) > 0),
        style_weight=float(losses.style_weight > 0),
        tv_weight=float(losses.tv_weight > 0),
        style_blend=tuple(float(share > 0) for share in losses.style_blend),
        temperature=1.0,
    )


@functools.lru_cache(maxsize=16)
def _make_run_fn(
    source: Any,
    precision: str,
    losses: LossConfig,
    num_styles: int,
    extra_terms: tuple[Term, ...],
    optimizer: OptimizerConfig,
    stop: StopRule,
    chunk_steps: int,
    *,
    make: Callable[..., Any],
) -> Any:
    terms = (*make_terms(losses, num_styles=num_styles), *extra_terms)
    objective = make_objective(_bind(source, _layers_of(terms, "layers"), precision), terms)
    return make(
        objective,
        make_optimizer(optimizer, num_steps=stop.num_steps),
        stop,
        chunk_steps=chunk_steps,
    )
