"""Optimizers behind one interface, so that one loop serves them all.

An optimizer proposes the next image from the value and gradient at the current one. A line search
evaluates the objective to do so and hands over what it found; the others leave that to the step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from neuart_jax.config import LEARNING_RATES, OptimizerConfig

LossFn = Callable[[Array], Array]


class Evaluation(NamedTuple):
    """The objective at one image.

    Attributes:
      loss: float32[].
      gradient: float32[height, width, 3].
    """

    loss: Array
    gradient: Array


class Proposal(NamedTuple):
    """What an optimizer's update returns.

    Attributes:
      image: the next image, float32[height, width, 3].
      opt_state: the optimizer's next state.
      evaluation: the objective at that image if the optimizer knows it, else None.
      num_evaluations: calls of the objective that the update made, int32[].
    """

    image: Array
    opt_state: Any
    evaluation: Evaluation | None
    num_evaluations: Array


class Optimizer(NamedTuple):
    """A pair of pure functions.

    Attributes:
      init: image -> opt_state.
      update: (image, evaluation at that image, opt_state, loss_fn) -> Proposal.
    """

    init: Callable[[Array], Any]
    update: Callable[[Array, Evaluation, Any, LossFn], Proposal]


def make_adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> Optimizer:
    """Adam, with pixels kept in [0, 1] by projection after every update.

    Source: Kingma & Ba 2014, arXiv 1412.6980, Algorithm 1, whose own constants are the defaults.
    Differs from source: the projection. Without it pixels wander off to where the file's range
    cuts them, and the picture that is written isn't the one that was optimized.

    Args:
      learning_rate: step in pixel units (white is 1), or a schedule over the step's number.
      beta1: decay of the mean gradient.
      beta2: decay of the mean squared gradient.
      epsilon: added to the root of that, in units of the gradient.
    """
    transform = optax.adam(learning_rate, beta1, beta2, epsilon)

    def update(image: Array, now: Evaluation, opt_state: Any, loss_fn: LossFn) -> Proposal:
        step, opt_state = transform.update(now.gradient, opt_state, image)
        return Proposal(jnp.clip(image + step, 0, 1), opt_state, None, jnp.int32(0))

    return Optimizer(transform.init, update)


def make_lbfgs(*, history: int) -> Optimizer:
    """L-BFGS with a zoom line search (strong Wolfe conditions).

    Source: Liu & Nocedal 1989; Nocedal & Wright 2006, Algorithms 7.4, 7.5, 3.5 and 3.6.
    Pixels aren't clipped between steps: the line search's value belongs to the unclipped image.

    Args:
      history: pairs of differences kept, each twice the image's size.
    """
    transform = optax.lbfgs(memory_size=history)

    def update(image: Array, now: Evaluation, opt_state: Any, loss_fn: LossFn) -> Proposal:
        step, opt_state = transform.update(
            now.gradient, opt_state, image, value=now.loss, grad=now.gradient, value_fn=loss_fn
        )
        search = opt_state[-1]
        found = Evaluation(search.value, search.grad)
        return Proposal(image + step, opt_state, found, search.info.num_linesearch_steps)

    return Optimizer(transform.init, update)


def make_lbfgs_fixed(learning_rate: float, *, history: int) -> Optimizer:
    """L-BFGS without a line search: one evaluation per step.

    Source: as `make_lbfgs`; the fixed step is jcjohnson/neural-style's and PyTorch's default.

    Args:
      learning_rate: factor of the quasi-Newton step; 1 is the full step.
      history: pairs of differences kept, each twice the image's size.
    """
    transform = optax.lbfgs(learning_rate, memory_size=history, linesearch=None)

    def update(image: Array, now: Evaluation, opt_state: Any, loss_fn: LossFn) -> Proposal:
        step, opt_state = transform.update(now.gradient, opt_state, image)
        return Proposal(image + step, opt_state, None, jnp.int32(0))

    return Optimizer(transform.init, update)


def make_optimizer(config: OptimizerConfig, *, num_steps: int) -> Optimizer:
    """Build the optimizer that the configuration names.

    Args:
      config: which one, and its numbers.
      num_steps: length of the run, over which the cosine schedule falls to zero.
    """
    learning_rate = config.learning_rate or LEARNING_RATES[config.optimizer]
    if config.optimizer == "lbfgs":
        return make_lbfgs(history=config.history)
    if config.optimizer == "lbfgs_fixed":
        return make_lbfgs_fixed(learning_rate, history=config.history)
    schedule = {
        "constant": optax.constant_schedule(learning_rate),
        # Loshchilov & Hutter 2016, arXiv 1608.03983, equation (5), without restarts.
        "cosine": optax.cosine_decay_schedule(learning_rate, num_steps),
    }[config.schedule]
    return make_adam(schedule, beta1=config.beta1, beta2=config.beta2, epsilon=config.epsilon)
