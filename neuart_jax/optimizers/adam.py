"""Adam on the pixels."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from neuart_jax.optimizers.base import Optimizer, Point, accept_if_finite
from neuart_jax.optimizers.lbfgs_memory import resize_gradient


class AdamNumbers(NamedTuple):
    """Numbers of Adam; see `make_adam`."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    decay_steps: int


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
    cuts them, and the image that is written isn't the one that was optimized.

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
        return optax.projections.projection_box(now.image + step, 0, 1), opt_state

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
        observe=lambda now, trial, opt_state, is_first, numbers: accept_if_finite(trial, opt_state),
        carry=carry,
        numbers=own,
    )
