"""Regions of pictures without masks: of drawn pictures, where it is known what is alike."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2lab

from neuart_jax.config.errors import InputError
from neuart_jax.inputs.regions.segmentation import find_regions, standardize_colors


def landscape(sky, land, *, height=120, width=160, horizon=0.5, seed=0):
    """Paint a smooth sky over a rough land: (picture, where the sky is)."""
    rng = np.random.default_rng(seed)
    line = horizon * height + 8 * np.sin(np.arange(width) / 18)
    above = np.arange(height)[:, None] < line
    picture = np.where(above[..., None], sky, land) + 0.01 * rng.standard_normal((height, width, 1))
    picture = picture + np.where(above, 0, 0.1 * rng.standard_normal((height, width)))[..., None]
    return np.clip(picture, 0, 1).astype(np.float32), above


PHOTOGRAPH, PHOTOGRAPH_SKY = landscape((0.6, 0.7, 0.9), (0.3, 0.4, 0.2))
PAINTING, PAINTING_SKY = landscape(
    (1.0, 0.8, 0.1), (0.4, 0.1, 0.0), height=150, width=120, horizon=0.3, seed=1
)


def check(memberships, images):
    assert len(memberships) == len(images)
    for each, image in zip(memberships, images, strict=True):
        assert each.dtype == np.float32 and each.shape[:2] == image.shape[:2]
        assert each.shape[2] == memberships[0].shape[2]
        assert each.min() >= 0
        np.testing.assert_allclose(each.sum(axis=-1), 1, atol=1e-6)
    assert np.any([each.any(axis=(0, 1)) for each in memberships], axis=0).all()
    sizes = memberships[0].sum(axis=(0, 1))
    assert (np.diff(sizes) <= 1e-3 * sizes[0]).all()


def test_sky_goes_with_sky():
    images = [PHOTOGRAPH, PAINTING]
    memberships = find_regions(images, 2)
    check(memberships, images)
    sky = int(memberships[0][2, 40].argmax())
    for each, where in zip(memberships, (PHOTOGRAPH_SKY, PAINTING_SKY), strict=True):
        share = np.where(where, each[..., sky], 1 - each[..., sky]).mean()
        assert share > 0.9


def test_edges_are_soft_and_narrow():
    memberships = find_regions([PHOTOGRAPH, PAINTING], 2)[0]
    soft = (memberships.max(axis=-1) < 0.99) & (memberships.max(axis=-1) > 0)
    hard = memberships.argmax(axis=-1)
    edges = ndimage.maximum_filter(hard, 3) != ndimage.minimum_filter(hard, 3)
    assert soft[edges].any()
    assert ndimage.distance_transform_edt(~edges)[soft].max() <= 3


def patches(seed):
    """Paint many small squares of random colors."""
    colors = np.random.default_rng(seed).random((15, 20, 3))
    return colors.repeat(8, axis=0).repeat(8, axis=1).astype(np.float32)


def test_few_islands():
    for each in find_regions([patches(0), patches(1)], 3):
        hard = each.argmax(axis=-1)
        sizes = [
            np.bincount(ndimage.label(hard == region, np.ones((3, 3)))[0].ravel())[1:]
            for region in range(each.shape[2])
        ]
        sizes = np.concatenate(sizes) / hard.size
        # Softening can cut off what hung by a thread.
        assert sizes[sizes < 0.01].sum() < 0.01


def test_specks_are_no_region():
    image = np.full((120, 160, 3), 0.5, np.float32)
    for row, column in itertools.product((20, 60, 100), (20, 70, 120)):
        image[row : row + 8, column : column + 8] = (0, 1, 0)
    images = [image, image[:, ::-1]]
    memberships = find_regions(images, 2)
    check(memberships, images)
    assert memberships[0].shape[2] == 1


def test_region_may_be_missing_in_a_picture():
    third = np.full((60, 80, 3), (0.9, 0.0, 0.0), np.float32)
    third[:, :40] = (0.0, 0.9, 0.0)
    images = [third, PAINTING]
    check(find_regions(images, 4), images)


def test_same_seed_same_regions():
    images = [patches(0), patches(1)]
    one, same, other = (find_regions(images, 5, seed=seed)[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or np.abs(one - other).max() > 0  # so the seed has a part


def test_large_picture_is_cut_like_a_small_one():
    large = PHOTOGRAPH.repeat(6, axis=0).repeat(6, axis=1)
    memberships = find_regions([large, PAINTING], 2)
    check(memberships, [large, PAINTING])
    sky = int(memberships[0][20, 480].argmax())
    where = PHOTOGRAPH_SKY.repeat(6, axis=0).repeat(6, axis=1)
    assert np.where(where, memberships[0][..., sky], 1 - memberships[0][..., sky]).mean() > 0.95


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 30, 3), (30, 1, 3), (20, 20, 3)])
def test_small_and_flat_pictures(shape):
    images = [np.full(shape, 0.5, np.float32), PAINTING]
    check(find_regions(images, 2), images)
    check(find_regions(images[:1], 1), images[:1])


def test_too_many_regions():
    with pytest.raises(
        InputError, match="can't be split into 2 regions; expected at least as many"
    ):
        find_regions([np.zeros((1, 1, 3), np.float32)], 2)


def test_standardized_colors():
    colors = standardize_colors(PAINTING)
    np.testing.assert_allclose(colors.mean(axis=(0, 1)), 0, atol=1e-6)
    assert colors[..., 0].std() == pytest.approx(1)
    np.testing.assert_allclose((colors[..., 1:] ** 2).mean(), 1)
    lab = rgb2lab(PAINTING)
    ratios = colors[..., 2] * (lab - lab.mean(axis=(0, 1)))[..., 1]
    np.testing.assert_allclose(
        ratios, colors[..., 1] * (lab - lab.mean(axis=(0, 1)))[..., 2], atol=1e-3
    )


def test_standardized_colors_of_a_flat_picture_are_zero():
    np.testing.assert_allclose(standardize_colors(np.full((4, 5, 3), 0.3)), 0, atol=1e-6)
