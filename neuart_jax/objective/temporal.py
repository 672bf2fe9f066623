"""The temporal term, which compares a frame with earlier frames, warped to it.

The term's targets are results of earlier frames, which aren't known when the objective is built. As
they are data, one program serves all frames of a clip, including the first, whose weights are 0.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from neuart_jax.losses.temporal import temporal_loss
from neuart_jax.models.features import Features
from neuart_jax.objective.term import Inputs, Targets, Term

TEMPORAL = "temporal"
"""Name of the term."""


class References(NamedTuple):
    """Reference frames that a frame is compared with.

    Attributes:
      images: omega, results of the reference frames, warped to this frame, float32[references,
        height, width, 3].
      weights: c, reliability of the warped pixels, float32[references, height, width], in [0, 1].
    """

    images: ArrayLike
    weights: ArrayLike


def temporal_term(*, weight: float, num_references: int = 1) -> Term:
    """Penalize differences from warped earlier frames; see `temporal.temporal_loss`.

    The target has zero weights, as for the first frame, until `refer_to` replaces it.

    Args:
      weight: coefficient of the term.
      num_references: largest number of reference frames; part of the program.
    """
    return Term(
        name=TEMPORAL,
        weight=weight,
        make_target=_make_target_fn(num_references),
        loss_fn=_find_loss,
    )


def refer_to(targets: Targets, references: References) -> Targets:
    """Replace the target of the temporal term by a frame's references.

    Args:
      targets: targets of an objective with a `temporal_term`.
      references: references of the frame; missing ones get zero weights.

    Raises:
      ValueError: there are too many references, or they are of another size.
    """
    blank = targets.values[TEMPORAL]
    # On the host, as every operation of `jnp` would compile a program here.
    images, weights = (np.asarray(values, np.float32) for values in references)
    missing = blank.weights.shape[0] - weights.shape[0]
    if (
        missing < 0
        or images.shape[1:] != blank.images.shape[1:]
        or weights.shape != images.shape[:3]
    ):
        raise ValueError(
            f"references are {images.shape} with weights {weights.shape}, expected up to "
            f"{blank.images.shape}"
        )
    filled = jax.device_put(
        References(
            np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.float32)]),
            np.concatenate([weights, np.zeros((missing, *weights.shape[1:]), np.float32)]),
        )
    )
    return targets._replace(values={**targets.values, TEMPORAL: filled})


# Cached, so that equal terms have identical functions and share programs.
@functools.cache
def _make_target_fn(num_references: int) -> Callable[[Inputs], References]:
    def make_target(inputs: Inputs) -> References:
        shape = num_references, *inputs.content_image.shape
        return References(jnp.zeros(shape, jnp.float32), jnp.zeros(shape[:3], jnp.float32))

    return make_target


def _find_loss(image: Array, features: Features, target: References) -> Array:
    return temporal_loss(image, jnp.asarray(target.images), jnp.asarray(target.weights))
