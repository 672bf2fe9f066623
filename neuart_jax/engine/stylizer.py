"""Two images and a configuration in, a `Result` out: the pieces of the core put together.

Or many pairs of images in, as many results out.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.engine.bound_objective import BoundObjective, ObjectiveData, bind_objective
from neuart_jax.engine.cache_key import cache_key
from neuart_jax.engine.kernel_transforms import prepare_params
from neuart_jax.engine.loop import make_next_stop, run_loop
from neuart_jax.engine.own_parts import (
    FeatureNetwork,
    Parametrization,
    check_loss,
    read_own_parts,
)
from neuart_jax.engine.plan import Plan, check_pairs_in_memory, make_plan
from neuart_jax.engine.program import Program, build_loop, build_objective, make_numbers
from neuart_jax.engine.resolution import resolve_config, settle_config
from neuart_jax.engine.result import BatchCallback, Callback, Progress, Result
from neuart_jax.engine.scales import Scale, make_initial_image, make_scale
from neuart_jax.engine.sharding import share_copies, share_rows
from neuart_jax.engine.state import CheckpointFn, PairState, RunState, ScaleResult
from neuart_jax.engine.step import Status
from neuart_jax.engine.targets import bind_features, find_targets
from neuart_jax.inputs.canvas import Canvas
from neuart_jax.inputs.pair import Masks, finish, make_pair
from neuart_jax.io.images import resize_image
from neuart_jax.models.params.load import Network, load_network
from neuart_jax.objective.build import find_layer_weights
from neuart_jax.objective.style import StyleTerm
from neuart_jax.objective.term import Targets, Term, layers_of
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
        _check_rows_of(each, num_pairs=count)
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
    plan, params = _bind_network(plan, network or load_run_network([plan]))
    program = plan.programs[-1]
    targets = _find_targets(plan, program, make_scale(pair, 1), params)
    return bind_objective(build_objective(program), ObjectiveData(params, targets))


def _resolve(config: Config, network: Network | FeatureNetwork | None) -> Config:
    if isinstance(network, FeatureNetwork):
        return resolve_config(config, check_names=False)
    if network is not None:
        config = config.replace(model=network.config.model, weights=network.config.weights)
    # Before anything is downloaded, so that what can be refused is.
    resolve_config(config)
    return resolve_config(settle_config(config))


def stylize_pairs(
    plans: Sequence[Plan],
    *,
    network: Network | FeatureNetwork | None = None,
    callback: BatchCallback | None = None,
    restored: RunState | None = None,
    checkpoint: CheckpointFn | None = None,
    num_devices: int = 1,
) -> list[Result]:
    """Do what `stylize` and `stylize_batch` do, with planned pairs: scale after scale.

    A pair that is stopped or fails at a coarse scale ends there: its image is enlarged, its losses
    are those of the coarse one. The others go on without it.

    Args:
      plans: of one `Plan.traits`.
      network: that they share; None loads it.
      callback: as in `stylize_batch`.
      restored: where to go on, from an earlier call with the same arguments that was cut.
      checkpoint: see `state.CheckpointFn`.
      num_devices: of this machine, among which the pairs are shared out.

    Raises:
      InputError: the pairs don't fit together, or into the memory.
    """
    check_together(plans, num_devices=num_devices)
    if network is None:
        network = load_run_network(plans)
    first, params = _bind_network(plans[0], network)
    plans = [first, *(plan.with_source(first.programs[0].source) for plan in plans[1:])]
    run = restored or RunState.begin(len(plans))
    for level in range(run.level, len(plans[0].stages)):
        members = [number for number, pair in enumerate(run.pairs) if pair.goes_on]
        if not members:
            break
        results = _run_stage(
            plans,
            level,
            params,
            run=run,
            members=members,
            callback=callback,
            checkpoint=checkpoint,
            num_devices=num_devices,
        )
        for number, result in zip(members, results, strict=True):
            run.pairs[number].scales.append(result)
    return [_join(*each, run=run) for each in zip(plans, run.pairs, strict=True)]


def _run_stage(
    plans: Sequence[Plan],
    level: int,
    params: Any,
    *,
    run: RunState,
    members: Sequence[int],
    callback: BatchCallback | None,
    checkpoint: CheckpointFn | None,
    num_devices: int,
) -> list[ScaleResult]:
    """Run one stage of some pairs; arguments as in `stylize_pairs` and `run_loop`."""
    chosen, pairs = [plans[n] for n in members], [run.pairs[n] for n in members]
    config, stage, program = chosen[0].config, chosen[0].stages[level], chosen[0].programs[level]
    rows = config.compute.shard_rows
    coarser = [pair.scales[-1] if pair.scales else None for pair in pairs]
    carried = [one.opt_state for one in coarser if one is not None]
    for pair in pairs:
        # Not kept twice: it is as large as several images.
        pair.scales[-1:] = [scale._replace(opt_state=None) for scale in pair.scales[-1:]]
    scales = [make_scale(plan.pair, stage.factor, num_devices=rows) for plan in chosen]
    targets = [
        _find_targets(plan, plan.programs[level], scale, params)
        for plan, scale in zip(chosen, scales, strict=True)
    ]
    images = [_begin(*each) for each in zip(chosen, scales, coarser, strict=True)]

    def report(index: int, progress: Progress) -> bool | None:
        progress = _count_on(progress, chosen[index], pairs[index], level)
        pairs[index].history.append(progress.figures())
        return callback(members[index], progress) if callback is not None else None

    output, carries = config.output, config.optimizer.carry_state
    devices = num_devices if len(members) > 1 else 1
    results = run_loop(
        build_loop(program, batched=len(members) > 1, num_devices=devices),
        images,
        params,
        targets,
        make_numbers(config, num_steps=stage.num_steps, optimizer=chosen[0].own.optimizer),
        run=run,
        members=members,
        chunk_steps=config.run.report_every,
        next_stop=make_next_stop(
            every=output.save_every,
            at=chosen[0].frame_steps,
            first_step=min(pair.num_steps for pair in pairs),
        ),
        size=stage.size,
        callback=report,
        carried=carried if carries and carried else None,
        keep_state=carries and level + 1 < len(chosen[0].stages),
        checkpoint=checkpoint,
    )
    return [
        result._replace(layer_weights=find_layer_weights(target))
        for result, target in zip(results, targets, strict=True)
    ]


def _begin(plan: Plan, scale: Scale, coarser: ScaleResult | None) -> Any:
    """Return what is optimized first: an image, or its parameters."""
    if plan.own.parametrization is None:
        image = make_initial_image(plan.pair, scale, coarser)
        return share_rows(image, plan.config.compute.shard_rows)
    return plan.own.parametrization.init(scale.content_image)


def _count_on(progress: Progress, plan: Plan, pair: PairState, level: int) -> Progress:
    """Return a scale's progress with counts over all scales and its image finished."""
    ended = progress.status != Status.RUNNING
    is_last = level == len(plan.stages) - 1
    works = [stage.num_steps * math.prod(stage.size) for stage in plan.stages]
    done = sum(works[:level]) + progress.num_steps * math.prod(plan.stages[level].size)
    return progress._replace(
        num_steps=progress.num_steps + pair.num_steps,
        num_evaluations=progress.num_evaluations + pair.num_evaluations,
        total_steps=sum(stage.num_steps for stage in plan.stages),
        status=progress.status if is_last or not ended else Status.RUNNING,
        image=functools.partial(_finish, plan, progress.image),
        share=done / sum(works),
    )


