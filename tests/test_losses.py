"""Errors, content losses, smoothing and total variation against literal numpy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.special
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from neuart_jax.config.config import FIELDS
from neuart_jax.losses import elementwise


@pytest.fixture
def features() -> np.ndarray:
    # About half are zero, as after a ReLU.
    return np.maximum(np.random.default_rng(0).normal(size=(5, 4, 3)), 0)


@pytest.fixture
def target() -> np.ndarray:
    return np.maximum(np.random.default_rng(1).normal(size=(5, 4, 3)), 0)


def test_gatys_content_loss_and_gradient(features, target):
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(
            lambda x: elementwise.content_loss("gatys", jax.nn.relu(x), jnp.asarray(target))
        )(jnp.asarray(features))
    assert_allclose(value, reference.content_loss(features, target), rtol=1e-12)
    assert_allclose(gradient, reference.content_gradient(features, target), atol=1e-12)


@pytest.mark.parametrize("name", sorted(reference.CONTENT_LOSSES))
def test_content_formulas_are_their_sources(name, features, target):
    with jax.enable_x64(True):
        ours = elementwise.content_loss(name, jnp.asarray(features), jnp.asarray(target))
    assert_allclose(ours, reference.CONTENT_LOSSES[name](features, target), rtol=1e-12)


def test_every_formula_has_a_literal_reference():
    assert set(elementwise.CONTENT_FORMULAS) == set(reference.CONTENT_LOSSES)
    assert set(elementwise.TV_LOSSES) == set(reference.TV_LOSSES)
    choices = {name: FIELDS[name].metadata["choices"] for name in FIELDS}
    assert set(choices["content_loss"]) == set(elementwise.CONTENT_FORMULAS)
    assert set(choices["tv_loss"]) == set(elementwise.TV_LOSSES)


def test_smoothing_is_scipys_softmax_over_everything(features):
    expected = scipy.special.softmax(features / 2.5) * features.size
    assert_allclose(elementwise.smooth(jnp.float32(features), 2.5), expected, rtol=1e-5)
    huge = elementwise.smooth(jnp.float32(1e6 * features), 1.0)
    assert_allclose(np.mean(huge), 1.0, rtol=1e-6)


def test_relative_and_mean_errors(features, target):
    squares = np.sum((features - target) ** 2)
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(target, jnp.float32)
    assert_allclose(elementwise.relative_error(x, y), squares / np.sum(target**2), rtol=1e-6)
    assert_allclose(elementwise.mean_squared_error(x, y), squares / 60, rtol=1e-6)


def test_relative_error_is_free_of_scale(features, target):
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(target, jnp.float32)
    assert_allclose(
        elementwise.relative_error(1000 * x, 1000 * y), elementwise.relative_error(x, y), rtol=1e-5
    )


@pytest.mark.parametrize("name", sorted(reference.TV_LOSSES))
def test_total_variation(name):
    image = np.random.default_rng(3).random((6, 5, 3))
    ours = elementwise.TV_LOSSES[name](jnp.asarray(image))
    assert_allclose(ours, reference.TV_LOSSES[name](image), rtol=1e-6)


def test_total_variation_of_a_single_row_has_steps_to_the_right_only():
    image = jnp.array([[[0.0], [1.0], [1.0]]])
    assert float(elementwise.total_variation(image)) == 0.5


def test_numbers_out_of_range_count_with_the_square_of_their_distance():
    # Below, at the ends, inside and above.
    image = np.array([-2.0, -0.5, 0.0, 0.25, 1.0, 1.5, 3.0, 1e-3]).reshape(2, 2, 2)
    distances = np.maximum(-image, 0) + np.maximum(image - 1, 0)
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(elementwise.range_penalty)(jnp.asarray(image))
    assert_allclose(value, (4 + 0.25 + 0.25 + 4) / 8, rtol=1e-12)
    assert_allclose(value, np.mean(distances**2), rtol=1e-12)
    # Back into the range, and nothing for what is in it.
    assert_allclose(gradient, 2 * (image - np.clip(image, 0, 1)) / 8, rtol=1e-12)
    assert np.count_nonzero(gradient) == 4


def test_what_a_file_can_hold_is_not_out_of_range():
    image = jnp.asarray(np.random.default_rng(0).random((5, 4, 3)), jnp.float32)
    for one in (image, jnp.zeros_like(image), jnp.ones_like(image)):
        value, gradient = jax.value_and_grad(elementwise.range_penalty)(one)
        assert value == 0
        assert not np.any(gradient)


def test_the_slope_out_of_range_agrees_with_finite_differences():
    image = np.random.default_rng(3).normal(0.5, 1, size=(4, 5, 3))
    with jax.enable_x64(True):
        check_grads(
            elementwise.range_penalty, (jnp.asarray(image),), order=1, modes=["rev"], rtol=1e-6
        )


@pytest.mark.parametrize("name", sorted(elementwise.CONTENT_FORMULAS))
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("target_value", [0.0, 1.0])
def test_losses_are_finite_on_constant_and_zero_features(name, value, target_value):
    def total(x):
        return elementwise.content_loss(name, x, jnp.full_like(x, target_value))

    result, gradient = jax.value_and_grad(total)(jnp.full((4, 4, 2), value))
    assert np.isfinite(result)
    assert np.all(np.isfinite(gradient))
    if value == target_value:
        assert_allclose(result, 0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(elementwise.CONTENT_FORMULAS))
def test_gradients_agree_with_finite_differences_in_float64(name, features, target):
    with jax.enable_x64(True):
        check_grads(
            lambda x: elementwise.content_loss(name, x, jnp.asarray(target)),
            (jnp.asarray(features),),
            order=1,
            modes=["rev"],
            rtol=1e-6,
        )
