"""The final smoothing against least squares in every window, and what it must keep and remove."""

import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose

from neuart_jax.config.errors import InputError
from neuart_jax.inputs.guided_filter import smooth_affine


@pytest.fixture(scope="module")
def content():
    return smooth_image(23, 31, seed=5)


def change_colors(picture):
    """An affine change whose result stays in [0, 1]."""
    change = [[0.5, 0.1, 0.0], [-0.2, 0.3, 0.3], [0.1, 0.0, 0.4]]
    return (picture @ np.array(change) + 0.2).astype(np.float32)


def fit_windows(image, content, *, radius, epsilon):
    """He et al. 2013: A and b of every window by least squares, then their mean at every pixel."""
    height, width, _ = content.shape
    sums, counts = np.zeros(image.shape), np.zeros((height, width, 1))
    for y in range(height):
        for x in range(width):
            window = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
            colors = content[window].reshape(-1, 3).astype(np.float64)
            ridge = np.sqrt(epsilon * len(colors)) * np.eye(3)
            system = np.block([[colors, np.ones((len(colors), 1))], [ridge, np.zeros((3, 1))]])
            wanted = np.concatenate([image[window].reshape(-1, 3), np.zeros((3, 3))])
            fit, *_ = np.linalg.lstsq(system, wanted)
            sums[window] += content[window] @ fit[:3] + fit[3]
            counts[window] += 1
    return np.clip(sums / counts, 0, 1)


@pytest.mark.parametrize(("radius", "epsilon"), [(1, 1e-4), (3, 1e-2), (40, 1e-4)])
def test_it_is_the_mean_of_every_windows_least_squares(content, radius, epsilon):
    content = content[:9, :11]
    image = np.random.default_rng(0).random(content.shape).astype(np.float32)
    ours = smooth_affine(image, content, radius=radius, epsilon=epsilon)
    assert ours.dtype == np.float32
    expected = fit_windows(image, content, radius=radius, epsilon=epsilon)
    assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("radius", [1, 4, 15])
def test_an_affine_change_of_all_colors_stays(content, radius):
    image = change_colors(content)
    assert_allclose(smooth_affine(image, content, radius=radius, epsilon=1e-9), image, atol=1e-3)
    # As far as the ridge lets it: contrast below 0.01 is lost.
    assert_allclose(smooth_affine(image, content, radius=radius), image, atol=0.03)


def test_noise_goes(content):
    image = change_colors(content)
    noise = np.random.default_rng(0).normal(0, 0.1, image.shape)
    smoothed = smooth_affine(image + noise, content, radius=8)
    assert np.std(smoothed - image) < 0.2 * np.std(noise)


def test_edges_of_the_content_stay_sharp_and_others_go():
    content, image = np.full((2, 40, 41, 3), 0.2, np.float32)
    content[:, 20:] = 0.7
    image[:, 20:] = 0.9
    image[10:12] = 0.5
    smoothed = smooth_affine(image, content, radius=5)
    # One step from dark to bright, of nearly all of it.
    assert_allclose(smoothed[30, 20] - smoothed[30, 19], 0.7, atol=0.01)
    assert_allclose(np.diff(smoothed[30, :19], axis=0), 0, atol=1e-3)
    assert np.abs(np.diff(smoothed, axis=0)).max() < 0.05 < np.abs(np.diff(image, axis=0)).max()


def test_a_flat_content_leaves_no_more_than_a_blur():
    """Twice the mean of a window, which far from the border holds an impulse 25 times in 25^2."""
    image = np.zeros((15, 15, 3), np.float32)
    image[7, 7] = 1
    smoothed = smooth_affine(image, np.full_like(image, 0.4), radius=2)
    assert_allclose(smoothed[7, 7], 1 / 25, atol=1e-7)
    assert_allclose(smoothed[7, 9], 15 / 25**2, atol=1e-7)
    assert_allclose(smoothed[7, 12], 0, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 2)])
def test_small_pictures(shape):
    image, content = np.random.default_rng(0).random((2, *shape, 3)).astype(np.float32)
    ours = smooth_affine(image, content)
    expected = fit_windows(image, content, radius=15, epsilon=1e-4)
    assert_allclose(ours, expected, atol=1e-6)


def test_what_it_adds_is_clipped(content):
    image = np.where(content > 0.5, 1.0, 0.0)
    smoothed = smooth_affine(image, content, radius=5)
    assert smoothed.min() == 0 and smoothed.max() == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"radius": 0},
            "radius=0 is less than 1; expected a number of pixels of at least 1; leave",
        ),
        (
            {"epsilon": 0.0},
            "epsilon=0.0 is not positive; expected a number above 0, comparable to a var",
        ),
        ({"epsilon": float("nan")}, "epsilon=nan is not positive"),
        (
            {"content_image": np.zeros((4, 5, 3))},
            r"shape \(4, 4, 3\) came with a content image of \(4, 5, 3\); expected two images",
        ),
    ],
)
def test_input_errors(given, sentence):
    arguments = {"image": np.zeros((4, 4, 3)), "content_image": np.zeros((4, 4, 3))}
    with pytest.raises(InputError, match=sentence):
        smooth_affine(**(arguments | given))


def test_pictures_without_channels():
    with pytest.raises(InputError, match="expected two images of one shape"):
        smooth_affine(np.zeros((4, 4)), np.zeros((4, 4)))
