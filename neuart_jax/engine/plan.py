"""The plan of a run: everything derived from the settings and the images' sizes, computed once."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import known, nearest
from neuart_jax.engine.memory import Prediction, check_memory, predict_memory
from neuart_jax.engine.own_parts import NO_OWN_PARTS, OwnParts
from neuart_jax.engine.program import Program, make_program
from neuart_jax.engine.scales import Stage, plan_stages, settle_scales
from neuart_jax.engine.sharding import check_rows
from neuart_jax.engine.targets import plan_run_tiles
from neuart_jax.inputs.image_checks import style_names
from neuart_jax.inputs.pair import Pair
from neuart_jax.inputs.regions.memberships import check_regions
from neuart_jax.io.clips.pace import choose_steps, most_frames
from neuart_jax.losses.style import SORTING_LOSSES
from neuart_jax.models import check_image_size, find_architecture
from neuart_jax.objective.build import make_terms
from neuart_jax.objective.term import Term, all_layers
from neuart_jax.objective.tiled import check_additive


class Plan(NamedTuple):
    """A resolved run.

    Attributes:
      pair: images and masks, with the resolved configuration.
      own: custom parts of the run.
      terms: terms of the objective, with their coefficients; custom losses come last.
      layers: all layers that the terms read, of any image.
      stages: the stages of the run, in order.
      programs: what the compiled programs of each stage depend on.
      prediction: predicted memory for one pair; None for a custom network.
      frame_steps: steps, counted over all stages, after which the image is wanted.
    """

    pair: Pair
    own: OwnParts
    terms: tuple[Term, ...]
    layers: tuple[str, ...]
    stages: tuple[Stage, ...]
    programs: tuple[Program, ...]
    prediction: Prediction | None
    frame_steps: tuple[int, ...]

    def wants_frame(self, num_steps: int) -> bool:
        """Return whether a frame is due after a number of steps."""
        every = self.config.output.save_every
        return (every > 0 and num_steps % every == 0) or num_steps in self.frame_steps

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.pair.config

    @property
    def traits(self) -> dict[str, Hashable]:
        """Properties that must be equal for pairs to run together, by their name in messages.

        Everything else is data of the pairs.
        """
        config, run = self.config, self.config.run
        whole = dataclasses.replace(self.programs[-1], presence=(), tiling=None)
        # Only for losses that sort do the targets' shapes depend on the styles' sizes.
        sorts = config.losses.style_loss in SORTING_LOSSES
        styles = tuple(style.shape[:2] for style in self.pair.styles)
        return {
            "settings": whole,
            "numbers of steps": (
                tuple((stage.num_steps, stage.realistic) for stage in self.stages),
                *(run.report_every, run.stop_patience, run.stop_tolerance),
            ),
            "numbers of the optimizer": config.optimizer,
            "frames": (config.output.save_every, self.frame_steps),
            "size of the content": self.pair.content.shape[:2],
            "sizes of the styles": styles if sorts else len(styles),
            "sizes of the styles at coarser scales": self.pair.spared if sorts else (),
            "number of scales": len(self.stages),
            "regions": self.programs[-1].presence,
        }

    def with_content(self, pair: Pair) -> Self:
        """Return the plan for another frame of the same clip, with the same programs.

        Args:
          pair: pair of the frame, made from the plan's pair by `pair.with_frame`.

        Raises:
          ValueError: the content has another size, or the regions have other styles.
        """
        if pair.content.shape != self.pair.content.shape or pair.presence != self.pair.presence:
            raise ValueError(
                f"a frame is {pair.content.shape} with {pair.presence}, expected "
                f"{self.pair.content.shape} with {self.pair.presence}"
            )
        return self._replace(pair=pair._replace(config=self.config))

    def at_full_size(self, *, num_steps: int, stop_patience: int) -> Self:
        """Return the plan for a frame that continues from another one, without the coarser scales.

        Args:
          num_steps: largest number of updates of the first stage.
          stop_patience: see `RunConfig.stop_patience`.
        """
        first = next(number for number, stage in enumerate(self.stages) if stage.halvings == 0)
        stages = self.stages[first:]
        config = self.config.replace(scales=1, steps=num_steps, stop_patience=stop_patience)
        return self._replace(
            pair=self.pair._replace(config=config),
            stages=(stages[0]._replace(num_steps=num_steps), *stages[1:]),
            programs=self.programs[first:],
        )

    def with_source(self, source: Any) -> Self:
        """Return the plan adapted to a loaded network.

        Args:
          source: a linen module, or a custom feature function.
        """
        # Receptive fields depend on where the network has its strides.
        programs = [
            dataclasses.replace(
                program, source=source, tiling=_plan_tiling(self, source, stage.size)
            )
            for program, stage in zip(self.programs, self.stages, strict=True)
        ]
        return self._replace(programs=tuple(programs))


def _plan_tiling(plan: Plan, source: Any, size: tuple[int, int]) -> Any:
    return plan_run_tiles(source, plan.layers, size, window=plan.config.compute.window)


def make_plan(pair: Pair, own: OwnParts = NO_OWN_PARTS, *, num_references: int = 0) -> Plan:
    """Plan a run, and check everything that can be checked without its network.

    Args:
      pair: pair with a resolved configuration.
      own: custom parts of the run.
      num_references: largest number of reference frames of a clip's frame; 0 for an image.

    Raises:
      InputError: an image is too small, the content is too large for the free memory, a region is
        smaller than a position of the deepest layer, the number of shares isn't that of the styles,
        windows are too small or don't go with this loss, two terms have the same name, or a
        parametrization doesn't render the image.
    """
    config, presence = settle_scales(pair.config, pair.content.shape), pair.presence
    if not config.video.temporal_weight:
        num_references = 0
    pair = pair._replace(config=config)
    terms = make_terms(
        config.losses,
        num_styles=len(pair.styles),
        presence=presence,
        realism=config.realism,
        extra_terms=own.terms,
        temporal_weight=config.video.temporal_weight,
        num_references=num_references,
    )
    layers = all_layers(terms)
    _check_names(terms)
    _check_rendering(pair, own)
    prediction = None
    source: Hashable = (config.network, config.compute)
    if own.network is not None:
        source = own.network.feature_fn
    else:
        _check_layers(config.network.model, terms, own)
        _check_sizes(pair, layers, terms=terms)
        height, width = pair.content.shape[:2]
        prediction = predict_memory(
            config, layers, height=height, width=width, num_regions=len(presence)
        )
        check_pairs_in_memory(pair, layers, num_regions=len(presence))
    stages = plan_stages(config, pair.content.shape)
    if own.parametrization is not None:
        # A parametrization has no coarser sizes.
        stages = (stages[-1]._replace(num_steps=known(config.run.steps), realistic=True),)
    programs = [
        make_program(
            pair,
            own,
            presence=presence,
            source=source,
            terms=terms,
            realistic=stage.realistic,
            num_references=num_references,
        )
        for stage in stages
    ]
    return Plan(
        *(pair, own, terms, layers, stages, tuple(programs), prediction),
        _plan_frames(config, stages),
    )


def _plan_frames(config: Config, stages: Sequence[Stage]) -> tuple[int, ...]:
    """Return the steps after which a frame is due, other than those of `save_every`."""
    output, total = config.output, sum(stage.num_steps for stage in stages)
    shown: tuple[int, ...] = ()
    if output.animation:
        shown = choose_steps(total, most=most_frames(output.animation_seconds))
    return tuple(sorted({*output.save_at, *shown}))


def check_pairs_in_memory(
    pair: Pair, layers: tuple[str, ...], *, num_regions: int, num_pairs: int = 1
) -> None:
    """Check that a number of similar pairs fits into memory; see `memory.check_memory`."""
    height, width = pair.content.shape[:2]
    check_memory(
        pair.config,
        layers,
        height=height,
        width=width,
        num_pairs=num_pairs,
        num_regions=num_regions,
    )


def _check_names(terms: Sequence[Term]) -> None:
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1 or name == "total":
            raise InputError(
                f"the name of the loss term {name!r} is taken",
                expected="a unique name for every term",
                remedy="rename the extra term",
            )


def _check_layers(model: str, terms: Sequence[Term], own: OwnParts) -> None:
    """Check that custom terms only read existing layers."""
    architecture, names = find_architecture(model), {term.name for term in own.terms}
    for term in terms:
        for layer in all_layers([term]) if term.name in names else ():
            if layer not in architecture.layer_names:
                alias = architecture.aliases.get(layer)
                near = repr(alias) if alias else nearest(layer, architecture.layer_names)
                raise InputError(
                    f"the loss term {term.name!r} reads the layer {layer!r}",
                    expected=f"a layer of {model} by its own name",
                    remedy=f"did you mean {near}",
                )


def _check_rendering(pair: Pair, own: OwnParts) -> None:
    if own.parametrization is None:
        return
    start = jax.eval_shape(own.parametrization.init, pair.content)
    image = jax.eval_shape(own.parametrization.render, start)
    shape = getattr(image, "shape", None)
    if shape != pair.content.shape:
        raise InputError(
            f"the parametrization renders {shape} for a content of {pair.content.shape}",
            expected="an image of the same shape",
            remedy="have `render` return float32[height, width, 3]",
        )
    kinds = {np.dtype(leaf.dtype) for leaf in (*jax.tree.leaves(start), image)}
    if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise InputError(
            f"the parametrization has arrays of {', '.join(sorted(map(str, kinds)))}",
            expected="floating-point numbers only, in what `init` and `render` return",
            remedy="convert them, by astype(jnp.float32) say",
        )


def _check_sizes(pair: Pair, layers: tuple[str, ...], *, terms: Sequence[Term]) -> None:
    """Check that all images, windows and regions are large enough for the deepest layer."""
    config, window = pair.config, pair.config.compute.window
    height, width = pair.content.shape[:2]
    names = ["the content image", *style_names(len(pair.styles))]
    shown = [
        (image.shape[:2], name)
        for image, name in zip((pair.content, *pair.styles), names, strict=True)
    ]
    if window:
        shown.append(((min(window, height), min(window, width)), f"what --window={window} shows"))
    for size, name in shown:
        check_image_size(
            config.network.model,
            layers,
            height=size[0],
            width=size[1],
            padding=config.network.padding,
            name=name,
        )
    architecture = find_architecture(config.network.model)
    if pair.regions is not None:
        check_regions(pair.regions, stride=max(map(architecture.layer_stride, layers)))
    if window:
        module = architecture.make_module(
            pooling=config.network.pooling, padding=config.network.padding
        )
        sizes = [image.shape for image in (pair.content, *pair.styles)]
        if any([plan_run_tiles(module, layers, size, window=window) for size in sizes]):
            check_additive(terms)
    check_rows(config.compute.shard_rows, height=height)
