"""What a run asks of its weights, and what every kind of weights answers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuart_jax.config.sections import NetworkConfig
from neuart_jax.models import Architecture, find_architecture
from neuart_jax.models.params.canonical import Weights, check_variables, variable_shapes

Float32 = npt.NDArray[np.float32]


class Loaded(NamedTuple):
    """Weights of any kind.

    Attributes:
      weights: in canonical form.
      identity: what made them, for the record of a result: "name", "file", "sha256".
      message: one line that says which weights these are.
      source: what complaints name, such as the file.
    """

    weights: Weights
    identity: Mapping[str, str]
    message: str
    source: str


class Request(NamedTuple):
    """What weights are wanted for.

    Attributes:
      config: model, weights, and the model's options.
      layers: the layers that will be read.
      images: float32[height, width, 3] each, sRGB in [0, 1]: the content, and every style.
      seed: of whatever is random about the weights.
    """

    config: NetworkConfig
    layers: tuple[str, ...]
    images: tuple[Float32, ...]
    seed: int

    @property
    def architecture(self) -> Architecture:
        """The model's row in the table of networks."""
        return find_architecture(self.config.model)

    def make_module(self, *, stride_on: str = "", **more: Any) -> Any:
        """Build the linen module with the configuration's options.

        Args:
          stride_on: for ResNet50, where its file says; empty leaves the model its default.
          **more: arguments of the module besides.
        """
        values = {
            "pooling": self.config.pooling,
            "padding": self.config.padding,
            "stride_on": stride_on,
        }
        chosen = {name: values[name] for name in self.architecture.options if values[name]}
        return self.architecture.make_module(**chosen, **more)

    def check(self, weights: Weights, *, source: str) -> None:
        """Check that weights have all that the layers need, and nothing the model hasn't.

        Args:
          weights: as read.
          source: what complaints name.

        Raises:
          InputError: names or shapes differ, or a number is not finite.
        """
        check_variables(
            weights.variables,
            needed=variable_shapes(self.config.model, self.layers),
            known=variable_shapes(self.config.model),
            source=source,
        )
