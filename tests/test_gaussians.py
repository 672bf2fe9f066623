"""The Wasserstein distance of normal distributions against scipy's roots, in float32, too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from neuart_jax.losses.elementwise import TINY
from neuart_jax.losses.gaussian import (
    NUM_PRINCIPAL,
    _stretches,
    gaussian_wasserstein,
    make_target_gaussian,
    trace_of_root,
)
from neuart_jax.losses.moments import gaussian_statistic
from neuart_jax.losses.style import MOMENT_LOSSES, STYLE_LOSSES, blend_statistics
from neuart_jax.objective.style import style_term
from neuart_jax.objective.term import make_targets


def draw(seed, positions, channels, *, decay=0.0):
    """Return features as after a ReLU; with `decay`, of directions that matter less and less."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) * np.exp(-decay * np.arange(channels))
    rows = rng.normal(size=(positions, channels)) @ mixing.T / np.sqrt(channels)
    return np.maximum(rows + 0.2, 0)


def statistic_of(rows):
    return rows.mean(0), np.cov(rows.T, bias=True)


def literal_distance(own, target):
    """In float64, with scipy's root, and the ridge of 1e-4 of the target's mean variance."""
    (mean, covariance), (target_mean, target_covariance) = own, target
    ridge = (1e-4 * np.mean(np.diag(target_covariance)) + TINY) * np.eye(len(mean))
    covariance, target_covariance = covariance + ridge, target_covariance + ridge
    root = scipy.linalg.sqrtm(target_covariance).real
    cross = scipy.linalg.sqrtm(root @ covariance @ root).real
    trace = np.trace(covariance) + np.trace(target_covariance) - 2 * np.trace(cross)
    return np.sum((mean - target_mean) ** 2), trace


def on_device(statistic, dtype=jnp.float32):
    return tuple(jnp.asarray(part, dtype) for part in statistic)


@functools.partial(jax.jit, static_argnames="num_principal")
def distance(own, target, num_principal=None):
    return gaussian_wasserstein(own, make_target_gaussian(target), num_principal=num_principal)


def rooted(target):
    """Return the root of a target's ridged covariance."""
    return target.axes @ np.diag(np.sqrt(target.variances)) @ target.axes.T


