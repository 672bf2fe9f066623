"""Held-out measures against scipy, scikit-image, and what can be said by hand."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from skimage.color import lab2rgb, rgb2lab

from neuart_jax import Config
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.models.features import make_feature_fn
from neuart_jax.models.params.load import load_network
from neuart_jax.objective.build import run_layers
from neuart_jax.runs.experiments.measures import (
    color_distance,
    feature_distances,
    luminance_similarity,
)


def lab_image(lab):
    return lab2rgb(np.broadcast_to(np.asarray(lab, float), (6, 8, 3)))


@pytest.mark.parametrize("shift", [(10, 0, 0), (0, 10, 0), (0, 0, -10), (6, -8, 0)])
def test_a_shift_of_all_colors_is_its_length(shift):
    first = lab_image((60, 5, 5))
    second = lab_image(np.add((60, 5, 5), shift))
    assert color_distance(first, second) == pytest.approx(10, rel=0.03)


def test_places_do_not_matter_to_colors(content_image, style_image):
    shuffled = np.random.default_rng(0).permutation(content_image.reshape(-1, 3))
    assert color_distance(content_image, shuffled.reshape(content_image.shape)) < 1e-6
    assert color_distance(content_image, style_image) == pytest.approx(
        color_distance(style_image, content_image)
    )
    assert color_distance(content_image, style_image) > 1


def test_grays_have_the_distance_of_their_lightness(content_image, style_image):
    """Along one axis every slice is that axis times its cosine, whose mean size is a half."""
    grays = [
        np.repeat(i.mean(axis=2, keepdims=True), 3, axis=2) for i in (content_image, style_image)
    ]
    lightness = [rgb2lab(gray)[..., 0].ravel() for gray in grays]
    expected = scipy.stats.wasserstein_distance(*lightness)
    assert color_distance(*grays) == pytest.approx(expected, rel=0.03)


def test_equal_means_are_not_equal_colors():
    halves = np.concatenate([lab_image((40, 0, 0)), lab_image((80, 0, 0))])
    assert color_distance(halves, lab_image((60, 0, 0))) == pytest.approx(20, rel=0.03)


def test_similarity(content_image, style_image):
    gray = np.repeat(content_image.mean(axis=2, keepdims=True), 3, axis=2)
    assert luminance_similarity(content_image, content_image) == pytest.approx(1)
    noisy = np.clip(gray + np.random.default_rng(0).normal(0, 0.1, gray.shape), 0, 1)
    assert 0.05 < luminance_similarity(noisy, gray) < 0.95
    assert abs(luminance_similarity(1 - gray, gray)) < 0.95
    assert np.isnan(luminance_similarity(gray[:10], gray[:10]))


def test_similarity_of_flat_pictures_is_their_luminance_term():
    """Wang et al. 2004, equation (6), with C1 = 0.01^2: contrast and structure are 1."""
    first, second = (np.full((20, 20, 3), value) for value in (0.2, 0.7))
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    assert luminance_similarity(first, second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_feature_distances_are_the_relative_losses(content_image, style_image):
    config = resolve_config(
        Config().replace(
            weights="random",
            content_layers="relu2_1",
            style_layers="relu1_1:1,relu2_1:3",
            content_weight=9,
            tv_weight=5,
        )
    )
    network = load_network(
        config.network, layers=run_layers(config.losses), images=[content_image, style_image]
    )
    image = np.clip(content_image + 0.1, 0, 1)
    found = feature_distances(
        config, network, image, content_image=content_image, style_image=style_image
    )
    feature_fn = make_feature_fn(network.module, run_layers(config.losses))
    of_image, of_content, of_style = (
        {n: np.asarray(f, np.float64) for n, f in feature_fn(network.params, i).items()}
        for i in (image, content_image, style_image)
    )
    f, p = of_image["relu2_1"], of_content["relu2_1"]
    assert found["content"] == pytest.approx(np.sum((f - p) ** 2) / np.sum(p**2), rel=1e-4)

    def gram(features):
        positions = features.reshape(-1, features.shape[-1])
        return positions.T @ positions / len(positions)

    def style(layer):
        g, a = gram(of_image[layer]), gram(of_style[layer])
        return np.sum((g - a) ** 2) / np.sum(a**2)

    assert found["style"] == pytest.approx(style("relu1_1") + 3 * style("relu2_1"), rel=1e-4)


def test_the_content_itself_has_no_content_distance(content_image, style_image):
    config = resolve_config(
        Config().replace(weights="random", content_layers="relu1_1", style_layers="relu1_1")
    )
    network = load_network(
        config.network, layers=run_layers(config.losses), images=[content_image, style_image]
    )
    distances = feature_distances(
        config, network, content_image, content_image=content_image, style_image=style_image
    )
    assert distances["content"] < 1e-9
    assert distances["style"] > 0.01
    painted = feature_distances(
        config, network, style_image[:48], content_image=style_image[:48], style_image=style_image
    )
    assert painted["style"] < distances["style"]
