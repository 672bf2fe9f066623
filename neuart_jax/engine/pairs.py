"""Run planned pairs through all their stages."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import known
from neuart_jax.engine.binding import (
    StyleTargets,
    bind_network,
    find_plan_targets,
    load_run_network,
)
from neuart_jax.engine.loop import make_next_stop, run_loop
from neuart_jax.engine.own_parts import FeatureNetwork
from neuart_jax.engine.plan import Plan, check_pairs_in_memory
from neuart_jax.engine.profiling import phase
from neuart_jax.engine.program import build_loop, make_numbers
from neuart_jax.engine.result import BatchCallback, Progress, Result
from neuart_jax.engine.scales import Scale, make_initial_image, make_scale
from neuart_jax.engine.sharding import share_rows
from neuart_jax.engine.state import CheckpointFn, PairState, RunState, ScaleResult
from neuart_jax.engine.step import Status
from neuart_jax.inputs.canvas import Canvas
from neuart_jax.inputs.pair import finish
from neuart_jax.io.images import resize_image
from neuart_jax.models.params.load import Network
from neuart_jax.objective.build import find_layer_weights
from neuart_jax.objective.temporal import TEMPORAL, References, refer_to
from neuart_jax.objective.term import Targets


class Heritage(NamedTuple):
    """Data that a frame inherits from other frames of its clip.

    Attributes:
      start: initial image of the first stage, float32[height, width, 3] at full size, used
        unchanged; None uses the configured initial image.
      references: reference frames of the stages at full size; None without any.
      coefficients: coefficients of terms that differ from those of the plan, by name.
    """

    start: Any = None
    references: References | None = None
    coefficients: Mapping[str, float] = {}


NO_HERITAGE = Heritage()


def stylize_pairs(
    plans: Sequence[Plan],
    *,
    network: Network | FeatureNetwork | None = None,
    callback: BatchCallback | None = None,
    restored: RunState | None = None,
    checkpoint: CheckpointFn | None = None,
    num_devices: int = 1,
) -> list[Result]:
    """Run planned pairs through all their scales, for `stylize` and `stylize_batch`.

    A pair that is stopped or fails at a coarse scale ends there: its image is enlarged, and its
    losses are those of the coarse image. The other pairs continue without it.

    Args:
      plans: plans with equal `Plan.traits`.
      network: the pairs' network; None loads it.
      callback: called with a pair's number and its `Progress` after every chunk; returning True
        stops that pair.
      restored: state to resume from, of an interrupted call with the same arguments.
      checkpoint: called after every chunk's reports; see `state.CheckpointFn`.
      num_devices: number of this machine's devices over which the pairs are sharded.

    Raises:
      InputError: the pairs can't run together, or don't fit into memory.
    """
    check_together(plans, num_devices=num_devices)
    if network is None:
        network = load_run_network(plans)
    first, params = bind_network(plans[0], network)
    plans = [first, *(plan.with_source(first.programs[0].source) for plan in plans[1:])]
    return stylize_bound(
        plans,
        params,
        callback=callback,
        restored=restored,
        checkpoint=checkpoint,
        num_devices=num_devices,
    )


def stylize_bound(
    plans: Sequence[Plan],
    params: Any,
    *,
    heritage: Sequence[Heritage] = (),
    style_targets: StyleTargets | None = None,
    finishes: bool = True,
    callback: BatchCallback | None = None,
    restored: RunState | None = None,
    checkpoint: CheckpointFn | None = None,
    num_devices: int = 1,
) -> list[Result]:
    """Run pairs as `stylize_pairs` does, with plans that are bound to their network.

    Args:
      plans: plans from `binding.bind_network`, with equal `Plan.traits`.
      params: parameters of the network.
      heritage: inherited data of every pair, if the pairs are frames of clips; else empty.
      style_targets: targets that frames of one clip share; see `binding.find_plan_targets`.
      finishes: whether results are postprocessed by `pair.finish`; else they are the optimized
        images.
      callback: as in `stylize_batch`.
      restored: as in `stylize_pairs`.
      checkpoint: as in `stylize_pairs`.
      num_devices: as in `stylize_pairs`.
    """
    heritage = heritage or [NO_HERITAGE] * len(plans)
    run = restored or RunState.begin(len(plans))
    for level in range(run.level, len(plans[0].stages)):
        members = [number for number, pair in enumerate(run.pairs) if pair.goes_on]
        if not members:
            break
        results = _run_stage(
            plans,
            level,
            params,
            heritage=heritage,
            style_targets=style_targets,
            run=run,
            members=members,
            callback=callback,
            checkpoint=checkpoint,
            num_devices=num_devices,
        )
        for number, result in zip(members, results, strict=True):
            run.pairs[number].scales.append(result)
    return [_join(*each, run=run, finishes=finishes) for each in zip(plans, run.pairs, strict=True)]


def _run_stage(
    plans: Sequence[Plan],
    level: int,
    params: Any,
    *,
    heritage: Sequence[Heritage],
    style_targets: StyleTargets | None,
    run: RunState,
    members: Sequence[int],
    callback: BatchCallback | None,
    checkpoint: CheckpointFn | None,
    num_devices: int,
) -> list[ScaleResult]:
    """Run one stage of some pairs; see `stylize_bound` and `run_loop` for the arguments."""
    chosen, pairs = [plans[n] for n in members], [run.pairs[n] for n in members]
    config, stage, program = chosen[0].config, chosen[0].stages[level], chosen[0].programs[level]
    rows = config.compute.shard_rows
    coarser = [pair.scales[-1] if pair.scales else None for pair in pairs]
    carried = [one.opt_state for one in coarser if one is not None]
    for pair in pairs:
        # Don't keep two copies of the optimizer's state, which is as large as several images.
        pair.scales[-1:] = [scale._replace(opt_state=None) for scale in pair.scales[-1:]]
    scales = [make_scale(plan.pair, stage.halvings, num_devices=rows) for plan in chosen]
    inherited = [heritage[n] for n in members]
    targets = [
        _inherit(
            find_plan_targets(
                plan, plan.programs[level], scale, params, style_targets=style_targets
            ),
            own,
            at_full_size=stage.halvings == 0,
        )
        for plan, scale, own in zip(chosen, scales, inherited, strict=True)
    ]
    images = [
        _begin(plan, scale, before, own.start)
        for plan, scale, before, own in zip(chosen, scales, coarser, inherited, strict=True)
    ]

    def report(index: int, progress: Progress) -> bool | None:
        progress = _count_on(progress, chosen[index], pairs[index], level)
        pairs[index].history.append(progress.figures())
        return callback(members[index], progress) if callback is not None else None

    output, carries = config.output, known(config.optimizer.carry_state)
    devices = num_devices if len(members) > 1 else 1
    with phase(f"steps at {stage.size[1]}x{stage.size[0]}"):
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


def _inherit(targets: Targets, heritage: Heritage, *, at_full_size: bool) -> Targets:
    """Return a stage's targets with a frame's references and coefficients."""
    if heritage.references is not None and at_full_size and TEMPORAL in targets.values:
        targets = refer_to(targets, heritage.references)
    changed = jax.device_put({n: np.float32(v) for n, v in heritage.coefficients.items()})
    return targets._replace(weights=targets.weights | changed)


def _begin(
    plan: Plan, scale: Scale, coarser: ScaleResult | None, start: Array | None = None
) -> Any:
    """Return the initial image of a scale, or its initial parameters."""
    if start is not None and coarser is None:
        image = jax.device_put(np.asarray(start, np.float32))
        return (
            image
            if scale.paint is None
            else Canvas(scale.paint, scale.content_image).compose(image)
        )
    if plan.own.parametrization is None:
        image = make_initial_image(plan.pair, scale, coarser)
        return share_rows(image, plan.config.compute.shard_rows)
    return plan.own.parametrization.init(scale.content_image)


def _count_on(progress: Progress, plan: Plan, pair: PairState, level: int) -> Progress:
    """Return a scale's progress with counts over all scales and a postprocessed image."""
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


