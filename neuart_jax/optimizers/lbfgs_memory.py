"""The memory of L-BFGS: its last steps and the changes of the gradient along them.

The coordinates may be any orthonormal ones: pixels, or the components of a cosine transform
(`frequency_bands`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Resize = Callable[[Array, tuple[int, ...]], Array]
"""(float[..., height', width', 3], new shape of the image) -> the same image at that size."""


class Memory(NamedTuple):
    """The newest pairs of differences, in a ring buffer.

    Attributes:
      steps: s_k = x_{k+1} - x_k, float[history, height, width, 3].
      changes: y_k = g_{k+1} - g_k, float[history, height, width, 3].
      inverses: rho_k = 1 / (s_k . y_k), float[history]; 0 for empty slots.
      scale: gamma = s_k . y_k / y_k . P y_k of the newest pair, float[]; P are the gains.
      num_stored: number of pairs stored since the memory was last empty, int32[].
    """

    steps: Array
    changes: Array
    inverses: Array
    scale: Array
    num_stored: Array


def init_memory(image: Array, *, history: int) -> Memory:
    """Return an empty memory of `history` pairs, in the image's shape and dtype."""
    empty = jnp.zeros((history, *image.shape), image.dtype)
    return Memory(
        steps=empty,
        changes=empty,
        inverses=jnp.zeros(history, image.dtype),
        scale=jnp.ones((), image.dtype),
        num_stored=jnp.int32(0),
    )


def dot(a: Array, b: Array) -> Array:
    """Compute the inner product over all elements."""
    # Accelerators would round float32 factors to bfloat16 or TF32, too coarse for a line search.
    return jnp.vdot(a, b, precision=lax.Precision.HIGHEST)


def remember(
    memory: Memory, *, step: Array, change: Array, wanted: Array, gains: Array | float = 1
) -> Memory:
    """Store a pair in place of the oldest one if `wanted` (bool[]) and s . y is positive.

    Any other pair would make the approximate Hessian indefinite. Source: Nocedal & Wright 2006,
    Algorithm 7.5; skipped pairs: PyTorch's and torch7's L-BFGS.

    Args:
      memory: the memory before.
      step: s, float[height, width, 3].
      change: y, float[height, width, 3].
      wanted: whether to store the pair.
      gains: P, equal to that of `find_direction`.
    """
    product, change_square = dot(step, change), dot(change, change)
    # Below the rounding error of s . y its sign is meaningless.
    least = jnp.finfo(step.dtype).eps * jnp.sqrt(dot(step, step) * change_square)
    stored = wanted & (product > least)
    index = memory.num_stored % len(memory.inverses)

    # Only one slot is read and written, so that the memory is updated in place.
    def put(ring: Array, value: Array) -> Array:
        return ring.at[index].set(jnp.where(stored, value, ring[index]))

    return Memory(
        steps=put(memory.steps, step),
        changes=put(memory.changes, change),
        inverses=put(memory.inverses, 1 / product),
        scale=jnp.where(stored, product / dot(change, gains * change), memory.scale),
        num_stored=memory.num_stored + stored,
    )


def forget(memory: Memory, *, wanted: Array) -> Memory:
    """Clear the memory if `wanted`, bool[]."""
    return memory._replace(
        inverses=jnp.where(wanted, 0, memory.inverses),
        num_stored=jnp.where(wanted, 0, memory.num_stored),
    )


def resize_pixels(images: Array, shape: tuple[int, ...]) -> Array:
    """Resize images, float[..., height', width', 3], to another shape (height, width, 3)."""
    return jax.image.resize(images, (*images.shape[:-3], *shape), "linear")


def resize_gradient(
    gradient: Array, shape: tuple[int, ...], *, resize: Resize = resize_pixels
) -> Array:
    """Resize a gradient to another image size.

    Losses are means over positions, so the gradient of a pixel is inversely proportional to the
    number of pixels.

    Args:
      gradient: float[..., height', width', 3].
      shape: new shape (height, width, 3).
      resize: resizes these coordinates.
    """
    resized = resize(gradient, shape)
    return resized * (gradient.shape[-3] * gradient.shape[-2] / (shape[0] * shape[1]))