@pytest.mark.parametrize(
    ("positions", "channels", "decay"),
    [
        (400, 16, 0.0),
        # Fewer rows than channels: the covariance has no inverse.
        (12, 64, 0.0),
        (12, 128, 0.0),
        (30, 64, 0.2),
        (400, 64, 0.2),
    ],
)
def test_float32_is_within_its_promise_of_scipy(positions, channels, decay):
    own, target = (statistic_of(draw(seed, positions, channels, decay=decay)) for seed in (0, 1))
    of_means, of_covariances = distance(on_device(own), on_device(target))
    expected_of_means, expected = literal_distance(own, target)
    assert_allclose(of_means, expected_of_means, rtol=1e-5)
    assert_allclose(of_covariances, expected, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_features_scale_is_the_distances_square_root(scale):
    own, target = (statistic_of(draw(seed, 20, 32)) for seed in (0, 1))
    scaled = [(scale * mean, scale**2 * covariance) for mean, covariance in (own, target)]
    expected = sum(map(float, distance(on_device(own), on_device(target))))
    found = sum(map(float, distance(*map(on_device, scaled))))
    assert found == pytest.approx(scale**2 * expected, rel=1e-3)


def test_float64_is_exact(float64):
    own, target = (statistic_of(draw(seed, 400, 16)) for seed in (0, 1))
    found = distance(on_device(own, jnp.float64), on_device(target, jnp.float64))
    assert_allclose(found, literal_distance(own, target), rtol=1e-9)


@pytest.mark.parametrize("positions", [1, 2, 12])
@pytest.mark.parametrize("name", ["wasserstein", "relative_wasserstein"])
def test_few_positions_give_finite_losses_and_gradients(name, positions):
    rows, style = (
        jnp.asarray(draw(seed, positions, 64).reshape(1, positions, 64), jnp.float32)
        for seed in (0, 1)
    )
    read, compare = STYLE_LOSSES[name]
    # Itself, where the distance has its kink, and another.
    for image in (style, rows, jnp.zeros_like(rows)):
        loss, gradient = jax.jit(jax.value_and_grad(lambda x: compare(x, None, read(style, None))))(
            image
        )
        assert np.isfinite(loss)
        assert np.all(np.isfinite(gradient))
        assert loss >= 0


def test_the_gradient_in_float32_is_that_in_float64():
    rows, style = (draw(seed, 40, 16).reshape(5, 8, 16) for seed in (0, 1))
    read, compare = STYLE_LOSSES["relative_wasserstein"]
    slope = jax.jit(jax.grad(lambda x, y: compare(x, None, read(y, None))))
    single = slope(jnp.asarray(rows, jnp.float32), jnp.asarray(style, jnp.float32))
    with jax.enable_x64(True):
        double = slope(jnp.asarray(rows), jnp.asarray(style))
    assert_allclose(single, double, atol=2e-3 * np.max(np.abs(double)))


def test_a_target_is_the_distribution_with_the_axes_of_its_ridged_covariance():
    mean, covariance = statistic_of(draw(0, 400, 8))
    target = make_target_gaussian(on_device((mean, covariance)))
    ridge = 1e-4 * np.trace(covariance) / 8 + TINY
    assert_allclose(target.mean, mean, rtol=1e-6)
    assert_allclose(target.covariance, covariance, rtol=1e-6)
    assert_allclose(target.ridge, ridge, rtol=1e-5)
    expected = scipy.linalg.sqrtm(covariance + ridge * np.eye(8)).real
    assert_allclose(rooted(target), expected, atol=2e-5 * np.max(expected))


def test_the_root_of_blended_styles_is_that_of_the_blended_covariance():
    """And not the mean of their roots, which is another matrix."""
    styles = [statistic_of(draw(seed, 300, 8)) for seed in (0, 1)]
    loss, shares = MOMENT_LOSSES["wasserstein"], (0.25, 0.75)
    target = loss.prepare(blend_statistics([on_device(style) for style in styles], shares))
    blend = sum(share * covariance for share, (_, covariance) in zip(shares, styles, strict=True))
    mean = sum(share * mean for share, (mean, _) in zip(shares, styles, strict=True))
    ridge = 1e-4 * np.trace(blend) / 8
    root = scipy.linalg.sqrtm(blend + ridge * np.eye(8)).real
    assert_allclose(rooted(target), root, atol=2e-5 * np.max(root))
    assert_allclose(target.mean, mean, rtol=1e-5)
    of_roots = sum(
        share * scipy.linalg.sqrtm(covariance).real
        for share, (_, covariance) in zip(shares, styles, strict=True)
    )
    assert np.max(np.abs(of_roots - root)) > 1e-3 * np.max(root)


def test_a_term_of_blended_styles_has_that_target():
    features = [draw(seed, 30, 6).reshape(5, 6, 6) for seed in (0, 1, 2)]
    content, *styles = ({"layer": jnp.asarray(each, jnp.float32)} for each in features)
    term = style_term(
        weight=1.0,
        layer_weights=(("layer", 1.0),),
        formula="wasserstein",
        shares=(0.25, 0.75),
    )
    image = jnp.zeros((5, 6, 3))
    targets = make_targets(
        (term,),
        content_image=image,
        style_images=(image, image),
        content_features=content,
        style_features=tuple(styles),
    )
    statistics = [gaussian_statistic(style["layer"], None) for style in styles]
    expected = make_target_gaussian(blend_statistics(statistics, (0.25, 0.75)))
    [found] = targets.values["style"].values["layer"]
    for ours, other in zip(found, expected, strict=True):
        assert_allclose(ours, other, rtol=1e-4, atol=1e-6)


def test_the_trace_of_a_root_has_the_inverse_roots_slope():
    covariance = np.cov(draw(0, 100, 12).T) + 0.1 * np.eye(12)
    value, slope = jax.jit(jax.value_and_grad(trace_of_root))(jnp.asarray(covariance, jnp.float32))
    assert_allclose(value, np.sum(np.sqrt(np.linalg.eigvalsh(covariance))), rtol=1e-6)
    expected = scipy.linalg.inv(scipy.linalg.sqrtm(covariance)).real / 2
    assert_allclose(slope, expected, atol=1e-4 * np.max(expected))


def without_other_covariances(own, target, num_principal):
    """Return a distribution without covariances outside the target's first components."""
    (mean, covariance), axes = own, np.linalg.eigh(target[1])[1][:, ::-1]
    seen = axes.T @ covariance @ axes
    first = np.arange(len(mean)) < num_principal
    kept = np.outer(first, first) | np.eye(len(mean), dtype=bool)
    return mean, axes @ np.where(kept, seen, 0) @ axes.T


@pytest.mark.parametrize("num_principal", [1, 10, 63, 64])
def test_beyond_the_principal_components_only_variances_count(num_principal):
    own, target = (statistic_of(draw(seed, 200, 64, decay=0.05)) for seed in (0, 1))
    found = distance(on_device(own), on_device(target), num_principal)
    expected = literal_distance(without_other_covariances(own, target, num_principal), target)
    assert_allclose(found, expected, rtol=2e-4)
    whole = literal_distance(own, target)
    assert found[1] <= whole[1] * (1 + 1e-4)
    assert (found[1] < 0.99 * whole[1]) == (num_principal < 63)
    same = distance(on_device(target), on_device(target), num_principal)
    assert same[1] < 1e-3 * np.trace(target[1])


def test_its_gradient_is_that_of_finite_differences(float64):
    own, target = (on_device(statistic_of(draw(seed, 200, 12)), jnp.float64) for seed in (0, 1))
    prepared = make_target_gaussian(target)

    def of_covariance(covariance):
        return gaussian_wasserstein((own[0], covariance), prepared, num_principal=5)[1]

    change = np.cov(draw(2, 50, 12).T)
    slope = jnp.vdot(jax.grad(of_covariance)(own[1]), change)
    low, high = (of_covariance(own[1] + step * change) for step in (-1e-6, 1e-6))
    assert_allclose(slope, (high - low) / 2e-6, rtol=1e-5)


def test_the_default_formula_differs_beyond_its_number_of_components():
    for channels, equal in ((NUM_PRINCIPAL, True), (NUM_PRINCIPAL + 8, False)):
        own, target = (jnp.asarray(draw(seed, 300, channels)[None], jnp.float32) for seed in (0, 1))
        whole, some = (
            float(compare(own, None, read(target, None)))
            for read, compare in (
                STYLE_LOSSES[name] for name in ("relative_wasserstein", "principal_wasserstein")
            )
        )
        assert (whole == some) == equal
        assert 0.9 * whole < some <= whole


@pytest.mark.parametrize("least", [1e-7, 1e-3, 0.3])
def test_stretches_bring_every_number_to_one(least):
    """Chen & Chow: after each round the smallest and the largest number are equally far."""
    numbers = np.geomspace(least, 1, 200)
    for factor in _stretches(least):
        assert 1 <= factor <= np.sqrt(3)
        stretched = factor * numbers
        numbers = stretched * (3 - stretched**2) / 2
        assert np.max(numbers) <= 1 + 1e-12
        assert numbers[0] == pytest.approx(np.min(numbers))
        assert numbers[-1] == pytest.approx(np.min(numbers), rel=1e-9)
    assert_allclose(numbers, 1, atol=1e-8)
    # Without them, a number grows by half in a round.
    assert len(_stretches(least)) < np.log(1 / least) / np.log(1.5) + 6


def test_a_single_channel_is_the_difference_of_means_and_deviations():
    own, target = (on_device(([m], [[v]])) for m, v in ((1.0, 4.0), (3.0, 9.0)))
    assert_allclose(distance(own, target), (4, 1), rtol=1e-3)
