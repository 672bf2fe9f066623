"""The objective of a run as a pure function, for custom uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from neuart_jax.objective.term import LossTerms, Objective, Targets


class ObjectiveData(NamedTuple):
    """All data of an objective: a pytree of arrays.

    Attributes:
      params: the network's parameters.
      targets: targets and weights of the terms.
    """

    params: Any
    targets: Targets


class BoundObjective(NamedTuple):
    """The pure function of the pixels that a run minimizes, for `jax.grad`, `jit` and `vmap`.

    With this package's networks it can be differentiated in reverse mode, once, or any number of
    times with ``convolution="direct"``; with a custom network in whatever modes that supports.

    Called with an image, float32[height, width, 3], it returns (the weighted sum of all terms,
    float32[]; each term's unweighted loss by name, and the sum as "total").

    Attributes:
      apply: (data, image) -> the same values; once compiled, it serves other data of equal shapes.
      data: the data of this objective.
    """

    apply: Callable[[ObjectiveData, Array], tuple[Array, LossTerms]]
    data: ObjectiveData

    def __call__(self, image: Array) -> tuple[Array, LossTerms]:
        """Evaluate the objective at an image."""
        return self.apply(self.data, image)


def bind_objective(objective: Objective, data: ObjectiveData) -> BoundObjective:
    """Bind an objective, (image, params, targets) -> (loss, terms), to its data."""

    def apply(data: ObjectiveData, image: Array) -> tuple[Array, LossTerms]:
        return objective(image, data.params, data.targets)

    return BoundObjective(apply, data)
