"""Two images and a configuration in, a `Result` out: the pieces of the core put together.

Or many pairs of images in, as many results out.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.color import luminance
from neuart_jax.config import Config
from neuart_jax.devices import share_copies, share_rows
from neuart_jax.errors import InputError
from neuart_jax.features import FeatureFn, takes_winograd, transform_kernels
from neuart_jax.loop import make_next_stop
from neuart_jax.models import NetworkParams
from neuart_jax.objective import Term, all_layers
from neuart_jax.pair import Masks, Pair, finish, make_pair
from neuart_jax.params.store import Network, load_network
from neuart_jax.program import make_batch_program_fn, make_program, make_program_fn
from neuart_jax.pyramid import (
    Earlier,
    KeepRun,
    RunSnapshot,
    Scale,
    Watch,
    count_scales,
    make_scales,
    run_scales,
)
from neuart_jax.resolve import check_sizes, resolve_config, run_layers
from neuart_jax.result import BatchCallback, Callback, Progress, Result
from neuart_jax.sections import RealismConfig
from neuart_jax.starts import make_start
from neuart_jax.style_losses import SORTING_LOSSES
from neuart_jax.targets import find_targets, plan_run_tiles
from neuart_jax.terms import find_layer_weights, make_terms


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
    config = _resolve(config, network)
    [result] = stylize_pairs(
        [make_pair(config, content_image, style_images, masks=masks)],
        network=network,
        extra_terms=extra_terms,
        callback=None if callback is None else lambda _, progress: callback(progress),
    )
    return result


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
    config = _resolve(config, network)
    inputs = zip(content_images, style_images, masks or repeat(Masks()), strict=False)
    pairs = [
        make_pair(config, content, styles, masks=mask, name=f"the content picture {number}")
        for number, (content, styles, mask) in enumerate(inputs, 1)
    ]
    return stylize_pairs(pairs, network=network, extra_terms=extra_terms, callback=callback)


def _resolve(config: Config, network: Network | FeatureNetwork | None) -> Config:
    return resolve_config(config, check_names=not isinstance(network, FeatureNetwork))


def stylize_pairs(
    pairs: Sequence[Pair],
    *,
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term] = (),
    callback: BatchCallback | None = None,
    restored: RunSnapshot | None = None,
    keep: KeepRun | None = None,
    num_devices: int = 1,
) -> list[Result]:
    """Do what `stylize` and `stylize_batch` do, with pairs from `pair.make_pair`.

    Args:
      pairs: of one `group_key`, with resolved configurations.
      network: that they share; None loads it.
      extra_terms: as in `stylize`.
      callback: as in `stylize_batch`.
      restored: where to go on, from an earlier call with the same arguments that was cut.
      keep: see `pyramid.KeepRun`.
      num_devices: of this machine, among which the pairs are shared out.

    Raises:
      InputError: the pairs don't fit together, or a picture is too small or too large.
    """
    _check_alike(pairs)
    if not isinstance(network, FeatureNetwork):
        for pair in pairs:
            check_sizes(pair, num_pairs=-(-len(pairs) // num_devices))
    if network is None:
        network = load_run_network(*pairs)
    run = _Run(pairs, network, tuple(extra_terms), num_devices)

    def report_finished(number: int, progress: Progress) -> bool | None:
        assert callback is not None
        image = functools.partial(_fetch_finished, pairs[number], progress.image)
        return callback(number, progress._replace(image=image))

    results = run_scales(
        run.pyramids,
        run.run_scale,
        callback=callback and report_finished,
        restored=restored,
        keep=keep,
    )
    return [
        dataclasses.replace(result, image=finish(pair, result.image))
        for pair, result in zip(pairs, results, strict=True)
    ]


def _fetch_finished(pair: Pair, fetch: Callable[[], np.ndarray]) -> np.ndarray:
    return finish(pair, fetch())


class _Run:
    """Pairs on their way through all scales, with what the scales have in common."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        network: Network | FeatureNetwork,
        extra_terms: tuple[Term, ...],
        num_devices: int,
    ) -> None:
        self._pairs = pairs
        self._extra_terms = extra_terms
        self._num_devices = num_devices
        self.pyramids = [_make_pyramid(pair) for pair in pairs]
        terms = self._terms_of(pairs[0], self.pyramids[0][-1])
        _check_terms(terms)
        self._source: Any
        if isinstance(network, Network):
            self._source = network.module
            self._params: Any = prepare_params(
                network, pairs[0].config, pairs[0].content, layers=all_layers(terms)
            )
        else:
            self._source, self._params = network
        self._params = share_copies(self._params, pairs[0].config.compute.shard_rows)

    def run_scale(
        self,
        numbers: Sequence[int],
        scales: Sequence[Scale],
        earlier: Sequence[Earlier | None],
        watch: Watch,
    ) -> list[Result]:
        """Run one scale of some of the pairs; see `pyramid.RunScale`."""
        pairs = [self._pairs[number] for number in numbers]
        num_parts = pairs[0].config.compute.shard_rows
        scales = [scale.spread(num_parts) for scale in scales]
        targets = [
            find_targets(
                scale,
                self._terms_of(pair, scale),
                source=self._source,
                params=self._params,
                precision=pair.config.compute.precision,
                window=pair.config.compute.window,
            )
            for pair, scale in zip(pairs, scales, strict=True)
        ]
        starts = [
            share_rows(_find_start(*each), num_parts)
            for each in zip(pairs, scales, earlier, strict=True)
        ]
        config, scale = pairs[0].config, scales[0]
        program = make_program(
            config,
            source=self._source,
            num_styles=len(pairs[0].styles),
            presence=pairs[0].presence,
            extra_terms=self._extra_terms,
            num_steps=scale.num_steps,
            realistic=scale.realistic,
            tiling=plan_run_tiles(
                self._source,
                all_layers(self._terms_of(pairs[0], scale)),
                scale.content_image.shape,
                window=config.compute.window,
            ),
        )
        carried = [one.opt_state for one in earlier if one is not None]
        options: dict[str, Any] = {
            "next_stop": make_next_stop(
                every=config.output.save_every,
                at=config.output.save_at,
                first_step=watch.first_step,
            ),
            "keep_state": config.optimizer.carry_state,
            "restored": watch.restored,
            "keep": watch.keep,
        }
        carries = config.optimizer.carry_state and carried
        if len(pairs) == 1:
            result = make_program_fn(program)(
                starts[0],
                self._params,
                targets[0],
                callback=functools.partial(watch.callback, 0),
                carried=carried[0] if carries else None,
                **options,
            )
            results = [result]
        else:
            results = make_batch_program_fn(program, num_devices=self._num_devices)(
                jnp.stack(starts),
                self._params,
                jax.tree.map(lambda *leaves: jnp.stack(leaves), *targets),
                callback=watch.callback,
                carried=carried if carries else None,
                **options,
            )
        return [
            dataclasses.replace(result, layer_weights=find_layer_weights(target))
            for result, target in zip(results, targets, strict=True)
        ]

    def _terms_of(self, pair: Pair, scale: Scale) -> tuple[Term, ...]:
        terms = make_terms(
            pair.config.losses,
            num_styles=len(pair.styles),
            presence=pair.presence,
            realism=pair.config.realism if scale.realistic else RealismConfig(),
        )
        return (*terms, *self._extra_terms)


