"""Segmentation of several images into common regions, for runs without masks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.spatial.distance import cdist
from skimage.color import rgb2lab
from skimage.segmentation import slic

from neuart_jax.config.errors import InputError
from neuart_jax.inputs.regions.memberships import Float32, resize_memberships

LONGEST_SIDE = 512
"""Longest side, in pixels, at which images are segmented; finer detail is not needed."""

NUM_SUPERPIXELS = 600
"""Number per image; equal for all images, so that all count the same."""

LIGHTNESS_WEIGHT, COLOR_WEIGHT, HEIGHT_WEIGHT, TEXTURE_WEIGHT = 0.8, 0.85, 1.0, 0.8
"""Factors of features with a standard deviation of 1, chosen by inspecting skies, waters, buildings
and faces in six pairs of photographs and paintings, for 2 to 4 regions. With half the weight of
height, or more of color, a blue sky is grouped with dark water rather than with an orange sky; with
more weight of height or less of color, images fall into bands."""

SMALLEST_ISLAND = 0.01
"""Share of an image's pixels, below which a connected part is merged into its surroundings."""

_NEAR = 0.04
"""Distance over which similar superpixels are averaged, as a share of the image's longer side."""

_NUM_STARTS = 8


def find_regions(
    images: Sequence[npt.ArrayLike], count: int, *, seed: int = 0
) -> list[npt.NDArray[np.float32]]:
    """Segment several images into common regions of similar appearance.

    SLIC superpixels of all images are clustered together by k-means. A superpixel is described
    by its CIELAB color, its texture (the logarithm of lightness' standard deviation in it) and its
    height in the image. Color and texture are measured in standard deviations of the superpixel's
    own image, so that a photograph's dark part is grouped with a painting's dark part, and are
    averaged over similar superpixels nearby, as a bilateral filter does.

    Source: superpixels by Achanta et al. 2012, "SLIC superpixels compared to state-of-the-art
    superpixel methods"; k-means++ by Arthur and Vassilvitskii 2007.

    Args:
      images: one float32[height, width, 3] per image, sRGB in [0, 1].
      count: number of regions to look for, at least 1.
      seed: seed of the clusters' initial centers. Equal seeds give equal regions.

    Returns:
      The soft masks of every image, float32[height, width, regions]: 1 inside a region, with soft
      edges of a pixel or two; 0 everywhere if the image has no part in the region. Regions are
      sorted by their size in the first image; there are fewer than `count` if some are only specks.

    Raises:
      InputError: the images have fewer distinct parts than `count`.
    """
    small = [_reduce(np.asarray(image, np.float32)) for image in images]
    segments, features = zip(*(_describe(image) for image in small), strict=True)
    clusters = _cluster(np.concatenate(features), count, seed)
    ends = np.cumsum([len(each) for each in features])
    labels = [
        _drop_islands(own[where], count)
        for own, where in zip(np.split(clusters, ends[:-1]), segments, strict=True)
    ]
    sizes = [np.bincount(each.ravel(), minlength=count) / each.size for each in labels]
    # By size in the first image, then in the next: regions may be missing in some images.
    order = [k for k in np.lexsort(-np.array(sizes)[::-1]) if any(size[k] for size in sizes)]
    return [
        resize_memberships(_soften(each, order), *np.shape(image)[:2])
        for each, image in zip(labels, images, strict=True)
    ]


def _reduce(image: Float32) -> Float32:
    height, width = image.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return resize_memberships(image, max(1, round(height * scale)), max(1, round(width * scale)))


