"""One evaluation of one pair: the state it carries, and the pure functions that move it."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from neuart_jax.objective.term import LossTerms, Objective, Targets
from neuart_jax.optimizers.base import Evaluation, Optimizer, Point


class Status(enum.IntEnum):
    """How a run stands. Trouble with numbers is data, not an exception."""

    RUNNING = 0
    COMPLETED = 1
    PLATEAU = 2
    NON_FINITE = 3
    STOPPED = 4
    STUCK = 5

    @property
    def message(self) -> str:
        """Say it in a sentence."""
        return {
            Status.RUNNING: "The run is under way.",
            Status.COMPLETED: "All steps were made.",
            Status.PLATEAU: "The loss stopped falling, so the run ended early.",
            Status.NON_FINITE: (
                "The loss was no longer a finite number, so the run ended there with the best "
                "picture before it; a smaller --learning_rate or other weights may help."
            ),
            Status.STOPPED: "The run was stopped on request, with the best picture so far.",
            Status.STUCK: (
                "No step lowered the loss any more, not even along its gradient, so the run ended "
                "early with the best picture; losses this large or flat may need other weights."
            ),
        }[self]


NUM_RECENT = 1024
"""Losses that a state holds. A chunk makes no more steps, and the host fetches them after each: so
a program doesn't depend on how many steps a run has."""


class LoopState(NamedTuple):
    """All that one pair carries from evaluation to evaluation.

    Attributes:
      image: current image, float32[height, width, 3]; may leave [0, 1] under L-BFGS. Where the
        image is parametrized, its parameters.
      evaluation: objective and gradient at `image`.
      terms: loss terms at `image`.
      opt_state: the optimizer's own; without meaning once the run has ended.
      num_steps: accepted updates, int32[].
      num_evaluations: calls of the objective, int32[].
      recent_losses: loss after step n at n modulo its length, float32[NUM_RECENT]; 0 is the start.
      best_image: image with the smallest loss so far.
      best_loss: that loss, float32[].
      average: decayed sum of the images after every step, or None where none is kept; see
        `find_average`.
      plateau_loss: best loss at the last gain that counted as progress, float32[].
      plateau_step: the step of that gain, int32[].
      status: a `Status`, int32[].
    """

    image: Any
    evaluation: Evaluation
    terms: LossTerms
    opt_state: Any
    num_steps: Array
    num_evaluations: Array
    recent_losses: Array
    best_image: Any
    best_loss: Array
    average: Any
    plateau_loss: Array
    plateau_step: Array
    status: Array


class StopRule(NamedTuple):
    """When a run ends.

    Attributes:
      num_steps: updates at the most.
      patience: steps without a gain after which it ends; 0 never ends it.
      tolerance: relative gain in the best loss that counts.
    """

    num_steps: int
    patience: int = 0
    tolerance: float = 1e-3


class Numbers(NamedTuple):
    """The numbers of a run that are data: no program is compiled for another of them.

    Attributes:
      stop: when it ends.
      optimizer: see `Optimizer.numbers`.
      decay: of the average over images, where one is kept.
    """

    stop: StopRule
    optimizer: Any = ()
    decay: float = 0.0


EvaluateFn = Callable[[Array, Any, Targets], tuple[Evaluation, LossTerms]]
InitFn = Callable[[Array, Any, Targets], LoopState]
TickFn = Callable[[LoopState, Any, Targets, Numbers], LoopState]


