"""L-BFGS on the pixels or on their frequency components, with or without a line search."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from neuart_jax.optimizers.base import Decision, Optimizer, Point
from neuart_jax.optimizers.frequency_bands import (
    NUM_BANDS,
    from_cosines,
    learn_gains,
    resize_components,
    spread_gains,
    to_cosines,
)
from neuart_jax.optimizers.lbfgs_memory import (
    Memory,
    Resize,
    dot,
    find_direction,
    first_direction,
    forget,
    init_memory,
    remember,
    resize_memory,
    resize_pixels,
)
from neuart_jax.optimizers.line_search import Search, judge_trial, start_search


class Coordinates(NamedTuple):
    """Coordinates of an image in which L-BFGS works.

    Attributes:
      of: image, float[height, width, 3] -> coordinates, an array of the same shape.
      to_image: the inverse of `of`.
      resize: resizes coordinates; see `lbfgs_memory.Resize`.
      has_bands: whether they are frequency components with learned gains; see `frequency_bands`.
    """

    of: Callable[[Array], Array]
    to_image: Callable[[Array], Array]
    resize: Resize
    has_bands: bool


_PIXELS = Coordinates(lambda image: image, lambda image: image, resize_pixels, has_bands=False)
_COSINES = Coordinates(to_cosines, from_cosines, resize_components, has_bands=True)


class Quasi(NamedTuple):
    """State of a quasi-Newton method at the current image, in its coordinates.

    Attributes:
      memory: the last steps and changes of the gradient.
      log_gains: logarithms of the frequency bands' gains; see `frequency_bands.learn_gains`.
      gradient: gradient at the current image, float32[height, width, 3].
      direction: search direction from there, float32[height, width, 3].
    """

    memory: Memory
    log_gains: Array
    gradient: Array
    direction: Array


def _begin(image: Array, memory: Memory, log_gains: Array | None = None) -> Quasi:
    nothing = jnp.zeros_like(image)
    log_gains = jnp.zeros(NUM_BANDS, image.dtype) if log_gains is None else log_gains
    return Quasi(memory, log_gains, nothing, nothing)


def _gains_of(coordinates: Coordinates, log_gains: Array, shape: tuple[int, ...]) -> Array | float:
    return spread_gains(log_gains, *shape[:2]) if coordinates.has_bands else 1.0


def _carry(coordinates: Coordinates, image: Array, known: Quasi) -> Quasi:
    memory = resize_memory(
        known.memory,
        image.shape,
        resize=coordinates.resize,
        gains=_gains_of(coordinates, known.log_gains, image.shape),
    )
    return _begin(image, memory, known.log_gains)


def _advance(
    coordinates: Coordinates,
    known: Quasi,
    gradient: Array,
    *,
    step: Array,
    accepted: Array,
    is_first: Array,
) -> Quasi:
    """Update the memory and the direction if a trial is accepted.

    Args:
      coordinates: coordinates of all other arguments.
      known: state at the current image.
      gradient: gradient at the trial.
      step: step length to the trial, as a multiple of the direction.
      accepted: whether the trial is the next iterate, bool[].
      is_first: whether the trial is the initial image, bool[].
    """
    made = accepted & ~is_first
    moved, change = step * known.direction, gradient - known.gradient
    log_gains = known.log_gains
    if coordinates.has_bands:
        log_gains = learn_gains(log_gains, moved, change, wanted=made)
    gains = _gains_of(coordinates, log_gains, gradient.shape)
    memory = remember(known.memory, step=moved, change=change, wanted=made, gains=gains)
    # Selected afterwards, not computed conditionally: in a batch some pairs accept their trials
    # and others don't, and both branches are cheap compared with an evaluation.
    direction = find_direction(memory, gradient, gains=gains)
    return Quasi(
        memory,
        log_gains,
        gradient=jnp.where(accepted, gradient, known.gradient),
        direction=jnp.where(accepted, direction, known.direction),
    )


def _forget(known: Quasi, *, wanted: Array) -> Quasi:
    """Reset to the gradient's own direction if `wanted`, bool[]."""
    return known._replace(
        memory=forget(known.memory, wanted=wanted),
        log_gains=jnp.where(wanted, 0, known.log_gains),
        direction=jnp.where(wanted, first_direction(known.gradient), known.direction),
    )