def standardize_colors(image: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Standardize CIELAB colors by the mean and standard deviations of the image.

    The dark parts of a photograph and of a painting get similar colors, whatever the light. The two
    axes of color share one standard deviation, so that hues are kept.

    Args:
      image: float32[height, width, 3], sRGB in [0, 1].

    Returns:
      float64[height, width, 3].
    """
    lab = rgb2lab(np.asarray(image)).astype(np.float64)
    spread = lab.std(axis=(0, 1))
    chroma = np.hypot(*spread[1:]) / np.sqrt(2)
    # At least 2, so that traces of color in a gray image aren't amplified.
    return (lab - lab.mean(axis=(0, 1))) / np.maximum([spread[0], chroma, chroma], 2)


def _describe(image: Float32) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return an image's superpixels, int64[height, width], and features, float64[number, 5]."""
    segments = slic(image, n_segments=NUM_SUPERPIXELS, compactness=10, sigma=1, start_label=0)
    areas = np.bincount(segments.ravel())

    def average(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        spread_out = np.broadcast_to(values, segments.shape)
        return np.bincount(segments.ravel(), spread_out.ravel()) / areas

    weights = (LIGHTNESS_WEIGHT, COLOR_WEIGHT, COLOR_WEIGHT)
    lab = np.moveaxis(standardize_colors(image) * weights, -1, 0)
    colors = np.stack([average(channel) for channel in lab], axis=1)
    # Within superpixels, which end at edges; a window would extend from a roof into the sky.
    lightness = rgb2lab(image)[..., 0].astype(np.float64)
    deviations = (lightness - average(lightness)[segments]) ** 2
    texture = np.log1p(np.sqrt(average(deviations)))
    height, width = segments.shape
    rows = average((np.arange(height)[:, None] + 0.5) / height)
    columns = average((np.arange(width) + 0.5) / width)
    places = np.stack([rows * height, columns * width], axis=1) / (_NEAR * max(height, width))
    alike = np.exp(
        -cdist(places, places, "sqeuclidean") / 2 - cdist(colors, colors, "sqeuclidean") / 2
    )
    alike /= alike.sum(axis=1, keepdims=True)
    texture = alike @ texture
    texture -= np.average(texture, weights=areas)
    texture /= max(np.sqrt(np.average(texture**2, weights=areas)), 0.1)
    vertical = (rows - 0.5) * np.sqrt(12)  # standardizes a uniform distribution over [0, 1]
    features = [*(alike @ colors).T, HEIGHT_WEIGHT * vertical, TEXTURE_WEIGHT * texture]
    return segments, np.stack(features, axis=1)


def _cluster(features: npt.NDArray[np.float64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each row's cluster, int64[rows], from the best of several k-means runs."""
    best, labels = np.inf, None
    # k-means++ divides by zero if there are fewer distinct points than clusters.
    num_starts = _NUM_STARTS if len(np.unique(features.round(6), axis=0)) >= count else 0
    for start in range(num_starts):
        rng = np.random.default_rng((seed, start))
        try:
            centers, found = kmeans2(
                features, count, iter=30, minit="++", missing="raise", seed=rng
            )
        except ClusterError:
            continue
        error = ((features - centers[found]) ** 2).sum()
        if error < best:
            best, labels = error, found
    if labels is None:
        raise InputError(
            f"the images can't be split into {count} regions",
            expected="at least as many distinct parts",
            remedy="ask for fewer regions, or paint masks",
        )
    return labels.astype(np.int64)


def _drop_islands(labels: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Merge small connected parts into the nearest larger ones."""
    large = np.zeros(labels.shape, bool)
    for label in range(count):
        parts, num_parts = ndimage.label(labels == label, np.ones((3, 3)))
        keep = np.bincount(parts.ravel(), minlength=num_parts + 1) >= SMALLEST_ISLAND * labels.size
        keep[0] = False
        large |= keep[parts]
    if not large.any():
        return labels
    nearest = ndimage.distance_transform_edt(~large, return_distances=False, return_indices=True)
    return labels[tuple(nearest)]


def _soften(labels: npt.NDArray[np.int64], order: Sequence[int]) -> Float32:
    """Blur labels into soft masks, float32[height, width, regions]."""
    hard = (labels[..., None] == np.asarray(order)).astype(np.float32)
    soft = ndimage.gaussian_filter(hard, (1, 1, 0), mode="nearest")
    return soft / soft.sum(axis=-1, keepdims=True)
