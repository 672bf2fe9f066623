"""How stiff the objective is along coarse and along fine changes, learned on the way.

L-BFGS knows the curvature along its last few steps; of all other directions it knows one scale.
Images change along many thousands of directions, whose curvatures differ by orders of magnitude,
and most of the difference goes with the frequency: a total variation answers to fine changes,
style losses most to changes of a whole image's color. So images are seen as sums of cosines, in
bands of frequencies, and each pair of a step s and the gradient's change y tells how stiff each
band is.

Source: for one band alone this is the scale of Barzilai & Borwein 1988, s . y / y . y, as L-BFGS
has it for the whole (Nocedal & Wright 2006, equation (7.20)). That an image is better optimized in
a basis of frequencies: Olah et al. 2017, "Feature visualization", doi:10.23915/distill.00007, with
gains that are fixed beforehand. A cosine transform is that of an image mirrored at its borders,
and connects no opposite ones.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.fft import dctn, idctn

_BANDS_PER_OCTAVE = 2
_OCTAVES = 9
NUM_BANDS = _BANDS_PER_OCTAVE * _OCTAVES + 1
"""Their centers are half an octave apart; a component between two belongs to both, in shares."""

_HIGHEST = 2**-0.5
"""Cycles per pixel of the finest checkerboard, the center of the last band."""

_DECAY = 0.9
"""Of the running mean over pairs. One pair alone says little of bands that its step hardly has."""

_LEAST = 0.05
"""Of sqrt(s.s / y.y): what s.y / y.y counts for at least, where a band bends the other way."""

_AXES = (-3, -2)
# Sums of energies span many orders of magnitude, more than accelerators' fast products keep.
_EXACT = lax.Precision.HIGHEST


def to_cosines(image: Array) -> Array:
    """Return an image's orthonormal cosine transform, DCT-II.

    Args:
      image: float[..., height, width, channels].
    """
    return dctn(image, axes=_AXES, norm="ortho")


def from_cosines(components: Array) -> Array:
    """Undo `to_cosines`."""
    return idctn(components, axes=_AXES, norm="ortho")


def resize_components(components: Array, shape: tuple[int, ...]) -> Array:
    """Return the components of the same image at another size.

    Frequencies that a smaller image can't hold are lost; those that a smaller one didn't have
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
    """Return what is known of every band after one more pair.

    Args:
      log_gains: so far, float[bands]; zeros when nothing is known.
      step: s, components float[height, width, channels].
      change: y, components float[height, width, channels].
      wanted: whether to learn from it, bool[].

    Returns:
      The logarithm of each band's inverse curvature, float[bands]. Only differences between bands
      mean something: of each pair, the mean over the bands that it has is taken off.
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
      log_gains: from `learn_gains`.
      height: of the image, in pixels.
      width: of the image, in pixels.
    """
    down, across, radial = (
        jnp.asarray(shares, log_gains.dtype)
        for shares in (_shares(height), _shares(width), _radial_shares())
    )
    table = jnp.tensordot(log_gains, radial, 1, precision=_EXACT)
    spread = jnp.matmul(jnp.matmul(down.T, table, precision=_EXACT), across, precision=_EXACT)
    return jnp.exp(spread)[..., None]


def _sum_bands(energies: Array) -> Array:
    """Sum components by band: float[..., height, width] to float[..., bands]."""
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
    """Return what share of an axis' components each band has, float[bands, side]."""
    return _share_out(np.arange(side) / (2 * side))


@functools.cache
def _radial_shares() -> np.ndarray:
    """Return what share of (band down, band across) each radial band has, float[bands] * 3."""
    centers = _HIGHEST * 2.0 ** ((np.arange(NUM_BANDS) - NUM_BANDS + 1) / _BANDS_PER_OCTAVE)
    return _share_out(np.hypot(centers[:, None], centers))
