"""Bind a plan to its data: the network's parameters and the targets of the terms."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np

from neuart_jax.engine.cache_key import cache_key
from neuart_jax.engine.kernel_transforms import prepare_params
from neuart_jax.engine.own_parts import FeatureNetwork, check_loss
from neuart_jax.engine.plan import Plan
from neuart_jax.engine.profiling import phase
from neuart_jax.engine.program import Program
from neuart_jax.engine.scales import Scale
from neuart_jax.engine.sharding import share_copies
from neuart_jax.engine.targets import bind_features, find_targets
from neuart_jax.inputs.canvas import Canvas
from neuart_jax.models.params.load import Network, load_network
from neuart_jax.objective.term import Targets, Term, layers_of

StyleTargets = dict[Hashable, Targets]
"""Targets that the frames of a clip share, those of terms `of_styles`, by program and size."""


@phase("weights")
def load_run_network(plans: Sequence[Plan]) -> Network:
    """Load the network that pairs share, or fit it to all of them.

    Args:
      plans: plans of the pairs; the network is that of the first.

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


def bind_network(plan: Plan, network: Network | FeatureNetwork) -> tuple[Plan, Any]:
    """Return a plan adapted to a loaded network, and the network's parameters."""
    if isinstance(network, FeatureNetwork):
        source, params = network
    else:
        source, (height, width) = network.module, plan.pair.content.shape[:2]
        params = prepare_params(network, plan.config, layers=plan.layers, size=(height, width))
    return plan.with_source(source), share_copies(params, plan.config.compute.shard_rows)


@phase("targets")
def find_plan_targets(
    plan: Plan,
    program: Program,
    scale: Scale,
    params: Any,
    *,
    style_targets: StyleTargets | None = None,
) -> Targets:
    """Compute the targets of a stage's terms.

    Args:
      plan: plan of the run.
      program: program of the stage.
      scale: the images at the size of the stage.
      params: parameters of the network.
      style_targets: targets of the styles, shared by the frames of one clip; missing ones are
        computed and added. None for a single image, whose targets are computed together.
    """
    compute = plan.config.compute

    def find(terms: Sequence[Term]) -> Targets:
        weights = tuple((term.name, term.weight) for term in terms)
        settings = program.key, plan.config.losses, plan.config.realism, weights
        return find_targets(
            scale,
            terms,
            source=program.source,
            params=params,
            precision=compute.precision,
            window=compute.window,
            key=cache_key(*settings) if program.key else "",
        )

    if style_targets is None:
        targets = find(program.terms)
    else:
        place = program, scale.content_image.shape
        if place not in style_targets:
            style_targets[place] = find([term for term in program.terms if term.of_styles])
        own = find([term for term in program.terms if not term.of_styles])
        shared = style_targets[place]
        targets = Targets(shared.weights | own.weights, shared.values | own.values)
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
