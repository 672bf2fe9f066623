"""Softmax over a layer before its features are compared: Wang, Li & Vasconcelos 2021."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from neuart_jax import Config, FeatureNetwork, stylize
from neuart_jax.config.sections import LossConfig
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.objective.build import make_terms
from neuart_jax.objective.term import make_objective, make_targets

LAYERS = {"fine": 0.5, "coarse": 2.0}
SHAPES = {"fine": (4, 5, 3), "coarse": (2, 3, 6)}
IMAGE = jnp.zeros((4, 5, 3))


def random_features(seed, *, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: scale * np.maximum(rng.normal(size=shape), 0).astype(np.float32)
        for name, shape in SHAPES.items()
    }


OWN, CONTENT, STYLE = (random_features(seed) for seed in range(3))


def evaluate(own, content, style, **settings):
    config = LossConfig(
        content_layers=LAYERS,
        style_layers=LAYERS,
        content_weight=1,
        style_weight=1,
        tv_weight=0,
        **settings,
    )
    terms = make_terms(config)
    own, content, style = (
        {name: jnp.asarray(value) for name, value in features.items()}
        for features in (own, content, style)
    )
    targets = make_targets(
        terms,
        content_image=IMAGE,
        style_images=(IMAGE,),
        content_features=content,
        style_features=(style,),
    )
    objective = make_objective(lambda params, image: params, terms)
    (_, losses), gradient = jax.jit(jax.value_and_grad(objective, argnums=1, has_aux=True))(
        IMAGE, own, targets
    )
    return losses, gradient


def softmax(features, temperature):
    """Equation (11), with a temperature, which is 1 there."""
    exponentials = np.exp(np.float64(features) / temperature)
    return exponentials / np.sum(exponentials)


def gram(features):
    positions = features.reshape(-1, features.shape[-1])
    return positions.T @ positions


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_softmax_losses_are_equations_12_and_13_times_their_scaling(temperature):
    losses, _ = evaluate(
        OWN,
        CONTENT,
        STYLE,
        smoothing="softmax",
        temperature=temperature,
        content_loss="gatys",
        style_loss="gatys",
    )
    content = style = 0.0
    for name, weight in LAYERS.items():
        height, width, channels = SHAPES[name]
        positions = height * width
        f, p, s = (softmax(x[name], temperature) for x in (OWN, CONTENT, STYLE))
        number = positions * channels
        content += weight * number**2 * 0.5 * np.sum((f - p) ** 2)
        distance = np.sum((gram(f) - gram(s)) ** 2)
        style += weight * number**4 * distance / (4 * channels**2 * positions**2)
    assert_allclose(losses["content"], content, rtol=1e-4)
    assert_allclose(losses["style"], style, rtol=1e-4)


def test_centered_softmax_measures_in_the_targets_deviation_and_takes_the_mean_off():
    losses, _ = evaluate(
        OWN,
        CONTENT,
        STYLE,
        smoothing="centered_softmax",
        temperature=3.0,
        content_loss="sum",
        style_loss="sum",
    )
    content = style = 0.0
    for name, weight in LAYERS.items():
        height, width, channels = SHAPES[name]
        number = height * width * channels
        f, p = (number * softmax(x[name], 3 * CONTENT[name].std()) - 1 for x in (OWN, CONTENT))
        content += weight * np.sum((f - p) ** 2)
        f, s = (number * softmax(x[name], 3 * STYLE[name].std()) - 1 for x in (OWN, STYLE))
        style += weight * np.sum(((gram(f) - gram(s)) / (height * width)) ** 2)
    assert_allclose(losses["content"], content, rtol=1e-4)
    assert_allclose(losses["style"], style, rtol=1e-4)


def test_only_the_centered_one_is_free_of_the_networks_scale():
    features = OWN, CONTENT, STYLE
    larger = [{n: 1000 * x for n, x in part.items()} for part in features]
    for smoothing, is_free in (("centered_softmax", True), ("softmax", False), ("none", False)):
        # Not divided by the target's energy, which would free any of scale.
        settings = {"smoothing": smoothing, "content_loss": "mean", "style_loss": "mean"}
        once, _ = evaluate(*features, temperature=16.0, **settings)
        again, _ = evaluate(*larger, temperature=16.0, **settings)
        for name in ("content", "style"):
            ratio = float(again[name]) / float(once[name])
            assert (abs(ratio - 1) < 1e-3) == is_free, (smoothing, name)


@pytest.mark.parametrize("smoothing", ["softmax", "centered_softmax"])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_flat_and_huge_features_have_finite_gradients(smoothing, scale):
    for own in (random_features(0, scale=scale), random_features(0, scale=0)):
        losses, gradient = evaluate(
            own, random_features(1, scale=scale), random_features(2, scale=0), smoothing=smoothing
        )
        assert all(np.isfinite(value) for value in losses.values())
        assert all(np.all(np.isfinite(value)) for value in gradient.values())


@pytest.mark.parametrize("smoothing", ["none", "softmax", "centered_softmax"])
def test_the_loss_is_zero_at_its_target(smoothing):
    losses, _ = evaluate(OWN, OWN, OWN, smoothing=smoothing, temperature=2.0)
    assert losses["total"] < 1e-9
    assert evaluate(OWN, CONTENT, OWN, smoothing=smoothing)[0]["content"] > 1e-3


def test_the_temperature_is_data_of_one_program(content_image, style_image):
    traces = []

    def pixels(params, image):
        traces.append(image.shape)
        return {"pixels": image}

    network = FeatureNetwork(pixels, None)
    config = Config().replace(
        content_layers="pixels",
        style_layers="pixels",
        smoothing="softmax",
        temperature=0.2,
        steps=3,
        scales=1,
    )
    once = stylize(content_image, style_image, config, network=network)
    first = len(traces)
    again = stylize(content_image, style_image, config.replace(temperature=2), network=network)
    assert len(traces) == first
    assert abs(once.losses["style"] / again.losses["style"] - 1) > 0.1


def test_each_model_has_its_own_smoothing():
    plain = resolve_config(Config().replace(model="vgg19", weights="fitted")).losses
    assert (plain.smoothing, plain.temperature, plain.content_weight) == ("none", 1.0, 8.0)
    resnet = Config().replace(model="resnet50", weights="fitted")
    own = resolve_config(resnet).losses
    assert (own.smoothing, own.temperature, own.content_weight) == ("centered_softmax", 16.0, 5.0)
    # As it was trained it needs none, whatever its temperature.
    trained = resolve_config(resnet.replace(weights="imagenet")).losses
    assert (trained.smoothing, trained.temperature) == ("none", 1.0)
    given = resolve_config(resnet.replace(smoothing="none", content_weight=0, temperature=2)).losses
    assert (given.smoothing, given.temperature, given.content_weight) == ("none", 2.0, 0.0)
