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

from neuart_jax.color import luminance
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
    Progress,
    Result,
    make_batch_run_fn,
    make_next_stop,
    make_run_fn,
)
from neuart_jax.models import NetworkParams
from neuart_jax.objective import (
    LossTerms,
    Memberships,
    Objective,
    Targets,
    Term,
    all_layers,
    layers_of,
    make_objective,
    make_targets,
)
from neuart_jax.optimizers import make_optimizer
from neuart_jax.pair import Masks, Pair, finish, make_pair
from neuart_jax.params.store import Network, load_network
from neuart_jax.pyramid import Earlier, Scale, make_scales, run_scales
from neuart_jax.regions.memberships import memberships_at
from neuart_jax.resolve import check_sizes, resolve_config, run_layers
from neuart_jax.sections import LossConfig, OptimizerConfig, RealismConfig
from neuart_jax.settings import LayerWeights, nearest
from neuart_jax.starts import make_start
from neuart_jax.step import StopRule
from neuart_jax.terms import Presence, find_layer_weights, make_terms


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
    masks: Masks = Masks(),
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term] = (),
    callback: Callback | None = None,
) -> Result:
    """Paint the content in the manner of the style.

    Neither the files nor the sizes named in `config.images` and `config.regions` play a part: the
    arrays are taken as they are. Calls with the same shapes and settings compile once.

    Args:
      content_image: float[height, width, 3], sRGB in [0, 1].
      style_images: float[height', width', 3], sRGB in [0, 1], any size; or a list of several, each
        of its own size.
      config: what to do; see `Config`.
      masks: pictures whose colors say which part of the style goes where; see `Masks`.
      network: instead of loading the one that `config.network` names.
      extra_terms: losses of one's own, beside those of `config.losses`.
      callback: called with a `Progress` after every chunk; returning True stops the run.

    Returns:
      The picture with its losses; see `Result`. A loss that stops being finite is no exception
      but a status.

    Raises:
      InputError: an image, a setting or a weights file can't be used.
    """
    pair = make_pair(config, content_image, style_images, masks=masks)
    report = None if callback is None else lambda _, progress: callback(progress)
    return stylize_pairs([pair], config, network=network, extra_terms=extra_terms, callback=report)[
        0
    ]


def stylize_batch(
    content_images: Sequence[npt.ArrayLike],
    style_images: Sequence[npt.ArrayLike | Sequence[npt.ArrayLike]],
    config: Config = Config(),
    *,
    masks: Sequence[Masks] = (),
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
      masks: one per pair, or none; with the same regions in every pair.
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
    if masks and len(masks) != len(content_images):
        raise InputError(
            f"there are {len(masks)} masks for {len(content_images)} pairs",
            expected="one for each pair, or none at all",
            remedy="give Masks() for a pair without",
        )
    pairs = [
        make_pair(config, content, styles, masks=mask, name=f"the content picture {number}")
        for number, (content, styles, mask) in enumerate(
            zip(
                content_images, style_images, masks or [Masks()] * len(content_images), strict=True
            ),
            1,
        )
    ]
    return stylize_pairs(pairs, config, network=network, extra_terms=extra_terms, callback=callback)


def stylize_pairs(
    pairs: Sequence[Pair],
    config: Config,
    *,
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term] = (),
    callback: BatchCallback | None = None,
) -> list[Result]:
    """Do what `stylize` and `stylize_batch` do, with pairs from `pair.make_pair`."""
    config = resolve_config(config, check_names=not isinstance(network, FeatureNetwork))
    _check_alike(pairs)
    first = pairs[0]
    if not isinstance(network, FeatureNetwork):
        check_sizes(config, first, num_pairs=len(pairs))
    if network is None:
        network = load_run_network(config, *pairs)
    source: Any = network.module if isinstance(network, Network) else network.feature_fn
    extra_terms = tuple(extra_terms)

    def terms_of(scale: Scale) -> tuple[Term, ...]:
        realism = config.realism if scale.realistic else RealismConfig()
        terms = make_terms(
            config.losses,
            num_styles=len(first.styles),
            presence=first.presence,
            realism=realism,
        )
        return (*terms, *extra_terms)

    pyramids = [
        make_scales(
            pair.content,
            pair.styles,
            regions=pair.regions,
            count=config.run.scales,
            num_steps=config.run.steps,
            coarse_steps=config.run.coarse_steps,
            realistic_steps=config.realism.realism_steps if config.realism.realism_weight else 0,
        )
        for pair in pairs
    ]
    _check_terms(terms_of(pyramids[0][-1]))
    params: Any = network.params
    precision = config.compute.precision
    if isinstance(network, Network):
        layers = all_layers(terms_of(pyramids[0][-1]))
        params = prepare_params(network, config, first.content, layers=layers)

    def find_targets(scale: Scale) -> Targets:
        terms = terms_of(scale)
        content_layers, style_layers = (
            layers_of(terms, field) for field in ("content_layers", "style_layers")
        )
        content_features, style_features = _target_features_fn(
            source, content_layers, style_layers, precision
        )(params, scale.content_image, scale.style_images)
        _check_features(content_features, content_layers)
        _check_features(style_features[0], style_layers)
        content_memberships: Memberships = {}
        style_memberships: tuple[Memberships, ...] = ()
        if scale.regions is not None:
            shapes = jax.eval_shape(
                _bind(source, style_layers, precision), params, scale.content_image
            )
            content_memberships = _memberships(scale.regions.content, shapes, style_layers)
            style_memberships = tuple(
                _memberships(whole, features, style_layers)
                for whole, features in zip(scale.regions.styles, style_features, strict=True)
            )
        return make_targets(
            terms,
            content_image=scale.content_image,
            style_images=scale.style_images,
            content_features=content_features,
            style_features=style_features,
            content_memberships=content_memberships,
            style_memberships=style_memberships,
        )

    def find_start(scale: Scale, earlier: Earlier | None) -> Array:
        if earlier is not None:
            # What is to stay a photograph has details that the coarser size doesn't.
            stays = 1 - config.losses.stylization if config.run.init == "content" else 0
            return jnp.clip(earlier.image + stays * earlier.lost, 0, 1) if stays else earlier.image
        start = make_start(
            config.run, content_image=scale.content_image, style_image=scale.style_images[0]
        )
        return jnp.asarray(luminance(start)) if config.images.color == "luminance" else start

    def run_scale(
        scales: list[Scale], earlier: list[Earlier | None], first_step: int, report: BatchCallback
    ) -> list[Result]:
        targets = [find_targets(scale) for scale in scales]
        starts = [find_start(*pair) for pair in zip(scales, earlier, strict=True)]
        run_fn = functools.partial(
            _make_run_fn,
            _Program(
                source,
                precision,
                _program_of(config.losses),
                len(first.styles),
                first.presence,
                scales[0].realistic and config.realism.realism_weight > 0,
                config.images.color == "luminance",
                extra_terms,
                config.optimizer,
                StopRule(scales[0].num_steps, config.run.stop_patience, config.run.stop_tolerance),
                config.run.report_every,
            ),
        )
        frames = config.output
        options: dict[str, Any] = {
            "next_stop": make_next_stop(
                every=frames.save_every, at=frames.save_at, first_step=first_step
            ),
            "keep_state": config.optimizer.carry_state,
        }
        carried = [one.opt_state for one in earlier if one is not None]
        carries = config.optimizer.carry_state and carried
        if len(scales) == 1:
            result = run_fn(make=make_run_fn)(
                starts[0],
                params,
                targets[0],
                callback=functools.partial(report, 0),
                carried=carried[0] if carries else None,
                **options,
            )
            results = [result]
        else:
            results = run_fn(make=make_batch_run_fn)(
                jnp.stack(starts),
                params,
                jax.tree.map(lambda *leaves: jnp.stack(leaves), *targets),
                callback=report,
                carried=carried if carries else None,
                **options,
            )
        return [
            dataclasses.replace(result, layer_weights=find_layer_weights(target))
            for result, target in zip(results, targets, strict=True)
        ]

    def report_finished(number: int, progress: Progress) -> bool | None:
        assert callback is not None
        image = functools.partial(_fetch_finished, config, pairs[number], progress.image)
        return callback(number, progress._replace(image=image))

    results = run_scales(pyramids, run_scale, callback=callback and report_finished)
    return [
        dataclasses.replace(result, image=finish(config, pair, result.image))
        for pair, result in zip(pairs, results, strict=True)
    ]


