import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

from neuart_jax.config.sections import LossConfig
from neuart_jax.models import NetworkParams
from neuart_jax.models.features import make_feature_fn
from neuart_jax.models.vgg import VGG
from neuart_jax.objective.build import make_terms
from neuart_jax.objective.term import Term, make_objective, make_targets

LAYERS = ("relu1_1", "relu1_2", "relu2_1")
CONFIG = LossConfig(
    content_layers="relu1_2:0.25,relu2_1:0.75",
    style_layers="relu1_1:0.5,relu2_1:2",
    content_loss="gatys",
    style_loss="gatys",
    content_weight=3,
    style_weight=7,
    tv_weight=11,
)


def tiny_network(dtype=jnp.float32):
    module = VGG(pooling="average", padding="reflect")
    variables = jax.jit(module.init, static_argnames="layers")(
        jax.random.key(0), jnp.zeros((8, 8, 3)), layers=("relu2_1",)
    )
    variables = jax.tree.map(lambda x: x.astype(dtype), variables)
    params = NetworkParams(variables, jnp.full(3, 0.4, dtype), jnp.full(3, 0.2, dtype))
    return jax.jit(make_feature_fn(module, LAYERS)), params


def parts(config, content, style, dtype=jnp.float32):
    feature_fn, params = tiny_network(dtype)
    content, style = jnp.asarray(content, dtype), jnp.asarray(style, dtype)
    terms = make_terms(config)
    targets = make_targets(
        terms,
        content_image=content,
        style_images=(style,),
        content_features=feature_fn(params, content),
        style_features=(feature_fn(params, style),),
    )
    return make_objective(feature_fn, terms), params, targets, feature_fn


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.random((10, 9, 3)), rng.random((8, 12, 3)), rng.random((10, 9, 3))


def test_objective_is_the_weighted_sum_of_literal_formulas(images):
    content, style, image = images
    objective, params, targets, feature_fn = parts(CONFIG, content, style)
    total, terms = objective(jnp.asarray(image, jnp.float32), params, targets)

    def features(picture):
        values = feature_fn(params, jnp.asarray(picture, jnp.float32))
        return {name: np.asarray(value, np.float64) for name, value in values.items()}

    own, of_content, of_style = features(image), features(content), features(style)
    expected_content = sum(
        weight * reference.content_loss(own[name], of_content[name])
        for name, weight in (("relu1_2", 0.25), ("relu2_1", 0.75))
    )
    expected_style = 0.0
    for name, weight in (("relu1_1", 0.5), ("relu2_1", 2)):
        channels = own[name].shape[-1]
        own_gram = np.einsum("yxi,yxj->ij", own[name], own[name]) / own[name][..., 0].size
        target = np.einsum("yxi,yxj->ij", of_style[name], of_style[name])
        difference = own_gram - target / of_style[name][..., 0].size
        expected_style += weight * np.sum(difference**2) / (4 * channels**2)
    expected_tv = reference.TV_LOSSES["mean_squares"](image)
    assert_allclose(terms["content"], expected_content, rtol=1e-5)
    assert_allclose(terms["style"], expected_style, rtol=1e-5)
    assert_allclose(terms["tv"], expected_tv, rtol=1e-5)
    expected = 3 * expected_content + 7 * expected_style + 11 * expected_tv
    assert_allclose(total, expected, rtol=1e-5)
    assert total == terms["total"]


@pytest.mark.parametrize("form", ["relative", "mean", "gatys"])
def test_objective_is_zero_at_its_target(images, form):
    content, _, _ = images
    config = LossConfig(
        content_layers="relu2_1",
        style_layers="relu1_1,relu2_1",
        content_loss=form,
        style_loss=form,
        tv_weight=0,
    )
    objective, params, targets, _ = parts(config, content, content)
    (total, _), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        jnp.asarray(content, jnp.float32), params, targets
    )
    # Compiled differently, the same features differ in their last bits.
    assert total < 1e-10
    assert np.max(np.abs(gradient)) < 1e-5


def test_gradient_agrees_with_finite_differences_in_float64(images):
    content, style, image = images
    config = LossConfig(content_layers="relu2_1", style_layers="relu1_1,relu2_1")
    with jax.enable_x64(True):
        objective, params, targets, _ = parts(config, content, style, jnp.float64)
        compiled = jax.jit(jax.value_and_grad(objective, has_aux=True))
        evaluate = functools.partial(compiled, params=params, targets=targets)
        _, gradient = evaluate(jnp.asarray(image))
        direction = np.random.default_rng(5).normal(size=image.shape)
        step = 1e-6
        (ahead, _), (behind, _) = (
            evaluate(jnp.asarray(image + s * direction))[0] for s in (step, -step)
        )
    expected = float(ahead - behind) / (2 * step)
    assert_allclose(float(np.sum(np.asarray(gradient) * direction)), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_gradient_is_finite_on_constant_pictures(value):
    flat = np.full((8, 8, 3), value)
    config = LossConfig(content_layers="relu2_1", style_layers="relu1_1,relu2_1")
    objective, params, targets, _ = parts(config, flat, flat)
    start = jnp.full((8, 8, 3), 0.5)
    value_and_grad = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (total, _), gradient = value_and_grad(start, params, targets)
    assert np.isfinite(total)
    assert np.all(np.isfinite(gradient))


def test_terms_without_a_coefficient_are_not_computed():
    config = LossConfig(
        content_layers="relu1_2", style_layers="relu1_1", content_weight=0, tv_weight=1
    )
    terms = make_terms(config)
    assert [term.name for term in terms] == ["style", "tv"]
    assert {name for term in terms for name in term.layers} == {"relu1_1"}


def test_a_term_of_ones_own_joins_the_sum(images):
    content, style, image = images
    brightness = Term(
        name="brightness",
        weight=4.0,
        make_target=lambda inputs: jnp.mean(inputs.style_images[0]),
        loss_fn=lambda image, features, target: jnp.square(jnp.mean(image) - target),
    )
    objective = make_objective(lambda params, image: {}, [brightness])
    targets = make_targets(
        [brightness],
        content_image=content,
        style_images=(jnp.asarray(style),),
        content_features={},
        style_features=({},),
    )
    total, terms = objective(jnp.asarray(image), None, targets)
    expected = (image.mean() - style.mean()) ** 2
    assert_allclose(terms["brightness"], expected, rtol=1e-4)
    assert_allclose(total, 4 * expected, rtol=1e-4)
