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


def accept_if_finite(trial: Point, opt_state: Any) -> Decision:
    """Take a trial as the next step whatever its loss, unless that is no number."""
    finite = trial.evaluation.is_finite()
    return Decision(finite, ~finite, opt_state)


@functools.lru_cache(maxsize=16)
def from_optax(transform: optax.GradientTransformation, *, clip: bool = True) -> Optimizer:
    """Let any Optax transformation move the pixels, which are kept in [0, 1] after every update.

    Every evaluation is a step. Transformations that evaluate the objective themselves, such as
    `optax.lbfgs`, can't be used. At another size the transformation starts afresh.

    Args:
      transform: such as ``optax.lion(1e-2)``. It gets the loss and the gradient as extra arguments.
        The same one gives the same optimizer, for which nothing is compiled anew.
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
        return optax.projections.projection_box(image, 0, 1) if clip else image, opt_state

    return Optimizer(
        init=full.init,
        propose=propose,
        observe=lambda now, trial, opt_state, is_first, numbers: accept_if_finite(trial, opt_state),
        carry=lambda image, opt_state: full.init(image),
    )
