"""Optimizers behind one interface, so that one loop serves them all.

An optimizer names the image to evaluate next and is told what the objective is there; it may take
that image as its next step or ask for another. It never evaluates anything itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from neuart_jax.curvature import (
    Memory,
    dot,
    find_direction,
    forget,
    init_memory,
    remember,
    resize_gradient,
    resize_memory,
)
from neuart_jax.line_search import Search, judge_trial, start_search
from neuart_jax.sections import LEARNING_RATES, OptimizerConfig


class Evaluation(NamedTuple):
    """The objective at one image.

    Attributes:
      loss: float32[].
      gradient: float32[height, width, 3].
    """

    loss: Array
    gradient: Array

    def is_finite(self) -> Array:
        """Return whether every number is, bool[]."""
        # The sum is non-finite if any element is, and costs no array of booleans.
        return jnp.isfinite(self.loss) & jnp.isfinite(jnp.sum(jnp.abs(self.gradient)))


class Point(NamedTuple):
    """An image with the objective there.

    Attributes:
      image: float32[height, width, 3].
      evaluation: at that image.
    """

    image: Array
    evaluation: Evaluation


class Decision(NamedTuple):
    """What an optimizer makes of a trial.

    Attributes:
      accepted: the trial is the next image, bool[].
      failed: there is no way on from here, bool[].
      opt_state: the optimizer's next state.
    """

    accepted: Array
    failed: Array
    opt_state: Any


class Optimizer(NamedTuple):
    """Pure functions. Between an update and the next there may be several trials.

    Attributes:
      init: the first image, where nothing is known of the objective yet -> opt_state.
      propose: (the current point, opt_state) -> (the image to try next, opt_state).
      observe: (the current point, the trial, opt_state, whether it is the first) -> Decision. The
        first trial is the start itself, and not what `propose` named.
      carry: (the first image, the opt_state of a run at another size) -> opt_state.
    """

    init: Callable[[Array], Any]
    propose: Callable[[Point, Any], tuple[Array, Any]]
    observe: Callable[[Point, Point, Any, Array], Decision]
    carry: Callable[[Array, Any], Any]


def _accept_if_finite(trial: Point, opt_state: Any) -> Decision:
    finite = trial.evaluation.is_finite()
    return Decision(finite, ~finite, opt_state)


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

    def propose(now: Point, opt_state: Any) -> tuple[Array, Any]:
        step, opt_state = transform.update(now.evaluation.gradient, opt_state, now.image)
        return jnp.clip(now.image + step, 0, 1), opt_state

    def carry(image: Array, opt_state: Any) -> Any:
        moments, *_ = opt_state
        _, *fresh = transform.init(image)
        mean = resize_gradient(moments.mu, image.shape)
        square = jnp.square(resize_gradient(jnp.sqrt(moments.nu), image.shape))
        # The moments go on, with their count; the schedule is each run's own.
        return (moments._replace(mu=mean, nu=square), *fresh)

    return Optimizer(
        init=transform.init,
        propose=propose,
        observe=lambda now, trial, opt_state, is_first: _accept_if_finite(trial, opt_state),
        carry=carry,
    )


class LbfgsState(NamedTuple):
    """State of L-BFGS between two trials.

    Attributes:
      memory: of the steps made.
      direction: from the current image, float32[height, width, 3].
      search: for the step length along it.
    """

    memory: Memory
    direction: Array
    search: Search


def make_lbfgs(*, history: int, exponent: float = 0) -> Optimizer:
    """L-BFGS with a line search (strong Wolfe conditions).

    Source: Liu & Nocedal 1989; Nocedal & Wright 2006, Algorithms 7.4 and 7.5; `line_search`.
    Pixels aren't clipped between steps: what is known belongs to the unclipped image.
    If no step lowers the objective, one is made without moving, and the memory is emptied.

    Args:
      history: pairs of differences kept, each twice the image's size.
      exponent: of the preconditioner; see `preconditioning`.
    """

    def aim(now: Evaluation, memory: Memory) -> tuple[Array, Search]:
        direction = find_direction(memory, now.gradient, exponent=exponent)
        return direction, start_search(value=now.loss, slope=dot(now.gradient, direction))

    def begin(image: Array, memory: Memory) -> LbfgsState:
        nothing = jnp.zeros((), image.dtype)
        return LbfgsState(memory, jnp.zeros_like(image), start_search(value=nothing, slope=nothing))

    def init(image: Array) -> LbfgsState:
        return begin(image, init_memory(image, history=history))

    def carry(image: Array, state: LbfgsState) -> LbfgsState:
        return begin(image, resize_memory(state.memory, image.shape, exponent=exponent))

    def propose(now: Point, state: LbfgsState) -> tuple[Array, LbfgsState]:
        return now.image + state.search.step * state.direction, state

    def observe(now: Point, trial: Point, state: LbfgsState, is_first: Array) -> Decision:
        found = trial.evaluation
        finite = found.is_finite()
        accepted, failed, search = judge_trial(
            state.search,
            value=found.loss,
            slope=dot(found.gradient, state.direction),
            finite=finite,
        )
        # The start was searched for by nobody.
        accepted, failed = jnp.where(is_first, finite, accepted), failed | (is_first & ~finite)
        made = accepted & ~is_first
        memory = remember(
            state.memory,
            step=trial.image - now.image,
            change=found.gradient - now.evaluation.gradient,
            wanted=made,
            exponent=exponent,
        )
        memory = forget(memory, wanted=made & (state.search.step == 0))
        # Chosen afterwards, not computed under a condition: in a batch one pair accepts its trial
        # while another one doesn't, and both are cheap beside an evaluation.
        direction, next_search = aim(found, memory)
        return Decision(
            accepted,
            failed,
            LbfgsState(
                memory=memory,
                direction=jnp.where(accepted, direction, state.direction),
                search=jax.tree.map(
                    lambda new, old: jnp.where(accepted, new, old), next_search, search
                ),
            ),
        )

    return Optimizer(init, propose, observe, carry)


def make_lbfgs_fixed(learning_rate: float, *, history: int, exponent: float = 0) -> Optimizer:
    """L-BFGS without a line search: every evaluation is a step.

    Source: as `make_lbfgs`; the fixed step is jcjohnson/neural-style's and PyTorch's default.

    Args:
      learning_rate: factor of the quasi-Newton step; 1 is the full step.
      history: pairs of differences kept, each twice the image's size.
      exponent: of the preconditioner; see `preconditioning`.
    """

    def propose(now: Point, memory: Memory) -> tuple[Array, Memory]:
        direction = find_direction(memory, now.evaluation.gradient, exponent=exponent)
        return now.image + learning_rate * direction, memory

    def observe(now: Point, trial: Point, memory: Memory, is_first: Array) -> Decision:
        change = trial.evaluation.gradient - now.evaluation.gradient
        decision = _accept_if_finite(trial, memory)
        memory = remember(
            memory,
            step=trial.image - now.image,
            change=change,
            wanted=decision.accepted & ~is_first,
            exponent=exponent,
        )
        return decision._replace(opt_state=memory)

    return Optimizer(
        init=lambda image: init_memory(image, history=history),
        propose=propose,
        observe=observe,
        carry=lambda image, memory: resize_memory(memory, image.shape, exponent=exponent),
    )


def make_optimizer(config: OptimizerConfig, *, num_steps: int) -> Optimizer:
    """Build the optimizer that the configuration names.

    Args:
      config: which one, and its numbers.
      num_steps: length of the run, over which the cosine schedule falls to zero.
    """
    learning_rate = config.learning_rate or LEARNING_RATES[config.optimizer]
    if config.optimizer == "lbfgs":
        return make_lbfgs(history=config.history, exponent=config.precondition)
    if config.optimizer == "lbfgs_fixed":
        return make_lbfgs_fixed(learning_rate, history=config.history, exponent=config.precondition)
    schedule = {
        "constant": optax.constant_schedule(learning_rate),
        # Loshchilov & Hutter 2016, arXiv 1608.03983, equation (5), without restarts.
        "cosine": optax.cosine_decay_schedule(learning_rate, num_steps),
    }[config.schedule]
    return make_adam(schedule, beta1=config.beta1, beta2=config.beta2, epsilon=config.epsilon)
