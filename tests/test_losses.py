import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from neuart_jax import losses


@pytest.fixture
def features() -> np.ndarray:
    # About half are zero, as after a ReLU.
    return np.maximum(np.random.default_rng(0).normal(size=(5, 4, 3)), 0)


@pytest.fixture
def target() -> np.ndarray:
    return np.maximum(np.random.default_rng(1).normal(size=(5, 4, 3)), 0)


@pytest.mark.parametrize(("divisor", "size"), [("none", 1), ("positions", 20), ("elements", 60)])
def test_gram_matrix_is_the_literal_sum_over_its_divisor(features, divisor, size):
    ours = losses.gram_matrix(jnp.asarray(features, jnp.float32), divisor=divisor)
    assert_allclose(ours, reference.gram(features) / size, rtol=1e-6)


def test_gram_matrix_does_not_see_where_things_are(features):
    """Each entry is a sum over positions, and a sum doesn't depend on the order."""
    shuffled = np.random.default_rng(2).permutation(features.reshape(20, 3)).reshape(4, 5, 3)
    ours = losses.gram_matrix(jnp.asarray(shuffled), divisor="none")
    assert_allclose(ours, reference.gram(features), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_gram_matrix_of_half_precision_passes_the_range_of_float16(dtype):
    features = jnp.full((64, 64, 2), 16.0, dtype)
    ours = losses.gram_matrix(features, divisor="none")
    assert ours.dtype == jnp.float32
    assert_allclose(ours, np.full((2, 2), 64 * 64 * 256.0))


def test_gatys_content_loss_and_gradient(features, target):
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(
            lambda x: losses.gatys_content_loss(jax.nn.relu(x), jnp.asarray(target))
        )(jnp.asarray(features))
    assert_allclose(value, reference.content_loss(features, target), rtol=1e-12)
    assert_allclose(gradient, reference.content_gradient(features, target), atol=1e-12)


def test_gatys_style_loss_and_gradient(features, target):
    def loss(x):
        gram = losses.gram_matrix(jax.nn.relu(x), divisor="positions")
        target_gram = losses.gram_matrix(jnp.asarray(target), divisor="positions")
        return losses.gatys_style_loss(gram, target_gram)

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(features))
    target_gram = reference.gram(target)
    assert_allclose(value, reference.style_loss(features, target_gram), rtol=1e-12)
    assert_allclose(gradient, reference.style_gradient(features, target_gram), atol=1e-12)


def test_relative_and_mean_errors(features, target):
    squares = np.sum((features - target) ** 2)
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(target, jnp.float32)
    assert_allclose(losses.relative_error(x, y), squares / np.sum(target**2), rtol=1e-6)
    assert_allclose(losses.mean_squared_error(x, y), squares / 60, rtol=1e-6)


def test_relative_error_is_free_of_scale(features, target):
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(target, jnp.float32)
    assert_allclose(
        losses.relative_error(1000 * x, 1000 * y), losses.relative_error(x, y), rtol=1e-5
    )


def test_total_variation():
    image = np.random.default_rng(3).random((6, 5, 3))
    assert_allclose(
        losses.total_variation(jnp.asarray(image)), reference.total_variation(image), rtol=1e-6
    )


def test_total_variation_of_a_single_row_has_steps_to_the_right_only():
    image = jnp.array([[[0.0], [1.0], [1.0]]])
    assert float(losses.total_variation(image)) == 0.5


ALL_LOSSES = [
    *(("content", name, loss) for name, loss in losses.CONTENT_LOSSES.items()),
    *(("style", name, loss) for name, loss in losses.STYLE_LOSSES.items()),
]


@pytest.mark.parametrize(("kind", "name", "loss"), ALL_LOSSES)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("target_value", [0.0, 1.0])
def test_losses_are_finite_on_constant_and_zero_features(kind, name, loss, value, target_value):
    def total(x):
        y = jnp.full_like(x, target_value)
        if kind == "style":
            x, y = (losses.gram_matrix(v, divisor="positions") for v in (x, y))
        return loss(x, y)

    result, gradient = jax.value_and_grad(total)(jnp.full((4, 4, 2), value))
    assert np.isfinite(result)
    assert np.all(np.isfinite(gradient))
    if value == target_value:
        assert result == 0


@pytest.mark.parametrize(("kind", "name", "loss"), ALL_LOSSES)
def test_gradients_agree_with_finite_differences_in_float64(kind, name, loss, features, target):
    def total(x):
        y = jnp.asarray(target)
        if kind == "style":
            x, y = (losses.gram_matrix(v, divisor="positions") for v in (x, y))
        return loss(x, y)

    with jax.enable_x64(True):
        check_grads(total, (jnp.asarray(features),), order=1, modes=["rev"], rtol=1e-6)