def _join(plan: Plan, pair: PairState, *, run: RunState) -> Result:
    """Return what a pair's last scale gave, with counts and losses of all."""
    first, *others = pair.scales
    last = pair.scales[-1]
    return Result(
        image=_finish(plan, lambda: last.image),
        losses=last.losses,
        parameters=last.parameters,
        status=last.status,
        num_steps=pair.num_steps,
        num_evaluations=pair.num_evaluations,
        step_losses=np.concatenate([first.step_losses, *(o.step_losses[1:] for o in others)]),
        history=tuple(pair.history),
        seconds=run.seconds,
        seconds_to_first_step=run.seconds_to_first_step,
        seconds_per_evaluation=last.seconds_per_evaluation,
        layer_weights=dict(last.layer_weights),
        sizes=tuple(stage.size for stage in plan.stages[: len(pair.scales)]),
    )


def _finish(plan: Plan, fetch: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an image of any scale as the user gets it."""
    image, shape = fetch(), plan.pair.content.shape[:2]
    return finish(plan.pair, image if image.shape[:2] == shape else resize_image(image, *shape))


def _bind_network(plan: Plan, network: Network | FeatureNetwork) -> tuple[Plan, Any]:
    """Return a plan for the network that is there, and the arrays that it computes with."""
    if isinstance(network, FeatureNetwork):
        source, params = network
    else:
        source, (height, width) = network.module, plan.pair.content.shape[:2]
        params = prepare_params(network, plan.config, layers=plan.layers, size=(height, width))
    return plan.with_source(source), share_copies(params, plan.config.compute.shard_rows)


def _find_targets(plan: Plan, program: Program, scale: Scale, params: Any) -> Targets:
    """Compute what a stage's terms compare with."""
    config, compute = plan.config, plan.config.compute
    targets = find_targets(
        scale,
        program.terms,
        source=program.source,
        params=params,
        precision=compute.precision,
        window=compute.window,
        key=cache_key(program.key, config.losses, config.realism) if program.key else "",
    )
    if program.own_terms and not compute.window:
        features = jax.eval_shape(
            bind_features(program.source, layers_of(program.terms, "layers"), compute.precision),
            params,
            scale.content_image,
        )
        names = {term.name for term in plan.own.terms}
        for term in program.terms:
            if term.name in names:
                check_loss(term, scale.content_image, features, targets.values[term.name])
    if scale.paint is None:
        return targets
    return targets._replace(canvas=Canvas(scale.paint, scale.content_image))


def check_together(plans: Sequence[Plan], *, num_devices: int = 1) -> None:
    """Check that pairs can be painted together.

    Args:
      plans: of the pairs.
      num_devices: of this machine, among which they are shared out.

    Raises:
      InputError: they differ in more than their data, or don't fit into the memory.
    """
    first = plans[0].traits
    for number, plan in enumerate(plans[1:], 2):
        for name, value in plan.traits.items():
            if value == first[name]:
                continue
            # Programs and presences are too long for a sentence.
            short = isinstance(value, int) or name.startswith("size")
            detail = f": {value} and {first[name]}" if short else ""
            raise InputError(
                f"pair {number} is unlike pair 1 in its {name}{detail}",
                expected="pairs that differ in their pictures and coefficients only",
                remedy="make them alike, or paint those that are in a batch of their own",
            )
    if len(plans) == 1:
        return
    _check_rows_of(plans[0].config, num_pairs=len(plans))
    if plans[0].prediction is not None:
        check_pairs_in_memory(
            plans[0].pair,
            plans[0].layers,
            num_regions=len(plans[0].programs[-1].presence),
            num_pairs=-(-len(plans) // num_devices),
        )


def _check_rows_of(config: Config, *, num_pairs: int) -> None:
    if (num_parts := config.compute.shard_rows) > 1 < num_pairs:
        raise InputError(
            f"shard_rows={num_parts} came with {num_pairs} pairs at once",
            expected="one picture at a time where its rows are shared out",
            remedy="paint them one by one, or leave out shard_rows to share out the pairs",
        )


def load_run_network(plans: Sequence[Plan]) -> Network:
    """Load the network that pairs share, or fit it to all of them.

    Args:
      plans: of the pairs; the network is that of the first.

    Raises:
      InputError: see `load.load_network`.
    """
    config = plans[0].config
    return load_network(
        config.network,
        layers=plans[0].layers,
        images=[np.asarray(i) for plan in plans for i in (plan.pair.content, *plan.pair.styles)],
        seed=config.run.seed,
    )
