"""`fitted` weights: filters learned from the images, layer by layer, without any download.

Every convolution's filters are the centroids of spherical k-means over the whitened patches of
its input, computed by the layers fitted so far.

Sources: Coates & Ng 2012, "Learning feature representations with k-means" (whitening, k-means);
Kraehenbuehl et al. 2016, arXiv 1511.06856 (unit responses, layer after layer; see `calibration`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.io.images import fill_resize
from neuart_jax.models.params.fitted.calibration import calibrated_variables

VERSION = 4
"""Part of the cache key and of the weights' identity; increment when the numbers change."""

Float32 = npt.NDArray[np.float32]


class FitRecipe(NamedTuple):
    """Parameters of the fit.

    Attributes:
      longest_side: approximate size of the images for the fit, in pixels; at 256, small parts of
        the content (a tower) were lost in the result.
      num_patches: patches sampled per layer, from all images together.
      whitening: ridge added to the eigenvalues, as a share of the largest. Smaller values sharpen
        the filters until flat regions show lines; 0.1 leaves a ghost of the photograph.
      patch_variance: share of the patches' variance that the principal components keep.
      channel_variance: share of the channels' variance kept before patches are extracted.
      max_channel_components: largest number of channel components, which bounds the time.
      num_rounds: rounds of k-means.
    """

    longest_side: int = 384
    num_patches: int = 16_000
    whitening: float = 0.03
    patch_variance: float = 0.98
    channel_variance: float = 0.99
    max_channel_components: int = 96
    num_rounds: int = 8