def _fetch_finished(config: Config, pair: Pair, fetch: Callable[[], np.ndarray]) -> np.ndarray:
    return finish(config, pair, fetch())


def _memberships(whole: npt.ArrayLike, features: Any, layers: Sequence[str]) -> Memberships:
    return {name: memberships_at(jnp.asarray(whole), features[name].shape[:2]) for name in layers}


def _check_alike(pairs: Sequence[Pair]) -> None:
    shapes = [[image.shape for image in (pair.content, *pair.styles)] for pair in pairs]
    for number, (pair, others) in enumerate(zip(pairs, shapes, strict=True), 1):
        if others != shapes[0]:
            raise InputError(
                f"pair {number} has the shapes {others}, pair 1 has {shapes[0]}",
                expected="one shape for all content pictures, and one for all style pictures",
                remedy="resize them, or paint pairs of each shape in a batch of their own",
            )
        if pair.presence != pairs[0].presence:
            raise InputError(
                f"pair {number} has other regions than pair 1",
                expected="as many regions in every pair, with the same styles in each",
                remedy="paint pairs with other masks in a batch of their own",
            )


def load_run_network(config: Config, *pairs: Pair) -> Network:
    """Load the network of a resolved configuration, or fit it to pairs.

    See `params.store.load_network`.
    """
    return load_network(
        config.network,
        layers=run_layers(config),
        images=[np.asarray(image) for pair in pairs for image in (pair.content, *pair.styles)],
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
        stylization=float(losses.stylization > 0),
        balance=False,
        temperature=1.0,
    )


class _Program(NamedTuple):
    """All that a compiled run depends on, besides shapes."""

    source: Any
    precision: str
    losses: LossConfig
    num_styles: int
    presence: Presence
    realistic: bool
    luminance_only: bool
    extra_terms: tuple[Term, ...]
    optimizer: OptimizerConfig
    stop: StopRule
    chunk_steps: int


@functools.lru_cache(maxsize=16)
def _make_run_fn(program: _Program, *, make: Callable[..., Any]) -> Any:
    terms = (
        *make_terms(
            program.losses,
            num_styles=program.num_styles,
            presence=program.presence,
            realism=RealismConfig(realism_weight=float(program.realistic)),
        ),
        *program.extra_terms,
    )
    feature_fn = _bind(program.source, layers_of(terms, "layers"), program.precision)
    objective = make_objective(feature_fn, terms)
    return make(
        _without_color(objective) if program.luminance_only else objective,
        make_optimizer(program.optimizer, num_steps=program.stop.num_steps),
        program.stop,
        chunk_steps=program.chunk_steps,
        decay=program.optimizer.average,
    )


def _without_color(objective: Objective) -> Objective:
    """Return an objective whose gradient is the same in all channels, so that gray stays gray."""

    def gray_objective(image: Array, params: Any, targets: Targets) -> tuple[Array, LossTerms]:
        gray = jnp.broadcast_to(jnp.mean(image, axis=-1, keepdims=True), image.shape)
        return objective(gray, params, targets)

    return gray_objective
