"""Optimizers behind one interface, so that one loop serves them all.

An optimizer names the image to evaluate next and is told what the objective is there; it may take
that image as its next step or ask for another. It never evaluates anything itself.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import LEARNING_RATES, OptimizerConfig
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
    resize_gradient,
    resize_memory,
    resize_pixels,
)
from neuart_jax.optimizers.line_search import Search, judge_trial, start_search


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
        sums = [jnp.sum(jnp.abs(array)) for array in jax.tree.leaves(self.gradient)]
        return jnp.isfinite(self.loss) & jnp.isfinite(sum(sums[1:], sums[0]))


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
      failed: there is no way on from here, since nothing tried was finite, bool[].
      opt_state: the optimizer's next state.
      stuck: there is no way on from here, since nothing tried was lower, bool[].
    """

    accepted: Array
    failed: Array
    opt_state: Any
    stuck: Array | bool = False


class Optimizer(NamedTuple):
    """Pure functions. Between an update and the next there may be several trials.

    Attributes:
      init: the first image, where nothing is known of the objective yet -> opt_state.
      propose: (the current point, opt_state, numbers) -> (the image to try next, opt_state).
      observe: (the current point, the trial, opt_state, whether it is the first, numbers) ->
        Decision. The first trial is the start itself, and not what `propose` named.
      carry: (the first image, the opt_state of a run at another size) -> opt_state.
      numbers: any pytree of numbers, such as a learning rate: data of the compiled functions, so
        that others can be handed to the same program.
    """

    init: Callable[[Array], Any]
    propose: Callable[[Point, Any, Any], tuple[Array, Any]]
    observe: Callable[[Point, Point, Any, Array, Any], Decision]
    carry: Callable[[Array, Any], Any]
    numbers: Any = ()


