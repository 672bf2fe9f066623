"""One update of one pair: the state it carries, and the pure function that moves it."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from neuart_jax.objective import LossTerms, Objective, Targets
from neuart_jax.optimizers import Evaluation, Optimizer, Proposal


class Status(enum.IntEnum):
    """How a run stands. Trouble with numbers is data, not an exception."""

    RUNNING = 0
    COMPLETED = 1
    PLATEAU = 2
    NON_FINITE = 3
    STOPPED = 4

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
        }[self]


class TransferState(NamedTuple):
    """All that one pair carries from step to step.

    Attributes:
      image: current image, float32[height, width, 3]; may leave [0, 1] under L-BFGS.
      evaluation: objective and gradient at `image`.
      terms: loss terms, at `image` after the last step of a chunk.
      opt_state: the optimizer's own.
      num_steps: accepted updates, int32[].
      num_evaluations: calls of the objective, int32[].
      best_image: image with the smallest loss so far.
      best_loss: that loss, float32[].
      plateau_loss: best loss at the last gain that counted as progress, float32[].
      plateau_step: the step of that gain, int32[].
      status: a `Status`, int32[].
    """

    image: Array
    evaluation: Evaluation
    terms: LossTerms
    opt_state: Any
    num_steps: Array
    num_evaluations: Array
    best_image: Array
    best_loss: Array
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


EvaluateFn = Callable[[Array, Any, Targets], tuple[Evaluation, LossTerms]]
InitFn = Callable[[Array, Any, Targets], TransferState]
StepFn = Callable[[TransferState, Any, Targets, Array], TransferState]


def make_evaluate_fn(objective: Objective) -> EvaluateFn:
    """Return (image, params, targets) -> the objective, its gradient and its terms."""

    def evaluate(image: Array, params: Any, targets: Targets) -> tuple[Evaluation, LossTerms]:
        (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(
            image, params, targets
        )
        return Evaluation(loss, gradient), terms

    return evaluate


def _is_finite(evaluation: Evaluation) -> Array:
    # The sum is non-finite if any element is, and costs no array of booleans.
    return jnp.isfinite(evaluation.loss) & jnp.isfinite(jnp.sum(jnp.abs(evaluation.gradient)))


def make_init_fn(objective: Objective, optimizer: Optimizer) -> InitFn:
    """Return (image, params, targets) -> the state before the first step."""
    evaluate = make_evaluate_fn(objective)

    def init(image: Array, params: Any, targets: Targets) -> TransferState:
        evaluation, terms = evaluate(image, params, targets)
        status = jnp.where(_is_finite(evaluation), Status.RUNNING, Status.NON_FINITE)
        return TransferState(
            image=image,
            evaluation=evaluation,
            terms=terms,
            opt_state=optimizer.init(image),
            num_steps=jnp.int32(0),
            num_evaluations=jnp.int32(1),
            best_image=image,
            best_loss=evaluation.loss,
            plateau_loss=evaluation.loss,
            plateau_step=jnp.int32(0),
            status=status.astype(jnp.int32),
        )

    return init


def make_step_fn(objective: Objective, optimizer: Optimizer, stop: StopRule) -> StepFn:
    """Return one update: (state, params, targets, wants_terms) -> state.

    `wants_terms` (bool[]) asks for the loss terms where they cost an evaluation of their own:
    after a line search, which only knows their sum.
    A non-finite loss or gradient leaves the image as it was and sets the status.
    """
    evaluate = make_evaluate_fn(objective)

    def find_terms(
        proposal: Proposal, state: TransferState, params: Any, targets: Targets, wanted: Array
    ) -> tuple[Evaluation, LossTerms, Array]:
        if proposal.evaluation is None:
            evaluation, terms = evaluate(proposal.image, params, targets)
            return evaluation, terms, proposal.num_evaluations + 1
        terms = lax.cond(
            wanted,
            lambda: objective(proposal.image, params, targets)[1],
            lambda: state.terms,
        )
        return proposal.evaluation, terms, proposal.num_evaluations

    def step(
        state: TransferState, params: Any, targets: Targets, wants_terms: Array
    ) -> TransferState:
        proposal = optimizer.update(
            state.image,
            state.evaluation,
            state.opt_state,
            lambda image: objective(image, params, targets)[0],
        )
        evaluation, terms, evaluations = find_terms(proposal, state, params, targets, wants_terms)
        finite = _is_finite(evaluation)
        num_steps = state.num_steps + finite

        better = finite & (evaluation.loss < state.best_loss)
        best_loss = jnp.where(better, evaluation.loss, state.best_loss)
        progress = best_loss < state.plateau_loss * (1 - stop.tolerance)
        plateau_step = jnp.where(progress, num_steps, state.plateau_step)
        status = jnp.where(num_steps >= stop.num_steps, Status.COMPLETED, Status.RUNNING)
        if stop.patience > 0:
            stuck = num_steps - plateau_step >= stop.patience
            status = jnp.where(stuck, Status.PLATEAU, status)
        status = jnp.where(finite, status, Status.NON_FINITE)

        def keep_if_finite(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        return TransferState(
            image=keep_if_finite(proposal.image, state.image),
            evaluation=keep_if_finite(evaluation, state.evaluation),
            terms=keep_if_finite(terms, state.terms),
            opt_state=proposal.opt_state,
            num_steps=num_steps,
            num_evaluations=state.num_evaluations + evaluations,
            best_image=jnp.where(better, proposal.image, state.best_image),
            best_loss=best_loss,
            plateau_loss=jnp.where(progress, best_loss, state.plateau_loss),
            plateau_step=plateau_step,
            status=status.astype(jnp.int32),
        )

    return step