def make_fit_batch(images: Sequence[Float32], *, longest_side: int) -> Float32:
    """Resize all images to one shape, cropping them to keep their aspect ratio.

    Args:
      images: float32[height, width, 3] each, sRGB in [0, 1]: the content, and every style.
      longest_side: longest side of the batch, in pixels, unless all images are smaller.

    Returns:
      float32[batch, height, width, 3] with the geometric mean of all aspect ratios.
    """
    shapes = [image.shape[:2] for image in images]
    aspect = math.prod(width / height for height, width in shapes) ** (1 / len(shapes))
    longest = min(longest_side, max(max(shape) for shape in shapes))
    width = longest if aspect >= 1 else longest * aspect
    height = longest if aspect < 1 else longest / aspect
    # For panoramas, the shorter side must keep enough pixels for the deepest layers.
    height, width = (max(round(side), longest // 4, 1) for side in (height, width))
    return np.stack([fill_resize(image, height, width) for image in images])


def fit_variables(
    make_module: Callable[..., Any],
    batch: Float32,
    *,
    layers: Iterable[str],
    seed: int,
    recipe: FitRecipe = FitRecipe(),
) -> dict[str, Any]:
    """Learn a network's filters from images, up to the deepest layer.

    Args:
      make_module: builds the linen module; called with `fit`.
      batch: float32[batch, height, width, 3], sRGB in [0, 1].
      layers: names of the requested layers.
      seed: seed for the choice of patches and centroids; equal seeds give equal filters.
      recipe: parameters of the fit.

    Returns:
      Linen variables of the layers up to the deepest, for input standardized with
      `catalog.FITTED`.
    """
    rng = np.random.default_rng(seed)

    def fit(inputs: Array, shape: tuple[int, ...]) -> Array:
        return jnp.asarray(_fit_kernel(np.asarray(inputs), shape, recipe, rng))

    return calibrated_variables(make_module, batch, fit, layers=layers)


def _fit_kernel(
    inputs: Float32, shape: tuple[int, ...], recipe: FitRecipe, rng: np.random.Generator
) -> Float32:
    size, _, in_channels, num_filters = shape
    mean, basis = _channel_basis(inputs, recipe, rng)
    projected = ((inputs - mean) @ basis).astype(np.float32)
    patches = _sample_patches(projected, size, recipe.num_patches, rng)
    patches -= patches.mean(axis=0)
    values, vectors = _principal_components(patches, recipe.patch_variance)
    scale = 1 / np.sqrt(values + recipe.whitening * max(values[0], 1e-12))
    centroids = _spherical_k_means(patches @ vectors * scale, num_filters, recipe.num_rounds, rng)
    # A filter's response is the inner product with its centroid in whitened space.
    filters = (vectors * scale) @ centroids.T
    filters = filters.reshape(size * size, basis.shape[1], num_filters)
    kernel = np.einsum("cr,prf->pcf", basis, filters, optimize=True)
    return kernel.reshape(size, size, in_channels, num_filters).astype(np.float32)


def _channel_basis(
    inputs: Float32, recipe: FitRecipe, rng: np.random.Generator
) -> tuple[Float32, Float32]:
    """Return the channels' mean and the directions that keep nearly all of their variance."""
    positions = inputs.reshape(-1, inputs.shape[-1])
    if len(positions) > recipe.num_patches:
        positions = positions[rng.choice(len(positions), recipe.num_patches, replace=False)]
    mean = positions.mean(axis=0)
    if inputs.shape[-1] <= recipe.max_channel_components:
        return mean, np.eye(inputs.shape[-1], dtype=np.float32)
    _, vectors = _principal_components(positions - mean, recipe.channel_variance)
    return mean, vectors[:, : recipe.max_channel_components]


def _sample_patches(
    features: Float32, size: int, num_patches: int, rng: np.random.Generator
) -> Float32:
    """Sample patches around random positions: float32[patches, size * size * channels]."""
    batch, height, width, channels = features.shape
    margin = size // 2
    mode = "reflect" if min(height, width) > margin else "edge"
    padded = np.pad(features, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode=mode)  # type: ignore[call-overload]
    count = min(num_patches, batch * height * width)
    chosen = rng.choice(batch * height * width, count, replace=False)
    image, row, column = np.unravel_index(chosen, (batch, height, width))
    windows = [padded[image, row + i, column + j] for i in range(size) for j in range(size)]
    return np.stack(windows, axis=1).reshape(count, size * size * channels)


def _principal_components(centered: Float32, variance: float) -> tuple[Float32, Float32]:
    """Return the largest (eigenvalues[k], eigenvectors[:, k]) that keep a share of variance."""
    count, dimensions = centered.shape
    # With few points, the Gram matrix of their inner products has the same eigenvalues and is far
    # smaller: 216 positions of 2048 channels in ResNet50's last stage. Squaring needs float64.
    few = count < dimensions
    points = centered.T.astype(np.float64) if few else centered
    values, vectors = np.linalg.eigh(points.T @ points / centered.dtype.type(count))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    held = np.cumsum(values) / max(float(values.sum()), 1e-12)
    num_kept = min(int(np.searchsorted(held, variance)) + 1, len(values))
    values, vectors = values[:num_kept], vectors[:, :num_kept]
    if few:
        vectors = points @ vectors / np.sqrt(np.maximum(values * count, 1e-12))
    return values.astype(np.float32), vectors.astype(np.float32)


def _spherical_k_means(
    points: Float32, num_centroids: int, num_rounds: int, rng: np.random.Generator
) -> Float32:
    """Cluster directions: Coates & Ng 2012, section 3. Empty clusters restart at random points.

    With fewer points than centroids, each point is a centroid and the others are random mixtures of
    two points: repeated points would give repeated filters (nine in ten of ResNet50's last stage).

    Returns:
      float32[num_centroids, dimensions] of unit length.
    """

    def normalize(rows: Float32) -> Float32:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)

    import scipy.sparse  # Imported here, as it slows the start of the command line.

    points = normalize(points)
    count = len(points)
    if count < num_centroids:
        missing = num_centroids - count
        pairs = points[rng.choice(count, (missing, 2))]
        shares = rng.standard_normal((missing, 2, 1)).astype(np.float32)
        return np.concatenate([points, normalize(np.sum(shares * pairs, axis=1))])
    rows = np.arange(count)
    centroids = points[rng.choice(count, num_centroids, replace=False)]
    for _ in range(num_rounds):
        similarity = points @ centroids.T
        nearest = similarity.argmax(axis=1)
        assignment = scipy.sparse.csr_matrix(
            (similarity[rows, nearest], (nearest, rows)), shape=(num_centroids, count)
        )
        sums = assignment @ points
        dead = np.linalg.norm(sums, axis=1) < 1e-6
        # The points of a constant image are zero, and so are centroids computed from them.
        sums[dead] = points[rng.choice(count, int(dead.sum()))]
        centroids = normalize(sums)
    return centroids.astype(np.float32)