def resize_memory(
    memory: Memory,
    shape: tuple[int, ...],
    *,
    resize: Resize = resize_pixels,
    gains: Array | float = 1,
) -> Memory:
    """Resize a memory to another image size, dropping pairs whose s . y isn't positive there.

    Source: github.com/crowsonkb/style-transfer-pytorch resizes Adam's moments this way; here the
    differences of L-BFGS.

    Args:
      memory: memory of a run at another size.
      shape: new shape (height, width, 3).
      resize: resizes these coordinates.
      gains: P at the new size.
    """
    steps = resize(memory.steps, shape)
    changes = resize_gradient(memory.changes, shape, resize=resize)
    products = jax.vmap(dot)(steps, changes)
    good = (memory.inverses > 0) & (products > 0)
    newest = (memory.num_stored - 1) % len(memory.inverses)
    square = dot(changes[newest], gains * changes[newest])
    return Memory(
        steps=steps,
        changes=changes,
        # Without its newest pair the memory has no scale, so it is cleared.
        inverses=jnp.where(good & good[newest], 1 / jnp.where(good, products, 1), 0),
        scale=jnp.where(good[newest], products[newest] / square, memory.scale),
        num_stored=jnp.where(good[newest], memory.num_stored, 0),
    )


def first_direction(gradient: Array) -> Array:
    """Return the result of `find_direction` for an empty memory and P = 1."""
    length = jnp.sqrt(dot(gradient, gradient))
    return -gradient * jnp.minimum(1, length) / jnp.where(length > 0, length, 1)


def find_direction(memory: Memory, gradient: Array, *, gains: Array | float = 1) -> Array:
    """Return -H g, where H is the inverse Hessian approximated by the memory.

    Source: Nocedal & Wright 2006, Algorithm 7.4 (two-loop recursion), with H_0 = gamma P, where
    gamma is that of equation (7.20) for P = 1: H_0 y is as close to s as possible in the norm of
    P^-1.
    Differs from source: the preconditioner P, for directions that aren't in the memory.
    With an empty memory the step length is min(1, |g|), as in Optax; see `first_direction`.

    Args:
      memory: memory of the last steps.
      gradient: g, float[height, width, 3].
      gains: P, a positive number for every coordinate, or for all.
    """
    history = len(memory.inverses)
    # A memory of a hundred pairs takes a tenth of an evaluation's time once it is full.
    count = _largest(jnp.minimum(memory.num_stored, history))

    def slot(age: Array) -> Array:
        return (memory.num_stored - 1 - age) % history

    def backward(age: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rest, factors = carry
        index = slot(age)
        factor = memory.inverses[index] * dot(memory.steps[index], rest)
        return rest - factor * memory.changes[index], factors.at[age].set(factor)

    def forward(done: Array, rest: Array) -> Array:
        age = count - 1 - done
        index = slot(age)
        other = memory.inverses[index] * dot(memory.changes[index], rest)
        return rest + (factors[age] - other) * memory.steps[index]

    nothing = jnp.zeros(history, gradient.dtype)
    rest, factors = lax.fori_loop(0, count, backward, (gradient, nothing))
    rest = gains * rest
    # With an empty memory, the vector to scale is P g.
    length, wanted = jnp.sqrt(dot(rest, rest)), jnp.sqrt(dot(gradient, gradient))
    first_scale = jnp.minimum(1, wanted) / jnp.where(length > 0, length, 1)
    scale = jnp.where(memory.num_stored > 0, memory.scale, first_scale)
    return -lax.fori_loop(0, count, forward, scale * rest)


@jax.custom_batching.custom_vmap
def _largest(count: Array) -> Array:
    """Return the largest number in a batch: a loop of one length for all its pairs."""
    return count


@_largest.def_vmap
def _largest_of_batch(size: int, batched: Sequence[bool], counts: Array) -> tuple[Array, bool]:
    return jnp.max(counts), False
