"""Pairs on their way through all scales: what becomes of a picture before and at each of them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import known
from neuart_jax.config.sections import RealismConfig
from neuart_jax.engine.cache_key import cache_key
from neuart_jax.engine.kernel_transforms import transform_kernels
from neuart_jax.engine.loop import make_next_stop
from neuart_jax.engine.own_terms import check_loss, check_term
from neuart_jax.engine.program import (
    Program,
    build_objective,
    make_batch_program_fn,
    make_numbers,
    make_program,
    make_program_fn,
)
from neuart_jax.engine.pyramid import Earlier, Scale, Watch, make_scales
from neuart_jax.engine.result import Result
from neuart_jax.engine.sharding import share_copies, share_rows
from neuart_jax.engine.targets import bind_features, find_targets, plan_run_tiles
from neuart_jax.inputs.canvas import Canvas
from neuart_jax.inputs.color import luminance
from neuart_jax.inputs.initial_image import make_start
from neuart_jax.inputs.pair import Pair
from neuart_jax.models import NetworkParams
from neuart_jax.models.features import FeatureFn, Features, takes_winograd
from neuart_jax.models.params.load import Network
from neuart_jax.objective.build import find_layer_weights, make_terms
from neuart_jax.objective.term import LossTerms, Targets, Term, all_layers, layers_of
from neuart_jax.optimizers.base import Optimizer


class FeatureNetwork(NamedTuple):
    """A network of one's own: any pure function with its parameters.

    Attributes:
      feature_fn: (params, image float32[height, width, 3] in [0, 1]) -> {layer: features}.
      params: any pytree of arrays.
    """

    feature_fn: FeatureFn
    params: Any

    @classmethod
    def from_linen(
        cls, module: Any, variables: Any, *, mean: ArrayLike = 0.0, std: ArrayLike = 1.0
    ) -> Self:
        """Make one of a linen module that returns a dictionary of features.

        Args:
          module: its ``apply(variables, image)`` takes float32[height, width, 3] and returns
            {layer: float[height', width', channels]}.
          variables: of the module.
          mean: of each channel, subtracted from sRGB in [0, 1].
          std: of each channel, divides the difference.
        """
        center, scale = (
            np.broadcast_to(np.asarray(numbers, np.float32), (1, 1, 3)) for numbers in (mean, std)
        )

        def feature_fn(variables: Any, image: Array) -> Features:
            features: Features = module.apply(variables, (image - center) / scale)
            return features

        return cls(feature_fn, variables)


class ObjectiveData(NamedTuple):
    """All numbers of an objective: a pytree of arrays.

    Attributes:
      params: the network's arrays.
      targets: what the terms compare with, and their weights.
    """

    params: Any
    targets: Targets


class BoundObjective(NamedTuple):
    """The function of the pixels that a run minimizes, pure: for `jax.grad`, `jit`, `vmap`, `jvp`.

    Called with an image, float32[height, width, 3], it returns (the weighted sum of all terms,
    float32[]; each term's own loss by its name, before its weight, and the sum as "total").

    Attributes:
      apply: (data, image) -> the same; a program compiled of it serves other data of these shapes.
      data: the numbers.
    """

    apply: Callable[[ObjectiveData, Array], tuple[Array, LossTerms]]
    data: ObjectiveData

    def __call__(self, image: Array) -> tuple[Array, LossTerms]:
        """Evaluate the objective at an image."""
        return self.apply(self.data, image)


class Run:
    """Pairs on their way through all scales, with what the scales have in common.

    Args:
      pairs: of one `stylizer.group_key`, with resolved configurations.
      network: that they share.
      extra_terms: losses beside those of the configuration.
      optimizer: instead of the one that the configuration names.
      num_devices: of this machine, among which the pairs are shared out.

    Attributes:
      pyramids: each pair's scales, from the coarsest on.

    Raises:
      InputError: two terms have one name.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        network: Network | FeatureNetwork,
        extra_terms: tuple[Term, ...],
        optimizer: Optimizer | None = None,
        num_devices: int = 1,
    ) -> None:
        self._pairs = pairs
        self._extra_terms = tuple(map(check_term, extra_terms))
        self._optimizer = optimizer
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
        targets = list(map(self._find_targets, pairs, scales))
        starts = [
            share_rows(_find_start(*each), num_parts)
            for each in zip(pairs, scales, earlier, strict=True)
        ]
        config, scale = pairs[0].config, scales[0]
        program = self._make_program(pairs[0], scale)
        carried = [one.opt_state for one in earlier if one is not None]
        options: dict[str, Any] = {
            "numbers": make_numbers(config, num_steps=scale.num_steps, optimizer=self._optimizer),
            "chunk_steps": config.run.report_every,
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

    def bind_objective(self) -> BoundObjective:
        """Return the first pair's objective at full size, with what it compares with."""
        pair, scale = self._pairs[0], self.pyramids[0][-1]
        objective = build_objective(self._make_program(pair, scale))

        def apply(data: ObjectiveData, image: Array) -> tuple[Array, LossTerms]:
            return objective(image, data.params, data.targets)

        return BoundObjective(apply, ObjectiveData(self._params, self._find_targets(pair, scale)))

    def _find_targets(self, pair: Pair, scale: Scale) -> Targets:
        compute = pair.config.compute
        terms = self._terms_of(pair, scale)
        targets = find_targets(
            scale,
            terms,
            source=self._source,
            params=self._params,
            precision=compute.precision,
            window=compute.window,
            key=self._terms_key(pair, scale),
        )
        if self._extra_terms and not compute.window:
            features = jax.eval_shape(
                bind_features(self._source, layers_of(terms, "layers"), compute.precision),
                self._params,
                scale.content_image,
            )
            for term in self._extra_terms:
                check_loss(term, scale.content_image, features, targets.values[term.name])
        if scale.paint is None:
            return targets
        return targets._replace(canvas=Canvas(scale.paint, scale.content_image))

    def _make_program(self, pair: Pair, scale: Scale) -> Program:
        config = pair.config
        return make_program(
            config,
            source=self._source,
            num_styles=len(pair.styles),
            presence=pair.presence,
            extra_terms=self._extra_terms,
            optimizer=self._optimizer,
            realistic=scale.realistic,
            gray=pair.gray,
            masked=pair.paint is not None,
            tiling=plan_run_tiles(
                self._source,
                all_layers(self._terms_of(pair, scale)),
                scale.content_image.shape,
                window=config.compute.window,
            ),
        )

    def _terms_key(self, pair: Pair, scale: Scale) -> str:
        losses, realism = pair.config.losses, pair.config.realism
        parts = losses, realism, scale.realistic, len(pair.styles), pair.presence
        return cache_key(self._source, *parts, self._extra_terms)

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
        count=known(run.scales),
        num_steps=known(run.steps),
        coarse_steps=known(run.coarse_steps),
        realistic_steps=realism.realism_steps if realism.realism_weight else 0,
        paint=pair.paint,
    )


def _find_start(pair: Pair, scale: Scale, earlier: Earlier | None) -> Array:
    config = pair.config
    if earlier is not None:
        # What is to stay a photograph has details that the coarser size doesn't.
        stays = 1 - config.losses.stylization if config.run.init == "content" else 0
        start = jnp.clip(earlier.image + stays * earlier.lost, 0, 1) if stays else earlier.image
    else:
        start = make_start(
            config.run, content_image=scale.content_image, style_image=scale.style_images[0]
        )
        start = jnp.asarray(luminance(start)) if pair.gray else start
    return start if scale.paint is None else Canvas(scale.paint, scale.content_image).compose(start)


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
