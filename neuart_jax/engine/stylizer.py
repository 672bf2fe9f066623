"""Two images and a configuration in, a `Result` out: the pieces of the core put together.

Or many pairs of images in, as many results out.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from itertools import repeat

import numpy as np
import numpy.typing as npt
import optax

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import known
from neuart_jax.engine.plan import check_sizes, resolve_config, run_layers, settle_config
from neuart_jax.engine.program import make_program
from neuart_jax.engine.pyramid import KeepRun, RunSnapshot, count_scales, run_scales
from neuart_jax.engine.result import BatchCallback, Callback, Progress, Result
from neuart_jax.engine.scale_run import BoundObjective, FeatureNetwork, Run
from neuart_jax.inputs.pair import Masks, Pair, finish, make_pair
from neuart_jax.losses.style import SORTING_LOSSES
from neuart_jax.models.params.load import Network, load_network
from neuart_jax.objective.term import Term
from neuart_jax.optimizers.base import Optimizer, from_optax


def stylize(
    content_image: npt.ArrayLike,
    style_images: npt.ArrayLike | Sequence[npt.ArrayLike],
    config: Config = Config(),
    *,
    masks: Masks = Masks(),
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term] = (),
    optimizer: Optimizer | optax.GradientTransformation | None = None,
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
      masks: pictures whose colors say which part of the style goes where, what is painted at all,
        and what of the styles is transparent; see `Masks`.
      network: instead of loading the one that `config.network` names.
      extra_terms: losses of one's own, beside those of `config.losses`.
      optimizer: instead of the one that `config.optimizer` names: any Optax transformation that
        doesn't evaluate the objective itself, such as ``optax.lion(1e-2)``, or an
        `optimizers.Optimizer`. Pass the same one again for no program to be compiled anew.
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
        optimizer=optimizer,
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
    optimizer: Optimizer | optax.GradientTransformation | None = None,
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
      optimizer: as in `stylize`.
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
    return stylize_pairs(
        pairs, network=network, extra_terms=extra_terms, optimizer=optimizer, callback=callback
    )


def make_objective(
    content_image: npt.ArrayLike,
    style_images: npt.ArrayLike | Sequence[npt.ArrayLike],
    config: Config = Config(),
    *,
    masks: Masks = Masks(),
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term] = (),
) -> BoundObjective:
    """Return what `stylize` minimizes at full size, as a pure function of the image.

    For an optimizer, a parametrization or a derivative of one's own: it can be differentiated,
    compiled and mapped. Arguments, also those that raise, are those of `stylize`.

    Args:
      content_image: float[height, width, 3], sRGB in [0, 1].
      style_images: float[height', width', 3], or a list of several.
      config: of which sizes, steps and optimizer play no part.
      masks: see `Masks`.
      network: instead of loading the one that `config.network` names.
      extra_terms: losses of one's own.

    Returns:
      ``objective(image) -> (total, {name: loss})``; see `BoundObjective`.

    Raises:
      InputError: an image, a setting or a weights file can't be used.
    """
    pair = make_pair(_resolve(config, network), content_image, style_images, masks=masks)
    if not isinstance(network, FeatureNetwork):
        check_sizes(pair, num_pairs=1)
    return Run([pair], network or load_run_network(pair), tuple(extra_terms)).bind_objective()


def _read_optimizer(
    given: Optimizer | optax.GradientTransformation | None,
) -> Optimizer | None:
    if given is None or isinstance(given, Optimizer):
        return given
    if isinstance(given, optax.GradientTransformation):
        return from_optax(given)
    raise InputError(
        f"{type(given).__name__} came as the optimizer",
        expected="an Optax transformation, such as optax.adam(0.02), or an Optimizer",
        remedy="name those of this package in the configuration: optimizer='adam'",
    )


def _resolve(config: Config, network: Network | FeatureNetwork | None) -> Config:
    if isinstance(network, FeatureNetwork):
        return resolve_config(config, check_names=False)
    if network is not None and not isinstance(network, Network):
        raise InputError(
            f"{type(network).__name__} came as the network",
            expected="a Network, or a FeatureNetwork(feature_fn, params)",
            remedy="make one of a linen module by FeatureNetwork.from_linen(module, variables)",
        )
    if network is not None:
        config = config.replace(model=network.config.model, weights=network.config.weights)
    # Before anything is downloaded, so that what can be refused is.
    resolve_config(config)
    return resolve_config(settle_config(config))


def stylize_pairs(
    pairs: Sequence[Pair],
    *,
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term] = (),
    optimizer: Optimizer | optax.GradientTransformation | None = None,
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
      optimizer: as in `stylize`.
      callback: as in `stylize_batch`.
      restored: where to go on, from an earlier call with the same arguments that was cut.
      keep: see `pyramid.KeepRun`.
      num_devices: of this machine, among which the pairs are shared out.

    Raises:
      InputError: the pairs don't fit together, or a picture is too small or too large.
    """
    _check_alike(pairs)
    num_parts = pairs[0].config.compute.shard_rows
    if len(pairs) > 1 and num_parts > 1:
        raise InputError(
            f"shard_rows={num_parts} came with {len(pairs)} pairs at once",
            expected="one picture at a time where its rows are shared out",
            remedy="paint them one by one, or leave out shard_rows to share out the pairs",
        )
    if not isinstance(network, FeatureNetwork):
        for pair in pairs:
            check_sizes(pair, num_pairs=-(-len(pairs) // num_devices))
    if network is None:
        network = load_run_network(*pairs)
    run = Run(pairs, network, tuple(extra_terms), _read_optimizer(optimizer), num_devices)

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


def group_key(pair: Pair) -> Hashable:
    """Return what has to be equal for pairs to be painted together: all that isn't their data.

    Args:
      pair: with a resolved configuration.
    """
    return tuple(_traits(pair).values())


def _traits(pair: Pair) -> dict[str, Hashable]:
    """Return what has to be equal, each under what a message calls it."""
    config, run, realism_steps = pair.config, pair.config.run, pair.config.realism.realism_steps
    sizes = [image.shape[:2] for image in (pair.content, *pair.styles)]
    # Only losses that sort keep something of a style's size in their targets.
    sorts = config.losses.style_loss in SORTING_LOSSES
    program = make_program(
        config,
        source=(config.network, config.compute),
        num_styles=len(pair.styles),
        presence=(),
        gray=pair.gray,
        masked=pair.paint is not None,
    )
    return {
        "settings": program,
        "numbers of steps": (
            *(run.steps, run.coarse_steps, realism_steps, run.report_every),
            *(run.stop_patience, run.stop_tolerance),
        ),
        "numbers of the optimizer": config.optimizer,
        "frames": (config.output.save_every, config.output.save_at),
        "size of the content": sizes[0],
        "sizes of the styles": tuple(sizes[1:]) if sorts else len(pair.styles),
        "number of scales": count_scales(sizes, at_most=known(config.run.scales)),
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
      InputError: see `load.load_network`.
    """
    config = pairs[0].config
    return load_network(
        config.network,
        layers=run_layers(config),
        images=[np.asarray(image) for pair in pairs for image in (pair.content, *pair.styles)],
        seed=config.run.seed,
    )