class AdamNumbers(NamedTuple):
    """Numbers of Adam; see `make_adam`."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    decay_steps: int


def _accept_if_finite(trial: Point, opt_state: Any) -> Decision:
    finite = trial.evaluation.is_finite()
    return Decision(finite, ~finite, opt_state)


def make_adam(
    learning_rate: float,
    *,
    schedule: str = "constant",
    decay_steps: int = 1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> Optimizer:
    """Adam, with pixels kept in [0, 1] by projection after every update.

    Source: Kingma & Ba 2014, arXiv 1412.6980, Algorithm 1, whose own constants are the defaults.
    Differs from source: the projection. Without it pixels wander off to where the file's range
    cuts them, and the picture that is written isn't the one that was optimized.

    Args:
      learning_rate: step in pixel units (white is 1).
      schedule: "constant", or "cosine", along which it falls to zero (Loshchilov & Hutter 2016,
        arXiv 1608.03983, equation 5, without restarts).
      decay_steps: after so many steps.
      beta1: decay of the mean gradient.
      beta2: decay of the mean squared gradient.
      epsilon: added to the root of that, in units of the gradient.
    """
    is_constant = {"constant": True, "cosine": False}[schedule]

    def make_transform(numbers: AdamNumbers) -> optax.GradientTransformation:
        def rate(count: Array) -> Array:
            if is_constant:
                return jnp.asarray(numbers.learning_rate)
            # `optax.cosine_decay_schedule` takes no number of steps that is an argument.
            share = jnp.minimum(count, numbers.decay_steps) / numbers.decay_steps
            return numbers.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * share))

        return optax.adam(rate, numbers.beta1, numbers.beta2, numbers.epsilon)

    own = AdamNumbers(learning_rate, beta1, beta2, epsilon, decay_steps)

    def init(image: Array) -> Any:
        return make_transform(own).init(image)

    def propose(now: Point, opt_state: Any, numbers: AdamNumbers) -> tuple[Array, Any]:
        transform = make_transform(numbers)
        step, opt_state = transform.update(now.evaluation.gradient, opt_state, now.image)
        return jnp.clip(now.image + step, 0, 1), opt_state

    def carry(image: Array, opt_state: Any) -> Any:
        moments, *_ = opt_state
        _, *fresh = init(image)
        mean = resize_gradient(moments.mu, image.shape)
        square = jnp.square(resize_gradient(jnp.sqrt(moments.nu), image.shape))
        # The moments go on, with their count; the schedule is each run's own.
        return (moments._replace(mu=mean, nu=square), *fresh)

    return Optimizer(
        init=init,
        propose=propose,
        observe=lambda now, trial, opt_state, is_first, numbers: _accept_if_finite(
            trial, opt_state
        ),
        carry=carry,
        numbers=own,
    )


class Coordinates(NamedTuple):
    """What L-BFGS takes a picture to be made of.

    Attributes:
      of: a picture, float[height, width, 3] -> its coordinates, in an array of the same shape.
      picture: the inverse of `of`.
      resize: see `lbfgs_memory.Resize`.
      has_bands: whether they are components whose gains are learned; see `frequency_bands`.
    """

    of: Callable[[Array], Array]
    picture: Callable[[Array], Array]
    resize: Resize
    has_bands: bool


_PIXELS = Coordinates(lambda image: image, lambda image: image, resize_pixels, has_bands=False)
_COSINES = Coordinates(to_cosines, from_cosines, resize_components, has_bands=True)


class Quasi(NamedTuple):
    """What a quasi-Newton method knows at the current image, all in its coordinates.

    Attributes:
      memory: of the steps made.
      log_gains: of bands of frequencies; see `frequency_bands.learn_gains`.
      gradient: at the current image, float32[height, width, 3].
      direction: from there, float32[height, width, 3].
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
    """Learn from a trial, and aim anew if it is accepted.

    Args:
      coordinates: of all that follows.
      known: at the current image.
      gradient: at the trial.
      step: its length, as a multiple of the direction.
      accepted: whether the trial is the next image, bool[].
      is_first: whether it is the start, which no step led to, bool[].
    """
    made = accepted & ~is_first
    moved, change = step * known.direction, gradient - known.gradient
    log_gains = known.log_gains
    if coordinates.has_bands:
        log_gains = learn_gains(log_gains, moved, change, wanted=made)
    gains = _gains_of(coordinates, log_gains, gradient.shape)
    memory = remember(known.memory, step=moved, change=change, wanted=made, gains=gains)
    # Chosen afterwards, not computed under a condition: in a batch one pair accepts its trial
    # while another one doesn't, and both are cheap beside an evaluation.
    direction = find_direction(memory, gradient, gains=gains)
    return Quasi(
        memory,
        log_gains,
        gradient=jnp.where(accepted, gradient, known.gradient),
        direction=jnp.where(accepted, direction, known.direction),
    )


def _forget(known: Quasi, *, wanted: Array) -> Quasi:
    """Aim along the gradient itself, as at the start, where that is `wanted`, bool[]."""
    return known._replace(
        memory=forget(known.memory, wanted=wanted),
        log_gains=jnp.where(wanted, 0, known.log_gains),
        direction=jnp.where(wanted, first_direction(known.gradient), known.direction),
    )


class LbfgsState(NamedTuple):
    """State of L-BFGS between two trials.

    Attributes:
      known: at the current image.
      search: for the step length along the direction.
    """

    known: Quasi
    search: Search


