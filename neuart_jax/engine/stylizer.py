"""The public functions on arrays: images and a configuration in, a `Result` or an objective out."""

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
    """Paint the content in the style of other images.

    The files and sizes in `config.images` and `config.regions` are ignored: the arrays are used as
    they are. Calls with the same shapes and settings compile once.

    Args:
      content_image: float[height, width, 3], sRGB in [0, 1].
      style_images: float[height', width', 3], sRGB in [0, 1], of any size; or a list of several,
        each of its own size.
      config: settings of the run; see `Config`.
      masks: masks of the regions, of the painted area, and of the styles' opacity; see `Masks`.
      network: network to use instead of loading that of `config.network`.
      extra_terms: losses in addition to those of `config.losses`.
      optimizer: optimizer to use instead of that of `config.optimizer`: any Optax transformation
        that doesn't evaluate the objective itself, such as ``optax.lion(1e-2)``, or an
        `optimizers.Optimizer`. Pass the same object again to avoid recompilation.
      parametrization: parametrization of the image, whose parameters are optimized instead of
        pixels.
      callback: called with a `Progress` after every chunk; returning True stops the run.

    Returns:
      The image with its losses; see `Result`. A non-finite loss doesn't raise; it is reported as
      `Status.NON_FINITE`.

    Raises:
      InputError: an image, a setting or a weights file is invalid.
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
    """Paint many pairs at once; each result equals that of `stylize` for the pair alone.

    All pairs share one network; fitted filters are fitted to all images. Many pairs keep an
    accelerator busy that a single pair would leave idle. Each argument is a sequence with one entry
    per pair, or a single value shared by all pairs; at least one must be a sequence.

    Args:
      content_images: float[height, width, 3] for all pairs; or one per pair, in a sequence or
        stacked, all of one shape.
      style_images: float[height', width', 3] for all pairs; or a sequence with one entry per pair,
        which is an image or a list of several, the same number for all pairs.
      config: settings of all pairs; or one configuration per pair, which may differ in
        coefficients, seeds and initial images. Frames and reports are due when the slowest pair
        reaches them; the others may be some steps ahead.
      masks: masks of all pairs, or one value per pair; every pair has the same regions.
      network: network to use instead of loading that of `config.network`.
      extra_terms: losses in addition to those of `config.losses`.
      optimizer: optimizer to use instead of that of `config.optimizer`; see `stylize`.
      callback: called with the pair's number and its `Progress` after every chunk; returning True
        stops that pair.

    Returns:
      One result per pair. A pair that fails or ends early doesn't affect the others.

    Raises:
      InputError: an image, a setting or a weights file is invalid, there are no pairs, or they
        can't run together.
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
            expected="equal numbers of both, at least one pair",
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
                resolve(each), content, style, masks=mask, name=f"the content image {number}"
            ),
            own,
        )
        for number, (content, style, each, mask) in enumerate(
            zip(contents, styles, configs, pair_masks, strict=True), 1
        )
    ]
    return stylize_pairs(plans, network=network, callback=callback)


def _is_image(given: Any) -> bool:
    """Return whether an argument is a single image."""
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
    """Return the objective that `stylize` minimizes at full size, as a pure function of the image.

    The function can be differentiated, compiled and vmapped, for custom optimizers,
    parametrizations or derivatives.

    Args:
      content_image: float[height, width, 3], sRGB in [0, 1].
      style_images: float[height', width', 3], sRGB in [0, 1], or a list of several.
      config: settings, of which sizes, steps and the optimizer are ignored.
      masks: masks of the images; see `Masks`.
      network: network to use instead of loading that of `config.network`.
      extra_terms: losses in addition to those of `config.losses`.

    Returns:
      ``objective(image) -> (total, {name: loss})``; see `BoundObjective`.

    Raises:
      InputError: an image, a setting or a weights file is invalid.
    """
    own = read_own_parts(network=network, extra_terms=extra_terms)
    pair = make_pair(_resolve(config, network), content_image, style_images, masks=masks)
    plan = make_plan(pair, own)
    plan, params = bind_network(plan, network or load_run_network([plan]))
    program = plan.programs[-1]
    targets = find_plan_targets(plan, program, make_scale(pair, 0), params)
    return bind_objective(build_objective(program), ObjectiveData(params, targets))


def _resolve(config: Config, network: Network | FeatureNetwork | None) -> Config:
    if isinstance(network, FeatureNetwork):
        return resolve_config(config, check_names=False)
    if network is not None:
        config = config.replace(model=network.config.model, weights=network.config.weights)
    # Before any download, so that bad input is refused early.
    resolve_config(config)
    return resolve_config(settle_config(config))
