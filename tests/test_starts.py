"""Noise of every kind, and the starts of the sources."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax.config.config import Config
from neuart_jax.config.presets import apply_preset
from neuart_jax.inputs.initial_image import make_noise, make_start

MEAN_PIXEL = np.array([123.68, 116.779, 103.939])  # Red, green, blue.


def start(config, image, *, seed=0):
    run = config.replace(seed=seed).run
    return np.asarray(make_start(run, content_image=image, style_image=image))


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
@pytest.mark.parametrize(
    ("center", "middle"), [("gray", [0.5, 0.5, 0.5]), ("imagenet", MEAN_PIXEL / 255)]
)
def test_noise_has_the_spread_and_the_center_asked_for(kind, center, middle):
    noise = np.asarray(
        make_noise(jax.random.key(0), (200, 150, 3), scale=0.1, kind=kind, center=center)
    )
    assert noise.dtype == np.float32
    away = (noise - middle) / 0.1
    assert_allclose(away.mean(axis=(0, 1)), 0, atol=0.03)
    # A uniform distribution over [-1, 1] has the variance 1/3 and the fourth moment 1/5.
    variance, fourth = {"gaussian": (1, 3), "uniform": (1 / 3, 1 / 5)}[kind]
    assert_allclose(np.mean(away**2), variance, rtol=0.02)
    assert_allclose(np.mean(away**4), fourth, rtol=0.05)
    if kind == "uniform":
        assert np.abs(away).max() < 1 + 1e-5
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_noise_beyond_black_and_white_is_clipped(kind):
    noise = np.asarray(make_noise(jax.random.key(1), (20, 20, 3), scale=5.0, kind=kind))
    assert (noise.min(), noise.max()) == (0, 1)


def test_no_noise_is_the_center(content_image):
    flat = start(
        Config().replace(init="noise", noise_scale=0, noise_center="imagenet"), content_image
    )
    assert_allclose(flat, np.broadcast_to(MEAN_PIXEL / 255, flat.shape), atol=1e-6)


def test_transfer_learning_starts_as_its_source_does(content_image):
    """ratio * U(-20, 20) + (1 - ratio) * (content - mean), around the mean pixel."""
    found = 255 * start(apply_preset("transfer-learning"), content_image) - MEAN_PIXEL
    noise = (found - 0.4 * (255 * content_image - MEAN_PIXEL)) / 0.6
    assert np.abs(noise).max() <= 20.001
    assert_allclose(noise.std(), 20 / 3**0.5, rtol=0.03)
    assert abs(np.corrcoef(noise.ravel(), content_image.ravel())[0, 1]) < 0.05


def test_neural_style_starts_nearly_flat(content_image):
    away = 256 * (start(apply_preset("neural-style"), content_image) - MEAN_PIXEL / 255)
    # Single precision near 0.5 has steps of 1.5e-5 of 256.
    assert_allclose(away.std(), 0.001, rtol=0.05)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_ends_of_a_blend(content_image, ratio):
    config = Config().replace(init="blend", noise_ratio=ratio, noise="uniform")
    expected = content_image if ratio == 0 else start(config.replace(init="noise"), content_image)
    assert_array_equal(start(config, content_image), expected)


@pytest.mark.parametrize("init", ["noise", "blend"])
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_the_seed_makes_the_noise(content_image, init, noise):
    config = Config().replace(init=init, noise=noise)
    once = start(config, content_image, seed=3)
    assert_array_equal(once, start(config, content_image, seed=3))
    assert np.abs(once - start(config, content_image, seed=4)).max() > 0.1
