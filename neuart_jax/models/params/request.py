"""The request for a network's weights, and the result of every kind of loader."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuart_jax.config.sections import NetworkConfig
from neuart_jax.models import Architecture, find_architecture
from neuart_jax.models.params.canonical import CanonicalParams, check_variables, variable_shapes

Float32 = npt.NDArray[np.float32]


class Loaded(NamedTuple):
    """Loaded weights of any kind.

    Attributes:
      params: the parameters in canonical form.
      identity: identity of the weights for the record of a result: "name", "file", "sha256".
      message: one line that describes the weights.
      source: name of their source in error messages, such as the file.
    """

    params: CanonicalParams
    identity: Mapping[str, str]
    message: str
    source: str


class Request(NamedTuple):
    """A request for weights.

    Attributes:
      config: model, weights, and the model's options.
      layers: the layers that will be used.
      images: float32[height, width, 3] each, sRGB in [0, 1]: the content, and every style.
      seed: seed for all randomness in the weights.
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
          stride_on: for ResNet50, as stated by the weights file; empty for the model's default.
          **more: further arguments of the module.
        """
        values = {
            "pooling": self.config.pooling,
            "padding": self.config.padding,
            "stride_on": stride_on,
        }
        chosen = {name: values[name] for name in self.architecture.options if values[name]}
        return self.architecture.make_module(**chosen, **more)

    def check(self, params: CanonicalParams, *, source: str) -> None:
        """Check that weights have all variables of the layers, and none unknown to the model.

        Args:
          params: the parameters read.
          source: name of their source in error messages.

        Raises:
          InputError: names or shapes differ, or a number is not finite.
        """
        check_variables(
            params.variables,
            needed=variable_shapes(self.config.model, self.layers),
            known=variable_shapes(self.config.model),
            source=source,
        )
