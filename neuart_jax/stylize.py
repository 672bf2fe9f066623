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
from neuart_jax.config import Config
from neuart_jax.errors import InputError
from neuart_jax.features import (
    FeatureFn,
    make_feature_fn,
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
from neuart_jax.models import NetworkParams
from neuart_jax.objective import (
    Targets,
    Term,
    all_layers,
    layers_of,
    make_objective,
    make_targets,
    make_terms,
)
from neuart_jax.optimizers import make_optimizer
from neuart_jax.params.store import Network, load_network
from neuart_jax.pictures import check_image, check_style_images
from neuart_jax.pyramid import Scale, make_scales, run_scales
from neuart_jax.resolve import check_sizes, resolve_config, run_layers
from neuart_jax.sections import LossConfig, OptimizerConfig
from neuart_jax.settings import LayerWeights, nearest
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
        check_sizes(config, *pairs[0], num_pairs=len(pairs))
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
        params = prepare_params(network, config, pairs[0][0], layers=all_layers(terms))

    def find_targets(scale: Scale) -> Targets:
        content, styles, _ = scale
        content_features, style_features = _target_features(feature_source, terms, precision)(
            params, content, styles
        )
        _check_features(content_features, layers_of(terms, "content_layers"))
        _check_features(style_features[0], layers_of(terms, "style_layers"))
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
        source, layers_of(terms, "content_layers"), layers_of(terms, "style_layers"), precision
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
    objective = make_objective(_bind(source, layers_of(terms, "layers"), precision), terms)
    return make(
        objective,
        make_optimizer(optimizer, num_steps=stop.num_steps),
        stop,
        chunk_steps=chunk_steps,
    )
