"""The common ask-and-tell interface of all optimizers, so that one loop serves them all.

An optimizer proposes the image to evaluate next and observes the objective there; it then accepts
that image as its next iterate or proposes another. It never evaluates the objective itself.
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
        """Return whether the loss and all elements of the gradient are finite, bool[]."""
        # The sum is non-finite if any element is, and needs no array of booleans.
        sums = [jnp.sum(jnp.abs(array)) for array in jax.tree.leaves(self.gradient)]
        return jnp.isfinite(self.loss) & jnp.isfinite(sum(sums[1:], sums[0]))


class Point(NamedTuple):
    """An image with the objective there.

    Attributes:
      image: float32[height, width, 3].
      evaluation: the objective at that image.
    """

    image: Array
    evaluation: Evaluation


class Decision(NamedTuple):
    """An optimizer's decision on a trial.

    Attributes:
      accepted: whether the trial is the next iterate, bool[].
      failed: whether the optimizer can't continue because no trial was finite, bool[].
      opt_state: the optimizer's next state.
      stuck: whether the optimizer can't continue because no trial was lower, bool[].
    """

    accepted: Array
    failed: Array
    opt_state: Any
    stuck: Array | bool = False


class Optimizer(NamedTuple):
    """An optimizer as pure functions. There may be several trials between two updates.

    Attributes:
      init: initial image -> opt_state, before any evaluation of the objective.
      propose: (current point, opt_state, numbers) -> (image to try next, opt_state).
      observe: (current point, trial, opt_state, whether it is the first trial, numbers) ->
        Decision. The first trial is the initial image itself, not one from `propose`.
      carry: (initial image, opt_state of a run at another size) -> opt_state.
      numbers: any pytree of hyperparameters, such as a learning rate: data of the compiled
        functions, so that changing them compiles nothing.
    """

    init: Callable[[Array], Any]
    propose: Callable[[Point, Any, Any], tuple[Array, Any]]
    observe: Callable[[Point, Point, Any, Array, Any], Decision]
    carry: Callable[[Array, Any], Any]
    numbers: Any = ()


def accept_if_finite(trial: Point, opt_state: Any) -> Decision:
    """Accept a trial as the next iterate whatever its loss, if the loss is finite."""
    finite = trial.evaluation.is_finite()
    return Decision(finite, ~finite, opt_state)


@functools.lru_cache(maxsize=16)
def from_optax(transform: optax.GradientTransformation, *, clip: bool = True) -> Optimizer:
    """Wrap an Optax transformation as an optimizer of the pixels.

    Every evaluation is a step. Transformations that evaluate the objective themselves, such as
    `optax.lbfgs`, can't be used. At another size the transformation restarts.

    Args:
      transform: the transformation, such as ``optax.lion(1e-2)``. Its update gets the loss and the
        gradient as extra arguments. The same transformation gives the same optimizer, so nothing is
        recompiled.
      clip: whether to clip pixels to [0, 1] after every update. False leaves the values as they
        are, and allows any pytree.

    Raises:
      InputError: raised by the returned functions if the transformation needs other arguments.
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
                f"the optimizer needs more than gradient, image and loss ({error})",
                expected="a transformation that doesn't evaluate the objective itself",
                remedy="use another one, or optimizer='lbfgs' in the configuration",
            ) from error
        image = optax.apply_updates(now.image, step)
        return optax.projections.projection_box(image, 0, 1) if clip else image, opt_state

    return Optimizer(
        init=full.init,
        propose=propose,
        observe=lambda now, trial, opt_state, is_first, numbers: accept_if_finite(trial, opt_state),
        carry=lambda image, opt_state: full.init(image),
    )
