"""A single evaluation: the state of the loop, and the pure functions that advance it."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from neuart_jax.objective.term import LossTerms, Objective, Targets
from neuart_jax.optimizers.base import Evaluation, Optimizer, Point

OPTIMIZER = "optimizer"
"""Name of the optimizer's part in the metadata of compiled programs; see `term.NETWORK`."""


class Status(enum.IntEnum):
    """Status of a run. Numerical failures are data, not exceptions."""

    RUNNING = 0
    COMPLETED = 1
    PLATEAU = 2
    NON_FINITE = 3
    STOPPED = 4
    STUCK = 5

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return {
            Status.RUNNING: "The run is under way.",
            Status.COMPLETED: "All steps were made.",
            Status.PLATEAU: "The loss stopped falling, so the run ended early.",
            Status.NON_FINITE: (
                "The loss was no longer a finite number, so the run ended there with the best "
                "image before it; a smaller --learning_rate or other weights may help."
            ),
            Status.STOPPED: "The run was stopped on request, with the best image so far.",
            Status.STUCK: (
                "No step lowered the loss any more, not even along its gradient, so the run ended "
                "early with the best image; losses this large or flat may need other weights."
            ),
        }[self]


NUM_RECENT = 1024
"""Length of a state's buffer of losses, the largest number of steps in a chunk. The host fetches
the buffer after each chunk, so that a program doesn't depend on the number of steps of a run."""


class LoopState(NamedTuple):
    """State of one pair between evaluations.

    Attributes:
      image: current image, float32[height, width, 3], which may leave [0, 1] under L-BFGS; or its
        parameters, if the image is parametrized.
      evaluation: objective and gradient at `image`.
      terms: loss terms at `image`.
      opt_state: state of the optimizer; meaningless once the run has ended.
      num_steps: number of accepted updates, int32[].
      num_evaluations: number of evaluations of the objective, int32[].
      recent_losses: ring buffer of losses, float32[NUM_RECENT], with the loss after step n at index
        n modulo its length; step 0 is the initial image.
      best_image: image with the smallest loss so far.
      best_loss: smallest loss so far, float32[].
      average: decayed sum of the iterates, or None without a moving average; see `find_average`.
      plateau_loss: best loss at the last improvement that counted as progress, float32[].
      plateau_step: step of that improvement, int32[].
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
    """Stopping rule of a run.

    Attributes:
      num_steps: largest number of updates.
      patience: number of steps without progress after which the run ends; 0 disables this.
      tolerance: relative improvement of the best loss that counts as progress.
    """

    num_steps: int
    patience: int = 0
    tolerance: float = 1e-3


class Numbers(NamedTuple):
    """Numbers of a run that are data: changing them compiles nothing.

    Attributes:
      stop: stopping rule.
      optimizer: hyperparameters of the optimizer; see `Optimizer.numbers`.
      decay: decay of the moving average of the iterates, if there is one.
    """

    stop: StopRule
    optimizer: Any = ()
    decay: float = 0.0


EvaluateFn = Callable[[Array, Any, Targets], tuple[Evaluation, LossTerms]]
InitFn = Callable[[Array, Any, Targets], LoopState]
TickFn = Callable[[LoopState, Any, Targets, Numbers], LoopState]


def make_evaluate_fn(objective: Objective) -> EvaluateFn:
    """Make the function (image, params, targets) -> (objective with gradient, loss terms)."""

    def evaluate(image: Array, params: Any, targets: Targets) -> tuple[Evaluation, LossTerms]:
        (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(
            image, params, targets
        )
        return Evaluation(loss, gradient), terms

    return evaluate


def make_init_fn(evaluate: EvaluateFn, optimizer: Optimizer, *, averages: bool = False) -> InitFn:
    """Make the function (image, params, targets) -> state before the first evaluation.

    It evaluates nothing, so that a run compiles the network's gradient only once; the first tick
    evaluates the initial image.

    Args:
      evaluate: evaluation function, from `make_evaluate_fn`.
      optimizer: the optimizer.
      averages: whether to keep a moving average of the iterates.
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
    """Make the function of a single evaluation: (state, params, targets, numbers) -> state.

    The first evaluation is that of the initial image. After it, each trial that the optimizer
    accepts is a step. If the optimizer can't continue because no trial was finite or lower, the
    image is kept and the status is set. A pair that isn't running is left unchanged.

    Args:
      evaluate: evaluation function, from `make_evaluate_fn`.
      optimizer: the optimizer.
      batched: whether the state, the targets, and the arguments and results of `evaluate`, except
        for the network's parameters, have a leading axis of pairs. The pairs are otherwise
        independent: they search, step and end separately, with the same `numbers`.
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
        # The initial image is always accepted, whatever its loss.
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
        with jax.named_scope(OPTIMIZER):
            image, opt_state = propose(state, numbers)
        evaluation, terms = evaluate(image, params, targets)
        with jax.named_scope(OPTIMIZER):
            return observe(state, image, opt_state, evaluation, terms, numbers)

    return tick


def _choose(condition: Array, yes: Any, no: Any) -> Any:
    # Identical arrays aren't selected: L-BFGS's memory is as large as many images.
    return jax.tree.map(lambda y, n: y if y is n else jnp.where(condition, y, n), yes, no)


def find_average(state: LoopState, *, decay: float) -> Any:
    """Return the bias-corrected exponential moving average of the iterates.

    Before the first step it is the initial image.

    Source: the exponential moving average of Kingma & Ba 2014, arXiv 1412.6980, section 3, with its
    bias correction; over the iterates, Polyak & Juditsky 1992, "Acceleration of stochastic
    approximation by averaging".

    Args:
      state: state of one pair or of a batch, with an `average`.
      decay: decay of the moving average.

    Returns:
      Arrays like `state.image`.
    """
    assert state.average is not None

    def mean(average: Array, image: Array) -> Array:
        axes = (1,) * (image.ndim - state.num_steps.ndim)
        num_steps = state.num_steps.reshape((*state.num_steps.shape, *axes))
        count = jnp.maximum(num_steps, 1).astype(jnp.float32)
        corrected = optax.tree.bias_correction(average, decay, count)
        return jnp.where(num_steps > 0, corrected, image)

    return jax.tree.map(mean, state.average, state.image)