def make_lbfgs(*, history: int, precondition: bool = False) -> Optimizer:
    """L-BFGS with a line search (strong Wolfe conditions).

    Source: Liu & Nocedal 1989; Nocedal & Wright 2006, Algorithms 7.4 and 7.5; `line_search`.
    Pixels aren't clipped between steps: what is known belongs to the unclipped image.
    If no step along a direction lowers the objective, the memory is emptied and the gradient's own
    direction is searched; if none does there either, the optimizer is stuck.

    Args:
      history: pairs of differences kept, each twice the image's size.
      precondition: whether it learns how stiff each band of frequencies is; see `frequency_bands`.
    """
    coordinates = _COSINES if precondition else _PIXELS

    def begin(known: Quasi) -> LbfgsState:
        nothing = jnp.zeros((), known.gradient.dtype)
        return LbfgsState(known, start_search(value=nothing, slope=nothing))

    def propose(now: Point, state: LbfgsState, numbers: Any) -> tuple[Array, LbfgsState]:
        direction = coordinates.picture(state.known.direction)
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
        # The start was searched for by nobody.
        accepted, failed = jnp.where(is_first, finite, accepted), failed | (is_first & ~finite)
        known = _advance(
            coordinates, known, gradient, step=search.step, accepted=accepted, is_first=is_first
        )
        found_nothing &= ~is_first
        begins_anew = found_nothing & (known.memory.num_stored > 0)
        known = _forget(known, wanted=begins_anew)
        value = jnp.where(accepted, found.loss, search.start.value)
        fresh = start_search(value=value, slope=dot(known.gradient, known.direction))
        search = jax.tree.map(
            lambda new, old: jnp.where(accepted | begins_anew, new, old), fresh, next_trial
        )
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

    Source: as `make_lbfgs`; the fixed step is jcjohnson/neural-style's and PyTorch's default.

    Args:
      learning_rate: factor of the quasi-Newton step; 1 is the full step.
      history: pairs of differences kept, each twice the image's size.
      precondition: as of `make_lbfgs`.
    """
    coordinates = _COSINES if precondition else _PIXELS

    def propose(now: Point, known: Quasi, learning_rate: Array) -> tuple[Array, Quasi]:
        return now.image + learning_rate * coordinates.picture(known.direction), known

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


def make_optimizer(config: OptimizerConfig, *, num_steps: int) -> Optimizer:
    """Build the optimizer that the configuration names.

    Args:
      config: which one, and its numbers.
      num_steps: length of the run, over which the cosine schedule falls to zero.
    """
    learning_rate = config.learning_rate or LEARNING_RATES[config.optimizer]
    if config.optimizer == "lbfgs":
        return make_lbfgs(history=config.history, precondition=config.precondition)
    if config.optimizer == "lbfgs_fixed":
        return make_lbfgs_fixed(
            learning_rate, history=config.history, precondition=config.precondition
        )
    return make_adam(
        learning_rate,
        schedule=config.schedule,
        decay_steps=num_steps,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
    )


@functools.lru_cache(maxsize=16)
def from_optax(transform: optax.GradientTransformation, *, clip: bool = True) -> Optimizer:
    """Let any Optax transformation move the pixels, which are kept in [0, 1] after every update.

    Every evaluation is a step. Transformations that evaluate the objective themselves, such as
    `optax.lbfgs`, can't be used. At another size the transformation starts afresh.

    Args:
      transform: such as ``optax.lion(1e-2)``. It gets the loss and the gradient as extra arguments.
      clip: False leaves the numbers as they are, which may be any pytree then.

    Raises:
      InputError: from the functions returned, when it asks for more than that.
    """
    full = optax.with_extra_args_support(transform)

    def propose(now: Point, opt_state: Any, numbers: Any) -> tuple[Array, Any]:
        loss, gradient = now.evaluation
        try:
            step, opt_state = full.update(gradient, opt_state, now.image, value=loss, grad=gradient)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise InputError(
                f"the optimizer asks for more than gradient, image and loss ({error})",
                expected="a transformation that doesn't evaluate the objective itself",
                remedy="take another one, or optimizer='lbfgs' of the configuration",
            ) from error
        image = optax.apply_updates(now.image, step)
        return jnp.clip(image, 0, 1) if clip else image, opt_state

    return Optimizer(
        init=full.init,
        propose=propose,
        observe=lambda now, trial, opt_state, is_first, numbers: _accept_if_finite(
            trial, opt_state
        ),
        carry=lambda image, opt_state: full.init(image),
    )


def strip_numbers(config: OptimizerConfig) -> OptimizerConfig:
    """Return a configuration that is equal for all whose compiled functions are.

    Args:
      config: of whose settings only those stay that aren't in `Optimizer.numbers`.
    """
    reads = ("schedule",) if config.optimizer == "adam" else ("history", "precondition")
    return OptimizerConfig(
        optimizer=config.optimizer,
        **{name: getattr(config, name) for name in reads},
    )