def _make_pyramid(pair: Pair) -> list[Scale]:
    run, realism = pair.config.run, pair.config.realism
    return make_scales(
        pair.content,
        pair.styles,
        regions=pair.regions,
        count=run.scales,
        num_steps=run.steps,
        coarse_steps=run.coarse_steps,
        realistic_steps=realism.realism_steps if realism.realism_weight else 0,
    )


def _find_start(pair: Pair, scale: Scale, earlier: Earlier | None) -> Array:
    config = pair.config
    if earlier is not None:
        # What is to stay a photograph has details that the coarser size doesn't.
        stays = 1 - config.losses.stylization if config.run.init == "content" else 0
        return jnp.clip(earlier.image + stays * earlier.lost, 0, 1) if stays else earlier.image
    start = make_start(
        config.run, content_image=scale.content_image, style_image=scale.style_images[0]
    )
    return jnp.asarray(luminance(start)) if config.images.color == "luminance" else start


def group_key(pair: Pair) -> Hashable:
    """Return what has to be equal for pairs to be painted together: all that isn't their data.

    Args:
      pair: with a resolved configuration.
    """
    return tuple(_traits(pair).values())


def _traits(pair: Pair) -> dict[str, Hashable]:
    """Return what has to be equal, each under what a message calls it."""
    config = pair.config
    sizes = [image.shape[:2] for image in (pair.content, *pair.styles)]
    # Only losses that sort keep something of a style's size in their targets.
    sorts = config.losses.style_loss in SORTING_LOSSES
    program = make_program(
        config,
        source=(config.network, config.compute),
        num_styles=len(pair.styles),
        presence=(),
        num_steps=config.run.steps,
    )
    return {
        "settings": (program, config.realism.realism_steps, config.run.coarse_steps),
        "frames": (config.output.save_every, config.output.save_at),
        "size of the content": sizes[0],
        "sizes of the styles": tuple(sizes[1:]) if sorts else len(pair.styles),
        "number of scales": count_scales(sizes, at_most=config.run.scales),
        "regions": pair.presence,
    }


def _check_alike(pairs: Sequence[Pair]) -> None:
    first, *others = map(_traits, pairs)
    for number, traits in enumerate(others, 2):
        for name, value in traits.items():
            if value == first[name]:
                continue
            # Programs and presences are too long for a sentence.
            short = isinstance(value, int) or name.startswith("size")
            detail = f": {value} and {first[name]}" if short else ""
            raise InputError(
                f"pair {number} is unlike pair 1 in its {name}{detail}",
                expected="pairs that differ in their pictures and coefficients only",
                remedy="resize them, or paint those that are alike in a batch of their own",
            )


def load_run_network(*pairs: Pair) -> Network:
    """Load the network that pairs share, or fit it to all of them.

    Args:
      pairs: with resolved configurations; the network is that of the first.

    Raises:
      InputError: see `params.store.load_network`.
    """
    config = pairs[0].config
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
