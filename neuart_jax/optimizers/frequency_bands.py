"""A diagonal preconditioner in frequency bands, learned during the run.

L-BFGS knows the curvature along its last few steps; for all other directions it has a single scale.
Images have many thousands of directions whose curvatures differ by orders of magnitude, and most of
the difference depends on frequency: total variation responds to fine changes, style losses mostly
to changes of the whole image's color. So images are represented as sums of cosines in frequency
bands, and each pair of a step s and the gradient's change y gives an estimate of the curvature in
each band.

Source: for a single band this is the scale of Barzilai & Borwein 1988, s . y / y . y, which L-BFGS
uses for all directions (Nocedal & Wright 2006, equation (7.20)). That an image is better optimized
in a frequency basis: Olah et al. 2017, "Feature visualization", doi:10.23915/distill.00007, with
fixed gains. The cosine transform is that of an image mirrored at its borders, which doesn't connect
opposite borders.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.fft import dctn, idctn

_BANDS_PER_OCTAVE = 2
_OCTAVES = 9
NUM_BANDS = _BANDS_PER_OCTAVE * _OCTAVES + 1
"""Number of bands, with centers half an octave apart; components between two centers are shared."""

_HIGHEST = 2**-0.5
"""Cycles per pixel of the finest checkerboard, the center of the last band."""

_DECAY = 0.9
"""Decay of the moving average over pairs; a single pair says little about bands that its step
hardly excites."""

_LEAST = 0.05
"""Lower bound of s.y / y.y, as a fraction of sqrt(s.s / y.y), for bands with negative curvature."""

_AXES = (-3, -2)
# Energies span many orders of magnitude, more than the fast products of accelerators can represent.
_EXACT = lax.Precision.HIGHEST


def to_cosines(image: Array) -> Array:
    """Compute an image's orthonormal cosine transform, DCT-II.

    Args:
      image: float[..., height, width, channels].
    """
    return dctn(image, axes=_AXES, norm="ortho")


def from_cosines(components: Array) -> Array:
    """Invert `to_cosines`."""
    return idctn(components, axes=_AXES, norm="ortho")


def resize_components(components: Array, shape: tuple[int, ...]) -> Array:
    """Return the components of the same image at another size.

    Frequencies that a smaller image can't represent are dropped; those missing in a smaller image
    are zero.

    Args:
      components: float[..., height', width', channels].
      shape: (height, width, channels).
    """
    height, width = components.shape[-3:-1]
    scale = (shape[0] * shape[1] / (height * width)) ** 0.5
    rows, columns = ((0, max(new - old, 0)) for old, new in ((height, shape[0]), (width, shape[1])))
    padding = [(0, 0)] * (components.ndim - 3) + [rows, columns, (0, 0)]
    return scale * jnp.pad(components[..., : shape[0], : shape[1], :], padding)


def learn_gains(log_gains: Array, step: Array, change: Array, *, wanted: Array) -> Array:
    """Update the estimated gain of every band with one more pair.

    Args:
      log_gains: estimate so far, float[bands]; zeros at first.
      step: s, components float[height, width, channels].
      change: y, components float[height, width, channels].
      wanted: whether to use the pair, bool[].

    Returns:
      The logarithm of each band's inverse curvature, float[bands]. Only differences between bands
      are meaningful: for each pair, the mean over its bands is subtracted.
    """
    products = jnp.stack([step * step, change * change, step * change]).sum(-1)
    steps, changes, both = _sum_bands(products)
    seen = (steps > 0) & (changes > 0)
    steps, changes = (jnp.where(seen, energy, 1) for energy in (steps, changes))
    ratio = jnp.maximum(both, _LEAST * jnp.sqrt(steps) * jnp.sqrt(changes)) / changes
    found = jnp.log(jnp.where(seen, ratio, 1))
    found -= jnp.sum(found) / jnp.maximum(jnp.sum(seen), 1)
    share = jnp.where(jnp.any(log_gains != 0), 1 - _DECAY, 1)
    mixed = log_gains + share * (found - log_gains)
    return jnp.where(wanted & seen & jnp.isfinite(found), mixed, log_gains)


def spread_gains(log_gains: Array, height: int, width: int) -> Array:
    """Return the gain of every component, float[height, width, 1].

    Args:
      log_gains: logarithms of the bands' gains, from `learn_gains`.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
    """
    down, across, radial = (
        jnp.asarray(shares, log_gains.dtype)
        for shares in (_shares(height), _shares(width), _radial_shares())
    )
    table = jnp.tensordot(log_gains, radial, 1, precision=_EXACT)
    spread = jnp.matmul(jnp.matmul(down.T, table, precision=_EXACT), across, precision=_EXACT)
    return jnp.exp(spread)[..., None]


def _sum_bands(energies: Array) -> Array:
    """Sum components by band: float[..., height, width] -> float[..., bands]."""
    down, across, radial = (
        jnp.asarray(shares, energies.dtype)
        for shares in (*map(_shares, energies.shape[-2:]), _radial_shares())
    )
    table = jnp.matmul(jnp.matmul(down, energies, precision=_EXACT), across.T, precision=_EXACT)
    return jnp.einsum("...ij,bij->...b", table, radial, precision=_EXACT)


def _share_out(frequencies: np.ndarray) -> np.ndarray:
    """Return each band's share of each frequency (cycles per pixel): float[bands, ...]."""
    with np.errstate(divide="ignore"):
        octaves = np.log2(frequencies / _HIGHEST)
    places = np.clip(NUM_BANDS - 1 + _BANDS_PER_OCTAVE * octaves, 0, NUM_BANDS - 1)
    return np.maximum(0, 1 - np.abs(places - np.arange(NUM_BANDS).reshape(-1, *[1] * places.ndim)))


@functools.cache
def _shares(side: int) -> np.ndarray:
    """Return each band's share of the components along an axis, float[bands, side]."""
    return _share_out(np.arange(side) / (2 * side))


@functools.cache
def _radial_shares() -> np.ndarray:
    """Return each radial band's share of (vertical band, horizontal band), float[bands] * 3."""
    centers = _HIGHEST * 2.0 ** ((np.arange(NUM_BANDS) - NUM_BANDS + 1) / _BANDS_PER_OCTAVE)
    return _share_out(np.hypot(centers[:, None], centers))
