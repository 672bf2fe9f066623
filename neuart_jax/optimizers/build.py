"""The optimizer that a configuration names."""

from neuart_jax.config.sections import LEARNING_RATES, OptimizerConfig
from neuart_jax.optimizers.adam import make_adam
from neuart_jax.optimizers.base import Optimizer
from neuart_jax.optimizers.lbfgs import make_lbfgs, make_lbfgs_fixed


def make_optimizer(config: OptimizerConfig, *, num_steps: int) -> Optimizer:
    """Build the optimizer that the configuration names.

    Args:
      config: name and hyperparameters of the optimizer.
      num_steps: length of the run, over which the cosine schedule decays to zero.
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


def strip_numbers(config: OptimizerConfig) -> OptimizerConfig:
    """Return a configuration that is equal for optimizers with the same compiled functions.

    Args:
      config: settings of the optimizer; those in `Optimizer.numbers` are reset.
    """
    reads = ("schedule",) if config.optimizer == "adam" else ("history", "precondition")
    return OptimizerConfig(
        optimizer=config.optimizer,
        **{name: getattr(config, name) for name in reads},
    )