def make_evaluate_fn(objective: Objective) -> EvaluateFn:
    """Return (image, params, targets) -> the objective, its gradient and its terms."""

    def evaluate(image: Array, params: Any, targets: Targets) -> tuple[Evaluation, LossTerms]:
        (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(
            image, params, targets
        )
        return Evaluation(loss, gradient), terms

    return evaluate


def make_init_fn(evaluate: EvaluateFn, optimizer: Optimizer, *, averages: bool = False) -> InitFn:
    """Return (image, params, targets) -> the state before the first evaluation.

    Nothing is evaluated here, so that a run compiles its network's gradient once; the first tick
    evaluates the start.

    Args:
      evaluate: see `make_evaluate_fn`.
      optimizer: see `Optimizer`.
      averages: whether an average over the images is kept.
    """

    def init(image: Array, params: Any, targets: Targets) -> LoopState:
        evaluation, terms = jax.tree.map(
            lambda array: jnp.zeros(array.shape, array.dtype),
            jax.eval_shape(evaluate, image, params, targets),
        )
        return LoopState(
            image=image,
            evaluation=evaluation,
            terms=terms,
            opt_state=optimizer.init(image),
            num_steps=jnp.int32(0),
            num_evaluations=jnp.int32(0),
            recent_losses=jnp.zeros(NUM_RECENT),
            best_image=image,
            best_loss=evaluation.loss,
            average=jax.tree.map(jnp.zeros_like, image) if averages else None,
            plateau_loss=evaluation.loss,
            plateau_step=jnp.int32(0),
            status=jnp.int32(Status.RUNNING),
        )

    return init


def make_tick_fn(
    evaluate: EvaluateFn,
    optimizer: Optimizer,
    *,
    batched: bool,
) -> TickFn:
    """Return one evaluation and what follows from it: (state, params, targets, numbers) -> state.

    The first one is that of the start. After it, where the optimizer accepts what it tried, that
    is a step. Where it sees no way on, since no number was finite or none lower, the image stays as
    it was and the status says so. A pair that isn't running stays as it is.

    Args:
      evaluate: see `make_evaluate_fn`.
      optimizer: see `Optimizer`.
      batched: whether state, targets and what `evaluate` takes and returns, but for the network's
        parameters, have a leading axis of pairs. Nothing else connects the pairs: they search,
        step and end independently, by the same numbers.
    """

    def propose(state: LoopState, numbers: Numbers) -> tuple[Array, Any]:
        now = Point(state.image, state.evaluation)
        return _choose(
            state.num_evaluations == 0,
            (state.image, state.opt_state),
            optimizer.propose(now, state.opt_state, numbers.optimizer),
        )

    def observe(
        state: LoopState,
        image: Array,
        opt_state: Any,
        evaluation: Evaluation,
        terms: LossTerms,
        numbers: Numbers,
    ) -> LoopState:
        stop, decay = numbers.stop, numbers.decay
        is_first = state.num_evaluations == 0
        decision = optimizer.observe(
            Point(state.image, state.evaluation),
            Point(image, evaluation),
            opt_state,
            is_first,
            numbers.optimizer,
        )
        active = state.status == Status.RUNNING
        made = active & decision.accepted & ~is_first
        # The start is where the run is, whatever its loss.
        taken = made | (active & is_first)
        num_steps = state.num_steps + made

        now = _choose(taken, evaluation, state.evaluation)
        average = state.average
        if average is not None:
            mean = jax.tree.map(lambda a, i: decay * a + (1 - decay) * i, average, image)
            average = _choose(made, mean, average)
        better = taken & (is_first | (evaluation.loss < state.best_loss))
        best_loss = jnp.where(better, evaluation.loss, state.best_loss)
        progress = is_first | (best_loss < state.plateau_loss * (1 - stop.tolerance))
        plateau_step = jnp.where(progress, num_steps, state.plateau_step)
        status = jnp.where(num_steps >= stop.num_steps, Status.COMPLETED, Status.RUNNING)
        stuck = (stop.patience > 0) & (num_steps - plateau_step >= stop.patience)
        status = jnp.where(stuck, Status.PLATEAU, status)
        status = jnp.where(decision.stuck, Status.STUCK, status)
        status = jnp.where(decision.failed, Status.NON_FINITE, status)

        return LoopState(
            image=_choose(taken, image, state.image),
            evaluation=now,
            terms=_choose(taken, terms, state.terms),
            opt_state=decision.opt_state,
            num_steps=num_steps,
            num_evaluations=state.num_evaluations + active,
            recent_losses=state.recent_losses.at[num_steps % NUM_RECENT].set(now.loss),
            best_image=_choose(better, image, state.best_image),
            best_loss=best_loss,
            average=average,
            plateau_loss=jnp.where(progress, best_loss, state.plateau_loss),
            plateau_step=plateau_step,
            status=jnp.where(active, status, state.status).astype(jnp.int32),
        )

    if batched:
        propose = jax.vmap(propose, (0, None))
        observe = jax.vmap(observe, (0, 0, 0, 0, 0, None))

    def tick(state: LoopState, params: Any, targets: Targets, numbers: Numbers) -> LoopState:
        image, opt_state = propose(state, numbers)
        evaluation, terms = evaluate(image, params, targets)
        return observe(state, image, opt_state, evaluation, terms, numbers)

    return tick


def _choose(condition: Array, yes: Any, no: Any) -> Any:
    # What is the same isn't chosen: L-BFGS' memory is as large as many images.
    return jax.tree.map(lambda y, n: y if y is n else jnp.where(condition, y, n), yes, no)


def find_average(state: LoopState, *, decay: float) -> Any:
    """Return the mean of the images after every step, each newer one counting 1 / decay times more.

    Before the first step it is the image itself.

    Source: the exponential moving average of Kingma & Ba 2014, arXiv 1412.6980, section 3, with its
    correction for the start at zero; over the iterates, Polyak & Juditsky 1992, "Acceleration of
    stochastic approximation by averaging".

    Args:
      state: of one pair or of a batch, with an `average`.
      decay: with which it was kept.

    Returns:
      Like `state.image`.
    """
    assert state.average is not None

    def mean(average: Array, image: Array) -> Array:
        axes = (1,) * (image.ndim - state.num_steps.ndim)
        num_steps = state.num_steps.reshape((*state.num_steps.shape, *axes))
        count = jnp.maximum(num_steps, 1).astype(jnp.float32)
        corrected = optax.tree.bias_correction(average, decay, count)
        return jnp.where(num_steps > 0, corrected, image)

    return jax.tree.map(mean, state.average, state.image)