def _join(plan: Plan, pair: PairState, *, run: RunState, finishes: bool) -> Result:
    """Return the result of a pair's last scale, with counts and losses of all scales."""
    first, *others = pair.scales
    last = pair.scales[-1]
    return Result(
        image=_finish(plan, lambda: last.image) if finishes else last.image,
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
    """Return a scale's image at full size and postprocessed."""
    image, shape = fetch(), plan.pair.content.shape[:2]
    return finish(plan.pair, image if image.shape[:2] == shape else resize_image(image, *shape))


def check_together(plans: Sequence[Plan], *, num_devices: int = 1) -> None:
    """Check that pairs can run together.

    Args:
      plans: plans of the pairs.
      num_devices: number of this machine's devices over which the pairs are sharded.

    Raises:
      InputError: the pairs differ in more than their data, or don't fit into memory.
    """
    first = plans[0].traits
    for number, plan in enumerate(plans[1:], 2):
        for name, value in plan.traits.items():
            if value == first[name]:
                continue
            # Values of programs and presence are too long for a sentence.
            short = isinstance(value, int) or name.startswith("size")
            detail = f": {value} and {first[name]}" if short else ""
            raise InputError(
                f"pair {number} is unlike pair 1 in its {name}{detail}",
                expected="pairs that differ only in their images and coefficients",
                remedy="make them alike, or run those that are in a batch of their own",
            )
    if len(plans) == 1:
        return
    check_rows_of(plans[0].config, num_pairs=len(plans))
    if plans[0].prediction is not None:
        check_pairs_in_memory(
            plans[0].pair,
            plans[0].layers,
            num_regions=len(plans[0].programs[-1].presence),
            num_pairs=-(-len(plans) // num_devices),
        )


def check_rows_of(config: Config, *, num_pairs: int) -> None:
    """Check that there is a single pair if its rows are sharded over devices."""
    if (num_parts := config.compute.shard_rows) > 1 < num_pairs:
        raise InputError(
            f"shard_rows={num_parts} came with {num_pairs} pairs at once",
            expected="a single image at a time if its rows are sharded",
            remedy="paint them one by one, or leave out shard_rows to shard the pairs",
        )
