"""Adam on the pixels."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from neuart_jax.optimizers.base import Optimizer, Point, accept_if_finite
from neuart_jax.optimizers.lbfgs_memory import resize_gradient


class AdamNumbers(NamedTuple):
    """Hyperparameters of Adam; see `make_adam`."""

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
    """Adam, with pixels projected to [0, 1] after every update.

    Source: Kingma & Ba 2014, arXiv 1412.6980, Algorithm 1, with its constants as defaults.
    Differs from source: the projection. Without it, pixels drift out of the range of a file and are
    clipped when written, so that the saved image isn't the optimized one.

    Args:
      learning_rate: step size in pixel units (white is 1).
      schedule: "constant", or "cosine", which decays the learning rate to zero (Loshchilov & Hutter
        2016, arXiv 1608.03983, equation 5, without restarts).
      decay_steps: number of steps of the cosine decay.
      beta1: decay of the mean gradient.
      beta2: decay of the mean squared gradient.
      epsilon: added to the root of the mean squared gradient, in units of the gradient.
    """
    is_constant = {"constant": True, "cosine": False}[schedule]

    def make_transform(numbers: AdamNumbers) -> optax.GradientTransformation:
        def rate(count: Array) -> Array:
            if is_constant:
                return jnp.asarray(numbers.learning_rate)
            # `optax.cosine_decay_schedule` doesn't accept a traced number of steps.
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
        # The moments continue with their count; the schedule restarts.
        return (moments._replace(mu=mean, nu=square), *fresh)

    return Optimizer(
        init=init,
        propose=propose,
        observe=lambda now, trial, opt_state, is_first, numbers: accept_if_finite(trial, opt_state),
        carry=carry,
        numbers=own,
    )
