"""Two images and a configuration in, a `Result` out: the pieces of the core put together.

Or many pairs of images in, as many results out.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import optax

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.engine.binding import bind_network, find_plan_targets, load_run_network
from neuart_jax.engine.bound_objective import BoundObjective, ObjectiveData, bind_objective
from neuart_jax.engine.own_parts import FeatureNetwork, Parametrization, read_own_parts
from neuart_jax.engine.pairs import check_rows_of, stylize_pairs
from neuart_jax.engine.plan import make_plan
from neuart_jax.engine.program import build_objective
from neuart_jax.engine.resolution import resolve_config, settle_config
from neuart_jax.engine.result import BatchCallback, Callback, Result
from neuart_jax.engine.scales import make_scale
from neuart_jax.inputs.pair import Masks, make_pair
from neuart_jax.models.params.load import Network
from neuart_jax.objective.style import StyleTerm
from neuart_jax.objective.term import Term
from neuart_jax.optimizers.base import Optimizer


def stylize(
    content_image: npt.ArrayLike,
    style_images: npt.ArrayLike | Sequence[npt.ArrayLike],
    config: Config = Config(),
    *,
    masks: Masks = Masks(),
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term | StyleTerm] = (),
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    parametrization: Parametrization | None = None,
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
      parametrization: of the image, whose numbers the optimizer moves instead of pixels.
      callback: called with a `Progress` after every chunk; returning True stops the run.

    Returns:
      The picture with its losses; see `Result`. A loss that stops being finite is no exception
      but a status.

    Raises:
      InputError: an image, a setting or a weights file can't be used.
    """
    own = read_own_parts(
        network=network,
        extra_terms=extra_terms,
        optimizer=optimizer,
        parametrization=parametrization,
    )
    config = _resolve(config, network)
    plan = make_plan(make_pair(config, content_image, style_images, masks=masks), own)
    [result] = stylize_pairs(
        [plan],
        network=network,
        callback=None if callback is None else lambda _, progress: callback(progress),
    )
    return result


def stylize_batch(
    content_images: npt.ArrayLike | Sequence[npt.ArrayLike],
    style_images: npt.ArrayLike | Sequence[npt.ArrayLike | Sequence[npt.ArrayLike]],
    config: Config | Sequence[Config] = Config(),
    *,
    masks: Masks | Sequence[Masks] = Masks(),
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term | StyleTerm] = (),
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    callback: BatchCallback | None = None,
) -> list[Result]:
    """Paint many pairs at once; each comes out as if it had been painted alone by `stylize`.

    All share one network; filters that are fitted are fitted to all the images. An accelerator is
    busy with many pairs where one alone would leave it idle. Give a sequence with one entry per
    pair, or a single value that all pairs share; at least one argument is a sequence.

    Args:
      content_images: float[height, width, 3] for all pairs; or one per pair, in a sequence or
        stacked, all of one shape.
      style_images: float[height', width', 3] for all pairs; or a sequence with one entry per pair,
        which is an image or a list of several. Every pair has as many.
      config: as in `stylize`; or one per pair, which may differ in coefficients, seeds and starts.
        Frames and reports come when the slowest pair is due; the others may be some steps ahead.
      masks: for all pairs, or one per pair; with the same regions in every pair.
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
    given: dict[str, Any] = {
        "content images": None if _is_image(content_images) else content_images,
        "style images": None if _is_image(style_images) else style_images,
        "configurations": None if isinstance(config, Config) else config,
        "masks": None if isinstance(masks, Masks) or not masks else masks,
    }
    sequences = {name: list(v) for name, v in given.items() if v is not None}
    counts = {name: len(values) for name, values in sequences.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        there = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(
            f"there are {there or 'one content and one style image, and no sequence'}",
            expected="as many of the one as of the other, one pair at least",
            remedy="give a sequence with one entry per pair, or a single value for all of them",
        )
    [count] = set(counts.values())
    contents = sequences.get("content images", [content_images] * count)
    styles = sequences.get("style images", [style_images] * count)
    configs = sequences.get("configurations", [config] * count)
    pair_masks = sequences.get("masks", [masks or Masks()] * count)
    for each in configs:
        check_rows_of(each, num_pairs=count)
    own = read_own_parts(network=network, extra_terms=extra_terms, optimizer=optimizer)
    resolve = functools.cache(lambda config: _resolve(config, network))
    plans = [
        make_plan(
            make_pair(
                resolve(each), content, style, masks=mask, name=f"the content picture {number}"
            ),
            own,
        )
        for number, (content, style, each, mask) in enumerate(
            zip(contents, styles, configs, pair_masks, strict=True), 1
        )
    ]
    return stylize_pairs(plans, network=network, callback=callback)


def _is_image(given: Any) -> bool:
    """Tell whether an argument is one image, and not several."""
    return hasattr(given, "shape") and len(given.shape) == 3


def make_objective(
    content_image: npt.ArrayLike,
    style_images: npt.ArrayLike | Sequence[npt.ArrayLike],
    config: Config = Config(),
    *,
    masks: Masks = Masks(),
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term | StyleTerm] = (),
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
    own = read_own_parts(network=network, extra_terms=extra_terms)
    pair = make_pair(_resolve(config, network), content_image, style_images, masks=masks)
    plan = make_plan(pair, own)
    plan, params = bind_network(plan, network or load_run_network([plan]))
    program = plan.programs[-1]
    targets = find_plan_targets(plan, program, make_scale(pair, 1), params)
    return bind_objective(build_objective(program), ObjectiveData(params, targets))


def _resolve(config: Config, network: Network | FeatureNetwork | None) -> Config:
    if isinstance(network, FeatureNetwork):
        return resolve_config(config, check_names=False)
    if network is not None:
        config = config.replace(model=network.config.model, weights=network.config.weights)
    # Before anything is downloaded, so that what can be refused is.
    resolve_config(config)
    return resolve_config(settle_config(config))
