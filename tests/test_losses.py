import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.linalg
import scipy.special
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from neuart_jax import losses
from neuart_jax.config import FIELDS


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


def style_loss(name, features, target):
    statistic, compare = losses.STYLE_LOSSES[name]
    positions = features.shape[0] * features.shape[1]
    return compare(statistic(features), statistic(target), positions)


def test_gatys_style_loss_and_gradient(features, target):
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(
            lambda x: style_loss("gatys", jax.nn.relu(x), jnp.asarray(target))
        )(jnp.asarray(features))
    target_gram = reference.gram(target)
    assert_allclose(value, reference.style_loss(features, target_gram), rtol=1e-12)
    assert_allclose(gradient, reference.style_gradient(features, target_gram), atol=1e-12)


@pytest.mark.parametrize("name", sorted(reference.STYLE_LOSSES))
@pytest.mark.parametrize("same_size", [True, False])
def test_style_formulas_are_their_sources(name, same_size, features, target):
    """Every source has pictures of one size; Gram matrices of others are brought to it."""
    if not same_size:
        target = np.maximum(np.random.default_rng(4).normal(size=(7, 3, 3)), 0)
    with jax.enable_x64(True):
        ours = style_loss(name, jnp.asarray(features), jnp.asarray(target))
    target_gram = reference.gram(target) * 20 / (target.shape[0] * target.shape[1])
    assert_allclose(ours, reference.STYLE_LOSSES[name](features, target_gram), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(reference.CONTENT_LOSSES))
def test_content_formulas_are_their_sources(name, features, target):
    with jax.enable_x64(True):
        ours = losses.CONTENT_LOSSES[name](jnp.asarray(features), jnp.asarray(target))
    assert_allclose(ours, reference.CONTENT_LOSSES[name](features, target), rtol=1e-12)


def test_every_formula_has_a_literal_reference():
    gaussian = {"wasserstein", "relative_wasserstein"}
    assert set(losses.STYLE_LOSSES) - gaussian == set(reference.STYLE_LOSSES)
    assert set(losses.CONTENT_LOSSES) == set(reference.CONTENT_LOSSES)
    assert set(losses.TV_LOSSES) == set(reference.TV_LOSSES)
    choices = {name: FIELDS[name].metadata["choices"] for name in FIELDS}
    assert set(choices["style_loss"]) == set(losses.STYLE_LOSSES)
    assert set(choices["content_loss"]) == set(losses.CONTENT_LOSSES)
    assert set(choices["tv_loss"]) == set(losses.TV_LOSSES)


def gaussian_features(seed, shape, channels):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels))
    return rng.normal(size=(*shape, channels)) @ mixing + rng.normal(size=channels)


def literal_wasserstein(x, y):
    (mean, covariance), (target_mean, target_covariance) = (
        (v.reshape(-1, 6).mean(0), np.cov(v.reshape(-1, 6).T, bias=True)) for v in (x, y)
    )
    ridge = 1e-4 * np.trace(target_covariance) / 6 * np.eye(6)
    covariance, target_covariance = covariance + ridge, target_covariance + ridge
    root = scipy.linalg.sqrtm(target_covariance)
    cross = scipy.linalg.sqrtm(root @ covariance @ root)
    traces = np.trace(covariance + target_covariance - 2 * cross).real
    return np.sum((mean - target_mean) ** 2) + traces


def test_wasserstein_distance_against_scipy():
    x, y = gaussian_features(0, (9, 8), 6), gaussian_features(1, (7, 11), 6)
    expected = literal_wasserstein(x, y)
    energy = np.sum(y.reshape(-1, 6) ** 2) / 77
    with jax.enable_x64(True):
        plain = style_loss("wasserstein", jnp.asarray(x), jnp.asarray(y))
        relative = style_loss("relative_wasserstein", jnp.asarray(x), jnp.asarray(y))
        check_grads(
            lambda v: style_loss("wasserstein", v, jnp.asarray(y)),
            (jnp.asarray(x),),
            order=1,
            modes=["rev"],
            rtol=1e-5,
        )
    assert_allclose(plain, expected / 6, rtol=1e-8)
    assert_allclose(relative, expected / energy, rtol=1e-8)
    single = style_loss("wasserstein", jnp.float32(x), jnp.float32(y))
    assert_allclose(single, expected / 6, rtol=1e-4)


def test_smoothing_is_scipys_softmax_over_everything(features):
    expected = scipy.special.softmax(features / 2.5) * features.size
    assert_allclose(losses.smooth(jnp.float32(features), 2.5), expected, rtol=1e-5)
    huge = losses.smooth(jnp.float32(1e6 * features), 1.0)
    assert_allclose(np.mean(huge), 1.0, rtol=1e-6)


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


@pytest.mark.parametrize("name", sorted(reference.TV_LOSSES))
def test_total_variation(name):
    image = np.random.default_rng(3).random((6, 5, 3))
    ours = losses.TV_LOSSES[name](jnp.asarray(image))
    assert_allclose(ours, reference.TV_LOSSES[name](image), rtol=1e-6)


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
        return style_loss(name, x, y) if kind == "style" else loss(x, y)

    result, gradient = jax.value_and_grad(total)(jnp.full((4, 4, 2), value))
    assert np.isfinite(result)
    assert np.all(np.isfinite(gradient))
    if value == target_value:
        assert_allclose(result, 0, atol=1e-6)


@pytest.mark.parametrize(("kind", "name", "loss"), ALL_LOSSES)
def test_gradients_agree_with_finite_differences_in_float64(kind, name, loss, features, target):
    def total(x):
        y = jnp.asarray(target)
        return style_loss(name, x, y) if kind == "style" else loss(x, y)

    with jax.enable_x64(True):
        check_grads(total, (jnp.asarray(features),), order=1, modes=["rev"], rtol=1e-6)
