"""The objective of a run as a pure function, for uses of one's own."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from neuart_jax.objective.term import LossTerms, Objective, Targets


class ObjectiveData(NamedTuple):
    """All numbers of an objective: a pytree of arrays.

    Attributes:
      params: the network's arrays.
      targets: what the terms compare with, and their weights.
    """

    params: Any
    targets: Targets


class BoundObjective(NamedTuple):
    """The function of the pixels that a run minimizes, pure: for `jax.grad`, `jit` and `vmap`.

    With this package's networks it can be differentiated in reverse mode, once, or any number of
    times with ``convolution="direct"``; with a network of one's own in whatever modes that allows.

    Called with an image, float32[height, width, 3], it returns (the weighted sum of all terms,
    float32[]; each term's own loss by its name, before its weight, and the sum as "total").

    Attributes:
      apply: (data, image) -> the same; a program compiled of it serves other data of these shapes.
      data: the numbers.
    """

    apply: Callable[[ObjectiveData, Array], tuple[Array, LossTerms]]
    data: ObjectiveData

    def __call__(self, image: Array) -> tuple[Array, LossTerms]:
        """Evaluate the objective at an image."""
        return self.apply(self.data, image)


def bind_objective(objective: Objective, data: ObjectiveData) -> BoundObjective:
    """Bind an objective, (image, params, targets) -> (loss, terms), to its numbers."""

    def apply(data: ObjectiveData, image: Array) -> tuple[Array, LossTerms]:
        return objective(image, data.params, data.targets)

    return BoundObjective(apply, data)
