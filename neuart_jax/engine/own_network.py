"""Networks of one's own, and the objective as a function of one's own."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from neuart_jax.models.features import FeatureFn, Features
from neuart_jax.objective.term import LossTerms, Objective, Targets


class FeatureNetwork(NamedTuple):
    """A network of one's own: any pure function with its parameters.

    Attributes:
      feature_fn: (params, image float32[height, width, 3] in [0, 1]) -> {layer: features}.
      params: any pytree of arrays.
    """

    feature_fn: FeatureFn
    params: Any

    @classmethod
    def from_linen(
        cls, module: Any, variables: Any, *, mean: ArrayLike = 0.0, std: ArrayLike = 1.0
    ) -> Self:
        """Make one of a linen module that returns a dictionary of features.

        Args:
          module: its ``apply(variables, image)`` takes float32[height, width, 3] and returns
            {layer: float[height', width', channels]}.
          variables: of the module.
          mean: of each channel, subtracted from sRGB in [0, 1].
          std: of each channel, divides the difference.
        """
        center, scale = (
            np.broadcast_to(np.asarray(numbers, np.float32), (1, 1, 3)) for numbers in (mean, std)
        )

        def feature_fn(variables: Any, image: Array) -> Features:
            features: Features = module.apply(variables, (image - center) / scale)
            return features

        return cls(feature_fn, variables)


class ObjectiveData(NamedTuple):
    """All numbers of an objective: a pytree of arrays.

    Attributes:
      params: the network's arrays.
      targets: what the terms compare with, and their weights.
    """

    params: Any
    targets: Targets


class BoundObjective(NamedTuple):
    """The function of the pixels that a run minimizes, pure: for `jax.grad`, `jit`, `vmap`, `jvp`.

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
