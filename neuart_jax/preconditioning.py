"""A first guess of how the objective curves: less along coarse changes than along fine ones.

L-BFGS learns the curvature along its last few steps; of all other directions it only knows one
scale. Pictures change along many thousands of directions, whose curvatures differ by orders of
magnitude, and which of them are stiff is known beforehand: features answer to differences between
neighboring pixels.

Source: Olah et al. 2017, "Feature visualization", doi:10.23915/distill.00007, whose gradient
ascent goes faster in a space where all frequencies have the same energy, 1/f^2 in photographs.
Differs from source: only H_0 of L-BFGS (Nocedal & Wright 2006, section 7.2) is changed, not what is
optimized; below `CORNER` all frequencies are equal; and a cosine transform, that of a picture
mirrored at its borders, connects no opposite ones.
"""

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.fft import dctn, idctn

CORNER = 0.02
"""Cycles per pixel; changes with longer waves, of 50 pixels and more, are treated alike."""

_AXES = (0, 1)


def find_gains(height: int, width: int, exponent: float) -> Array:
    """Return (1 + f^2 / CORNER^2)^-exponent for each component of the cosine transform.

    Args:
      height: of the picture, in pixels.
      width: likewise.
      exponent: 0 treats all frequencies alike; with 1, gains fall as energies in photographs.

    Returns:
      float[height, width, 1], 1 at the constant component.
    """
    squares = (jnp.square(jnp.arange(side) / (2 * side * CORNER)) for side in (height, width))
    down, across = squares
    return (1 + down[:, None, None] + across[None, :, None]) ** -exponent


def precondition(image: Array, exponent: float) -> Array:
    """Return P x: every component of a picture's cosine transform times its gain.

    Args:
      image: float[height, width, channels].
      exponent: as of `find_gains`; 0 returns the picture itself.
    """
    if not exponent:
        return image
    height, width, _ = image.shape
    gains = find_gains(height, width, exponent).astype(image.dtype)
    spectrum = dctn(image, axes=_AXES, norm="ortho")
    return idctn(gains * spectrum, axes=_AXES, norm="ortho")


def preconditioned_square(image: Array, exponent: float) -> Array:
    """Return x . P x, float[].

    Args:
      image: float[height, width, channels].
      exponent: as of `find_gains`.
    """
    if exponent:
        height, width, _ = image.shape
        gains = find_gains(height, width, exponent).astype(image.dtype)
        image = jnp.sqrt(gains) * dctn(image, axes=_AXES, norm="ortho")
    # As in `curvature.dot`.
    return jnp.vdot(image, image, precision=lax.Precision.HIGHEST)
