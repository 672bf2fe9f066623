"""The term that holds a frame to what earlier frames show of it.

What it compares with comes from the results of those frames, and not from pictures that are there
from the beginning. So it is data: one program serves all frames of a clip, the first one included,
to which no weight holds anything.
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
"""The term's name."""


class References(NamedTuple):
    """What a frame is compared with.

    Attributes:
      images: omega, earlier results moved to where their pixels are now, float32[references,
        height, width, 3].
      weights: c, how far each of them is known, float32[references, height, width], in [0, 1].
    """

    images: ArrayLike
    weights: ArrayLike


def temporal_term(*, weight: float, num_references: int = 1) -> Term:
    """Hold a frame to earlier ones; see `temporal.temporal_loss`.

    Its target is that of a first frame, where nothing is known, until `refer_to` has changed it.

    Args:
      weight: coefficient.
      num_references: frames that each is compared with, at the most. It is a part of the program.
    """
    return Term(
        name=TEMPORAL,
        weight=weight,
        make_target=_make_target_fn(num_references),
        loss_fn=_find_loss,
    )


def refer_to(targets: Targets, references: References) -> Targets:
    """Return the targets of a frame that is compared with earlier ones.

    Args:
      targets: of an objective with a `temporal_term`.
      references: of this frame; fewer than the term has are filled up with ones of no weight.

    Raises:
      ValueError: there are too many, or they are of another size.
    """
    blank = targets.values[TEMPORAL]
    # On the host: every operation of `jnp` here would be a program of its own.
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


# The functions of equal terms are the same ones, so that their programs are.
@functools.cache
def _make_target_fn(num_references: int) -> Callable[[Inputs], References]:
    def make_target(inputs: Inputs) -> References:
        shape = num_references, *inputs.content_image.shape
        return References(jnp.zeros(shape, jnp.float32), jnp.zeros(shape[:3], jnp.float32))

    return make_target


def _find_loss(image: Array, features: Features, target: References) -> Array:
    return temporal_loss(image, jnp.asarray(target.images), jnp.asarray(target.weights))
