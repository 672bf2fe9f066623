"""`random` weights: orthogonal filters, calibrated on the images, as a baseline.

They show what a network's architecture achieves without learned filters. The directions of the
filters are random; only their scales and biases come from the images.

Sources: Saxe et al. 2013, arXiv 1312.6120 (orthogonal); Kraehenbuehl et al. 2016, arXiv 1511.06856
(calibration, see `calibration`); He, Wang & Hopcroft 2016, "A powerful generative model using
random weights for the deep image representation", arXiv 1606.04801 (style transfer with them).
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.models.params.fitted.calibration import calibrated_variables

VERSION = 2
"""Part of the weights' identity; increment when the numbers change."""


def random_variables(
    make_module: Callable[..., Any],
    batch: npt.NDArray[np.float32],
    *,
    layers: Iterable[str],
    seed: int,
) -> dict[str, Any]:
    """Sample a network's filters up to the deepest layer, and calibrate them.

    The images affect only the scale and bias of a filter, never its direction, and the direction
    doesn't depend on the depth of the network.

    Args:
      make_module: builds the linen module; called with `fit`.
      batch: float32[batch, height, width, 3], sRGB in [0, 1]; see `fitted.make_fit_batch`.
      layers: names of the requested layers.
      seed: seed of the directions, at least 0; equal seeds and batches give equal variables.

    Returns:
      Linen variables of the layers up to the deepest, for input standardized with
      `catalog.FITTED`.
    """
    index = itertools.count()

    def choose_kernel(inputs: Array, shape: tuple[int, ...]) -> Array:
        return jnp.asarray(draw_orthogonal(shape, np.random.default_rng((seed, next(index)))))

    return calibrated_variables(make_module, batch, choose_kernel, layers=layers)


def draw_orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Sample an orthogonal kernel uniformly.

    Flattened to [height * width * in, out] the kernel has orthonormal columns, one per filter; with
    more filters than inputs, its rows are orthonormal instead.

    Args:
      shape: (height, width, in, out).
      rng: random number generator.

    Returns:
      float32[height, width, in, out].
    """
    num_inputs, num_filters = int(np.prod(shape[:-1])), shape[-1]
    tall = (max(num_inputs, num_filters), min(num_inputs, num_filters))
    columns = _orthonormalize(rng.standard_normal(tall))
    if num_inputs < num_filters:
        columns = columns.T
    return columns.reshape(shape).astype(np.float32)


def _orthonormalize(columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Q of columns = QR, where R's diagonal is positive.

    Computed from the Cholesky factor of the columns' inner products: as exact for normal random
    numbers in double precision, and for [4608, 512] up to 16 times as fast as `numpy.linalg.qr` on
    a busy machine.
    """
    import scipy.linalg  # Imported here, as it slows the start of the command line.

    upper = scipy.linalg.cholesky(columns.T @ columns)
    return scipy.linalg.solve_triangular(upper, columns.T, trans="T").T
