"""Colors: means, covariances and histograms against numpy, and what must not change."""

import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose

from neuart_jax.inputs import color

# Far from black and white, so that nothing is clipped.
STYLE = 0.3 + 0.3 * smooth_image(40, 30, seed=1)
CONTENT = 0.4 + 0.2 * smooth_image(24, 36, seed=2)
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def moments(image):
    pixels = np.asarray(image, np.float64).reshape(-1, 3)
    return pixels.mean(axis=0), np.cov(pixels.T, bias=True)


def test_mean_and_covariance_become_the_references():
    mean, covariance = moments(color.match_covariance(STYLE, CONTENT))
    wanted_mean, wanted_covariance = moments(CONTENT)
    assert_allclose(mean, wanted_mean, atol=1e-6)
    # The ridge is in both, and leaves a difference of its own size.
    assert_allclose(covariance, wanted_covariance, atol=2 * color.RIDGE)


def test_colors_move_least():
    """The map is symmetric and positive, as that of optimal transport is."""
    pixels = np.asarray(STYLE, np.float64).reshape(-1, 3)
    matched = np.asarray(color.match_covariance(STYLE, CONTENT), np.float64).reshape(-1, 3)
    change, *_ = np.linalg.lstsq(
        pixels - pixels.mean(axis=0), matched - matched.mean(axis=0), rcond=None
    )
    assert_allclose(change, change.T, atol=1e-4)
    assert np.all(np.linalg.eigvalsh((change + change.T) / 2) > 0)
    assert np.ptp(change) > 0.1


def test_a_picture_matched_to_itself_stays():
    assert_allclose(color.match_covariance(STYLE, STYLE), STYLE, atol=1e-6)
    assert_allclose(color.match_histogram(STYLE, STYLE), STYLE, atol=1e-6)
    assert_allclose(color.match_luminance(STYLE, STYLE), color.luminance(STYLE), atol=1e-6)


@pytest.mark.parametrize("match", [color.match_covariance, color.match_histogram])
def test_gray_and_flat_pictures_give_finite_results(match):
    gray = np.repeat(STYLE[..., :1], 3, axis=-1)
    flat = np.full((8, 9, 3), 0.25, np.float32)
    for image, reference in [(gray, CONTENT), (STYLE, gray), (flat, CONTENT), (STYLE, flat)]:
        matched = match(image, reference)
        assert matched.dtype == np.float32
        assert matched.shape == image.shape
        assert np.all((matched >= 0) & (matched <= 1))
    if match is color.match_covariance:
        assert_allclose(match(STYLE, flat), 0.25, atol=0.02)
        assert_allclose(moments(match(gray, CONTENT))[0], moments(CONTENT)[0], atol=1e-6)


def test_a_little_color_in_a_gray_picture_is_not_made_speckle():
    noise = np.random.default_rng(0).normal(0, 0.002, (*STYLE.shape[:2], 3))
    gray = np.repeat(STYLE[..., :1], 3, axis=-1) + noise
    colorful = 0.2 + 0.6 * np.random.default_rng(1).random((20, 20, 3))
    matched = color.match_covariance(gray, colorful)
    chroma = matched - matched.mean(axis=-1, keepdims=True)
    assert chroma.std(axis=(0, 1)).max() < 8 * 0.003


def test_histograms_become_the_references():
    matched = color.match_histogram(STYLE, CONTENT)
    levels = np.linspace(0.05, 0.95, 19)
    for channel in range(3):
        assert_allclose(
            np.quantile(matched[..., channel], levels),
            np.quantile(CONTENT[..., channel], levels),
            atol=2e-3,
        )
        # A growing function keeps the order.
        order = np.argsort(STYLE[..., channel], axis=None)
        assert np.all(np.diff(matched[..., channel].reshape(-1)[order]) >= 0)


def test_luminance_is_its_formula():
    expected = STYLE.astype(np.float64) @ YIQ[0]
    assert_allclose(color.luminance(STYLE), np.repeat(expected[..., None], 3, -1), atol=1e-6)
    matched = color.match_luminance(STYLE, CONTENT)[..., 0]
    wanted = CONTENT @ YIQ[0]
    assert matched.mean() == pytest.approx(wanted.mean(), abs=1e-6)
    assert matched.std() == pytest.approx(wanted.std(), rel=1e-4)


def test_colors_put_back_are_the_contents_under_the_pictures_luminance():
    painted = 0.3 + 0.3 * smooth_image(24, 36, seed=5)
    joined = color.put_back_colors(painted, CONTENT) @ YIQ.T
    assert_allclose(joined[..., 0], painted @ YIQ[0], atol=1e-6)
    assert_allclose(joined[..., 1:], CONTENT @ YIQ[1:].T, atol=1e-5)
    assert_allclose(color.put_back_colors(CONTENT, CONTENT), CONTENT, atol=1e-6)


def test_a_color_that_is_out_of_reach_is_paler_not_brighter():
    """Pure red has the luminance 0.299; at 0.9 only a pink has."""
    red = np.array([[[1.0, 0.0, 0.0]]])
    joined = color.put_back_colors(np.full((1, 1, 3), 0.9), red)[0, 0]
    assert joined @ YIQ[0] == pytest.approx(0.9, abs=1e-6)
    assert joined[0] == pytest.approx(1, abs=1e-6)
    assert joined[1] == pytest.approx(joined[2], abs=1e-6)
    assert_allclose(color.put_back_colors(np.zeros((1, 1, 3)), red), 0)
    assert_allclose(color.put_back_colors(np.ones((1, 1, 3)), red), 1)
