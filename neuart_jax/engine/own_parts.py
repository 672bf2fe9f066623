"""Custom parts of a run, from user code: a network, losses, an optimizer, a parametrization.

They are never identified by their text, and never cached on disk.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import optax
from jax import Array
from numpy.typing import ArrayLike

from neuart_jax.config.errors import InputError
from neuart_jax.models.features import FeatureFn, Features
from neuart_jax.models.params.load import Network
from neuart_jax.objective.style import StyleTerm
from neuart_jax.objective.term import Term
from neuart_jax.optimizers.base import Optimizer, from_optax


class FeatureNetwork(NamedTuple):
    """A custom feature network: any pure function with its parameters.

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
        """Create a feature network from a linen module that returns a dictionary of features.

        Args:
          module: linen module whose ``apply(variables, image)`` takes float32[height, width, 3] and
            returns {layer: float[height', width', channels]}.
          variables: variables of the module.
          mean: mean of each channel, subtracted from sRGB in [0, 1].
          std: standard deviation of each channel, by which the difference is divided.

        Returns:
          The network.
        """
        center, scale = (
            np.broadcast_to(np.asarray(numbers, np.float32), (1, 1, 3)) for numbers in (mean, std)
        )

        def feature_fn(variables: Any, image: Array) -> Features:
            features: Features = module.apply(variables, (image - center) / scale)
            return features

        return cls(feature_fn, variables)


class Parametrization(NamedTuple):
    """An image as a function of parameters, which are optimized instead of the pixels.

    The parameters are optimized at full size only, starting from `init`, by an Optax
    transformation: `scales` and `init` of the configuration are ignored. The rendered image is only
    clipped at the end of the run.

    Attributes:
      init: (content image, float32[height, width, 3]) -> initial parameters, any pytree of
        floating-point arrays.
      render: parameters -> image, float32[height, width, 3], sRGB in [0, 1]. Pure and
        differentiable.
    """

    init: Callable[[Array], Any]
    render: Callable[[Any], Array]


class OwnParts(NamedTuple):
    """Custom parts of a run, which aren't in its configuration.

    Attributes:
      network: network to use instead of the configured one.
      terms: losses in addition to the configured ones.
      optimizer: optimizer to use instead of the configured one.
      parametrization: parametrization of the image; None optimizes its pixels.
    """

    network: FeatureNetwork | None = None
    terms: tuple[Term | StyleTerm, ...] = ()
    optimizer: Optimizer | None = None
    parametrization: Parametrization | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there are no custom parts."""
        return self == NO_OWN_PARTS


NO_OWN_PARTS = OwnParts()


def read_own_parts(
    *,
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term | StyleTerm] = (),
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    parametrization: Parametrization | None = None,
) -> OwnParts:
    """Validate and collect the custom parts of a run.

    Args:
      network: a custom network, or a loaded one, which doesn't count as custom.
      extra_terms: additional losses.
      optimizer: any Optax transformation, or an `Optimizer`.
      parametrization: parametrization of the image.

    Raises:
      InputError: an argument has the wrong type, or a weight is not a finite number.
    """
    if network is not None and not isinstance(network, Network | FeatureNetwork):
        raise InputError(
            f"{type(network).__name__} came as the network",
            expected="a Network, or a FeatureNetwork(feature_fn, params)",
            remedy="wrap a linen module by FeatureNetwork.from_linen(module, variables)",
        )
    if parametrization is not None and not isinstance(parametrization, Parametrization):
        raise InputError(
            f"{type(parametrization).__name__} came as the parametrization",
            expected="a Parametrization(init, render)",
            remedy="give a function that creates the parameters, and one that renders them",
        )
    if isinstance(extra_terms, Term | StyleTerm) or not isinstance(extra_terms, Iterable):
        raise InputError(
            f"{type(extra_terms).__name__} came as the extra terms",
            expected="a sequence of terms",
            remedy="write extra_terms=[term]",
        )
    if parametrization is not None and optimizer is None:
        raise InputError(
            "a parametrization came without an optimizer",
            expected="an optimizer of any parameters: the configured ones optimize pixels",
            remedy="give one from Optax, such as optimizer=optax.adam(0.01)",
        )
    return OwnParts(
        network if isinstance(network, FeatureNetwork) else None,
        tuple(map(_check_term, extra_terms)),
        _read_optimizer(optimizer, clip=parametrization is None),
        parametrization,
    )


def _read_optimizer(
    given: Optimizer | optax.GradientTransformation | None, *, clip: bool
) -> Optimizer | None:
    if given is None or isinstance(given, Optimizer):
        return given
    if isinstance(given, optax.GradientTransformation):
        return from_optax(given, clip=clip)
    raise InputError(
        f"{type(given).__name__} came as the optimizer",
        expected="an Optax transformation, such as optax.adam(0.02), or an Optimizer",
        remedy="name this package's optimizers in the configuration: optimizer='adam'",
    )


_LAYER_FIELDS = ("content_layers", "style_layers", "layers")


def _check_term(term: Term | StyleTerm) -> Term | StyleTerm:
    """Return a term with its weight as a float."""
    if not isinstance(term, Term | StyleTerm):
        raise InputError(
            f"{type(term).__name__} came among the extra terms",
            expected="a Term or a StyleTerm",
            remedy="write Term(name=..., weight=..., make_target=..., loss_fn=...)",
        )
    layers = () if isinstance(term, StyleTerm) else _LAYER_FIELDS
    if not isinstance(term.name, str) or not term.name:
        raise InputError(
            f"a loss term has the name {term.name!r}",
            expected="a text, under which the loss is reported",
            remedy="give the term a name",
        )
    for field in layers:
        if isinstance(getattr(term, field), str):
            raise InputError(
                f"the loss term {term.name!r} has a text as its {field}",
                expected="a sequence of names",
                remedy=f"write {field}=({getattr(term, field)!r},)",
            )
    weight = math.nan
    if not isinstance(term.weight, str):
        try:
            weight = float(term.weight)
        except (TypeError, ValueError):
            pass
    if not math.isfinite(weight):
        raise InputError(
            f"the loss term {term.name!r} has the weight {term.weight!r}",
            expected="a finite number",
            remedy="give one; changing it doesn't recompile anything",
        )
    return dataclasses.replace(term, weight=weight)


def check_loss(term: Term, image: Array, features: Any, target: Any) -> None:
    """Check that a term's loss is a number, without computing it.

    Args:
      term: a custom term.
      image: an image of the run's size.
      features: shaped objects by layer, for all layers of the image that terms read.
      target: target of the term.

    Raises:
      InputError: the term reads a layer that it doesn't name, or its loss isn't a single
        floating-point number.
    """
    try:
        loss = jax.eval_shape(term.loss_fn, image, features, target)
    except KeyError as error:
        [layer] = error.args or ("?",)
        raise InputError(
            f"the loss term {term.name!r} reads the layer {layer!r}",
            expected="a layer that it names in `layers`",
            remedy="add the layer there",
        ) from error
    shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", None)
    if shape != () or dtype is None or dtype.kind not in "fV":
        raise InputError(
            f"the loss term {term.name!r} returns {dtype}{list(shape or ())}",
            expected="one floating-point number, float32[]",
            remedy="return its sum or mean",
        )