class LbfgsState(NamedTuple):
    """State of L-BFGS between two trials.

    Attributes:
      known: quasi-Newton state at the current image.
      search: line search along the direction.
    """

    known: Quasi
    search: Search


def make_lbfgs(*, history: int, precondition: bool = False) -> Optimizer:
    """L-BFGS with a line search (strong Wolfe conditions).

    Source: Liu & Nocedal 1989; Nocedal & Wright 2006, Algorithms 7.4 and 7.5; `line_search`.
    Pixels aren't clipped between steps, as the memory refers to the unclipped image.
    If no step along a direction lowers the objective, the memory is cleared and the search is
    repeated along the negative gradient; if that fails as well, the optimizer is stuck.

    Args:
      history: number of pairs of differences kept, each twice the image's size.
      precondition: whether to learn a preconditioner in frequency bands; see `frequency_bands`.
    """
    coordinates = _COSINES if precondition else _PIXELS

    def begin(known: Quasi) -> LbfgsState:
        nothing = jnp.zeros((), known.gradient.dtype)
        return LbfgsState(known, start_search(value=nothing, slope=nothing))

    def propose(now: Point, state: LbfgsState, numbers: Any) -> tuple[Array, LbfgsState]:
        direction = coordinates.to_image(state.known.direction)
        return now.image + state.search.step * direction, state

    def observe(
        now: Point, trial: Point, state: LbfgsState, is_first: Array, numbers: Any
    ) -> Decision:
        known, search = state
        found = trial.evaluation
        finite = found.is_finite()
        gradient = coordinates.of(found.gradient)
        accepted, failed, found_nothing, next_trial = judge_trial(
            search, value=found.loss, slope=dot(gradient, known.direction), finite=finite
        )
        # The first evaluation is the initial image, not a trial of the line search.
        accepted, failed = jnp.where(is_first, finite, accepted), failed | (is_first & ~finite)
        known = _advance(
            coordinates, known, gradient, step=search.step, accepted=accepted, is_first=is_first
        )
        found_nothing &= ~is_first
        begins_anew = found_nothing & (known.memory.num_stored > 0)
        known = _forget(known, wanted=begins_anew)
        value = jnp.where(accepted, found.loss, search.start.value)
        fresh = start_search(value=value, slope=dot(known.gradient, known.direction))
        search = optax.tree.where(accepted | begins_anew, fresh, next_trial)
        stuck = found_nothing & ~begins_anew
        return Decision(accepted, failed, LbfgsState(known, search), stuck)

    return Optimizer(
        init=lambda image: begin(_begin(image, init_memory(image, history=history))),
        propose=propose,
        observe=observe,
        carry=lambda image, state: begin(_carry(coordinates, image, state.known)),
    )


def make_lbfgs_fixed(
    learning_rate: float, *, history: int, precondition: bool = False
) -> Optimizer:
    """L-BFGS without a line search: every evaluation is a step.

    Source: Liu & Nocedal 1989; Nocedal & Wright 2006, Algorithms 7.4 and 7.5; the fixed step is the
    default of jcjohnson/neural-style and PyTorch.

    Args:
      learning_rate: factor of the quasi-Newton step; 1 is the full step.
      history: number of pairs of differences kept, each twice the image's size.
      precondition: whether to learn a preconditioner in frequency bands; see `frequency_bands`.
    """
    coordinates = _COSINES if precondition else _PIXELS

    def propose(now: Point, known: Quasi, learning_rate: Array) -> tuple[Array, Quasi]:
        return now.image + learning_rate * coordinates.to_image(known.direction), known

    def observe(
        now: Point, trial: Point, known: Quasi, is_first: Array, learning_rate: Array
    ) -> Decision:
        finite = trial.evaluation.is_finite()
        known = _advance(
            coordinates,
            known,
            coordinates.of(trial.evaluation.gradient),
            step=jnp.asarray(learning_rate, trial.image.dtype),
            accepted=finite,
            is_first=is_first,
        )
        return Decision(finite, ~finite, known)

    return Optimizer(
        init=lambda image: _begin(image, init_memory(image, history=history)),
        propose=propose,
        observe=observe,
        carry=lambda image, known: _carry(coordinates, image, known),
        numbers=learning_rate,
    )
