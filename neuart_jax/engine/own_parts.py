"""What a user wrote for a run: a network, losses, an optimizer, a parametrization.

None of it is ever identified by its text, and nothing of it is kept on a disk.
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


class Parametrization(NamedTuple):
    """An image as a function of other numbers than its pixels, which are optimized instead.

    It is optimized at full size only, from `init` on, by an Optax transformation: `scales` and
    `init` of the configuration play no part. What it renders isn't clipped before the run ends.

    Attributes:
      init: (content image, float32[height, width, 3]) -> the first parameters, any pytree of
        floating-point arrays.
      render: parameters -> image, float32[height, width, 3], sRGB in [0, 1]. Pure and
        differentiable.
    """

    init: Callable[[Array], Any]
    render: Callable[[Any], Array]


class OwnParts(NamedTuple):
    """What of a run isn't in its configuration.

    Attributes:
      network: instead of the one that the configuration names.
      terms: losses beside those of the configuration.
      optimizer: instead of the one that the configuration names.
      parametrization: of the image; None moves its pixels.
    """

    network: FeatureNetwork | None = None
    terms: tuple[Term | StyleTerm, ...] = ()
    optimizer: Optimizer | None = None
    parametrization: Parametrization | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the configuration tells all."""
        return self == NO_OWN_PARTS


NO_OWN_PARTS = OwnParts()


def read_own_parts(
    *,
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term | StyleTerm] = (),
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    parametrization: Parametrization | None = None,
) -> OwnParts:
    """Check what a user brings, and put it together.

    Args:
      network: one of one's own, or a loaded one, which is none.
      extra_terms: losses.
      optimizer: any Optax transformation, or an `Optimizer`.
      parametrization: of the image.

    Raises:
      InputError: something is of another kind, or a weight is no finite number.
    """
    if network is not None and not isinstance(network, Network | FeatureNetwork):
        raise InputError(
            f"{type(network).__name__} came as the network",
            expected="a Network, or a FeatureNetwork(feature_fn, params)",
            remedy="make one of a linen module by FeatureNetwork.from_linen(module, variables)",
        )
    if parametrization is not None and not isinstance(parametrization, Parametrization):
        raise InputError(
            f"{type(parametrization).__name__} came as the parametrization",
            expected="a Parametrization(init, render)",
            remedy="make one of a function that makes the numbers, and one that renders them",
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
            expected="one that moves its numbers as they are: the configured ones move pixels",
            remedy="give one of Optax, such as optimizer=optax.adam(0.01)",
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
        remedy="name those of this package in the configuration: optimizer='adam'",
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
            expected="a text, which its loss is reported under",
            remedy="give one",
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
            remedy="give one; it can be changed without compiling anew",
        )
    return dataclasses.replace(term, weight=weight)


def check_loss(term: Term, image: Array, features: Any, target: Any) -> None:
    """Check that a term's loss is a number, without computing it.

    Args:
      term: one of the user's own.
      image: of the size that is painted.
      features: layer to anything with a shape and a dtype, those that terms read of the image.
      target: what the term compares with.

    Raises:
      InputError: its layers don't have what it reads, or it isn't one floating-point number.
    """
    try:
        loss = jax.eval_shape(term.loss_fn, image, features, target)
    except KeyError as error:
        [layer] = error.args or ("?",)
        raise InputError(
            f"the loss term {term.name!r} reads the layer {layer!r}",
            expected="a layer that it names in `layers`",
            remedy="add it there",
        ) from error
    shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", None)
    if shape != () or dtype is None or dtype.kind not in "fV":
        raise InputError(
            f"the loss term {term.name!r} gives {dtype}{list(shape or ())}",
            expected="one floating-point number, float32[]",
            remedy="take the sum or the mean of it",
        )
