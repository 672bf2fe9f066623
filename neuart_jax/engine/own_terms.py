"""Losses of one's own, checked before anything is compiled."""

import dataclasses
import math
from typing import Any

import jax
from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest
from neuart_jax.objective.term import Term


def check_term(term: Term) -> Term:
    """Return a term with its weight as a float.

    Raises:
      InputError: it is no `Term`, or its weight no finite number.
    """
    if not isinstance(term, Term):
        raise InputError(
            f"{type(term).__name__} came among the extra terms",
            expected="a Term",
            remedy="write Term(name=..., weight=..., make_target=..., loss_fn=...)",
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
            remedy=f"add it there; the network has {nearest(str(layer), features)!r}"
            if features
            else "add it there",
        ) from error
    shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", None)
    if shape != () or dtype is None or dtype.kind not in "fV":
        raise InputError(
            f"the loss term {term.name!r} gives {dtype}{list(shape or ())}",
            expected="one floating-point number, float32[]",
            remedy="take the sum or the mean of it",
        )
