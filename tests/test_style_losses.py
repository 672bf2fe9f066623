"""Style losses against literal numpy, scipy and scikit-image, with regions and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from skimage.exposure import match_histograms

from neuart_jax import Config, FeatureNetwork, stylize_batch
from neuart_jax.config.config import FIELDS
from neuart_jax.losses.distributions import draw_directions
from neuart_jax.losses.moments import gaussian_statistic, gram_matrix, mean_and_deviation
from neuart_jax.losses.quantiles import Quantiles
from neuart_jax.losses.style import STYLE_LOSSES, blend_statistics

NAMES = sorted(STYLE_LOSSES)
SORTING = sorted(name for name in NAMES if "sliced" in name or "histogram" in name)
GAUSSIAN = ("wasserstein", "relative_wasserstein", "principal_wasserstein")
ONE_OF_EACH = (
    "relative",
    "half_sum",
    "wasserstein",
    "relative_mean_std",
    "sliced_wasserstein",
    "relative_histogram",
)
"""Every statistic, every way to divide, and the one formula in which M stays."""

SHAPE = (6, 5)


@pytest.fixture
def features() -> np.ndarray:
    # About half are zero, as after a ReLU.
    return np.maximum(np.random.default_rng(0).normal(size=(5, 4, 3)), 0)


@pytest.fixture
def target() -> np.ndarray:
    return np.maximum(np.random.default_rng(1).normal(size=(5, 4, 3)), 0)


def random_features(seed, shape=SHAPE, channels=3):
    """Return correlated features, float64[*shape, channels], no two of them equal."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels))
    return rng.normal(size=(*shape, channels)) @ mixing + rng.normal(size=channels)


def random_weights(seed, shape=SHAPE):
    """Return memberships float64[*shape] in [0, 0.7], about a third of them 0."""
    return np.maximum(np.random.default_rng(seed).random(shape) - 0.3, 0)


def style_loss(name, features, target, weights=None, target_weights=None):
    statistic, compare = STYLE_LOSSES[name]
    return compare(features, weights, statistic(target, target_weights))


def evaluate(name, *arrays, dtype=jnp.float32):
    """Return the loss and its gradient, compiled."""
    arrays = [None if array is None else jnp.asarray(array, dtype) for array in arrays]
    return COMPILED(name, *arrays)


COMPILED = jax.jit(jax.value_and_grad(style_loss, argnums=1), static_argnums=0)


@pytest.mark.parametrize(("divisor", "size"), [("none", 1), ("positions", 20), ("elements", 60)])
def test_gram_matrix_is_the_literal_sum_over_its_divisor(features, divisor, size):
    ours = gram_matrix(jnp.asarray(features, jnp.float32), divisor=divisor)
    assert_allclose(ours, reference.gram(features) / size, rtol=1e-6)


def test_gram_matrix_does_not_see_where_things_are(features):
    """Each entry is a sum over positions, and a sum doesn't depend on the order."""
    shuffled = np.random.default_rng(2).permutation(features.reshape(20, 3)).reshape(4, 5, 3)
    ours = gram_matrix(jnp.asarray(shuffled), divisor="none")
    assert_allclose(ours, reference.gram(features), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("weights", [None, jnp.ones((64, 64))])
def test_gram_matrix_of_half_precision_passes_the_range_of_float16(dtype, weights):
    features = jnp.full((64, 64, 2), 16.0, dtype)
    ours = gram_matrix(features, divisor="none", weights=weights)
    assert ours.dtype == jnp.float32
    assert_allclose(ours, np.full((2, 2), 64 * 64 * 256.0))


@pytest.mark.parametrize("divisor", ["none", "positions", "elements"])
def test_weighted_gram_matrix_is_the_literal_sum_over_its_divisor(features, divisor):
    weights = random_weights(3, (5, 4))
    size = {"none": 1, "positions": weights.sum(), "elements": 3 * weights.sum()}[divisor]
    ours = gram_matrix(
        jnp.asarray(features, jnp.float32), divisor=divisor, weights=jnp.float32(weights)
    )
    assert_allclose(ours, reference.weighted_gram(features, weights) / size, rtol=1e-5)


def test_gram_matrices_of_regions_have_the_sum_of_the_whole(features):
    memberships = np.random.default_rng(4).dirichlet(np.ones(3), size=(5, 4))
    whole = gram_matrix(jnp.asarray(features), divisor="none")
    regions = [jnp.float32(memberships[..., index]) for index in range(3)]
    parts = [
        gram_matrix(jnp.asarray(features), divisor="none", weights=region) for region in regions
    ]
    assert_allclose(sum(parts), whole, rtol=1e-5)


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


def test_every_formula_has_a_literal_reference():
    assert not set(reference.STYLE_LOSSES) & set(reference.DISTRIBUTION_LOSSES)
    both = reference.STYLE_LOSSES | reference.DISTRIBUTION_LOSSES
    assert set(STYLE_LOSSES) == set(both) == set(FIELDS["style_loss"].metadata["choices"])


@pytest.mark.parametrize("name", sorted(reference.STYLE_LOSSES))
def test_gram_losses_of_regions_are_their_sources_with_sums_of_weights(name):
    f, p = random_features(0, (5, 4)), random_features(1, (7, 3))
    w, v = random_weights(2, (5, 4)), random_weights(3, (7, 3))
    ours, _ = evaluate(name, f, p, w, v)
    gram = reference.weighted_gram(f, w) / w.sum()
    other = reference.weighted_gram(p, v) / v.sum()
    # Every formula has the form c(M, N) sum (G/M - A/M)^2, or that over sum (A/M)^2.
    factor = {
        "relative": 1 / np.sum(other**2),
        "mean": 1 / 9,
        "sum": 1,
        "half_sum": 0.5 * w.sum() ** 2,
        "gatys": 1 / 36,
        "mean_elements": 1 / 81,
    }[name]
    assert_allclose(ours, factor * np.sum((gram - other) ** 2), rtol=1e-4)


BASES = ("wasserstein", "mean_std", "sliced_wasserstein", "histogram")


@pytest.mark.parametrize(
    ("name", "shape", "weighted", "double"),
    [
        *((f"relative_{name}", (7, 11), True, True) for name in BASES),
        *((name, (9, 8), False, True) for name in BASES),
        *((name, (7, 11), False, False) for name in BASES),
        *((name, (7, 11), True, False) for name in BASES),
        *((name, (3, 5), True, True) for name in BASES),
    ],
)
def test_distributions_are_compared_as_by_their_sources(name, shape, weighted, double):
    f, p = random_features(0, (9, 8), 4), random_features(1, shape, 4)
    w, v = np.ones((9, 8)), np.ones(shape)
    if weighted:
        w, v = random_weights(2, (9, 8)), random_weights(3, shape)
    expected = reference.DISTRIBUTION_LOSSES[name](f, w, p, v, draw_directions(4))
    with jax.enable_x64(double):
        dtype = jnp.float64 if double else jnp.float32
        arrays = [jnp.asarray(a, dtype) for a in ((f, p, w, v) if weighted else (f, p))]
        ours = jax.jit(style_loss, static_argnums=0)(name, *arrays)
    assert_allclose(ours, expected, rtol=1e-8 if double else 1e-4)


def test_sliced_loss_is_the_cheapest_assignment_of_projections():
    f, p = random_features(0, (6, 5), 4), random_features(1, (5, 6), 4)
    costs = []
    for direction in draw_directions(4):
        x, y = f.reshape(-1, 4) @ direction, p.reshape(-1, 4) @ direction
        cost = (x.reshape(-1, 1) - y.reshape(1, -1)) ** 2
        costs.append(cost[linear_sum_assignment(cost)].mean())
    ours, _ = evaluate("sliced_wasserstein", f, p)
    assert_allclose(ours, np.mean(costs), rtol=1e-5)


def test_histogram_loss_is_the_error_to_the_copy_with_the_styles_histogram():
    """Risser et al. 2017, equation (8), per element; the copy is held constant."""
    f, p = random_features(0, (6, 5), 4), random_features(1, (5, 6), 4)
    copy = match_histograms(f, p, channel_axis=-1)
    with jax.enable_x64(True):
        value, gradient = evaluate("histogram", f, p, dtype=jnp.float64)
    assert_allclose(value, np.mean((f - copy) ** 2), rtol=1e-10)
    assert_allclose(gradient, 2 * (f - copy) / f.size, rtol=1e-8)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("name", ["histogram", "sliced_wasserstein"])
def test_a_region_whose_membership_rises_along_its_values(name, flipped):
    """Density 2x against an even one: the integral of (sqrt(u) - u)^2 is 1/30."""
    ramp = (np.arange(10_000).reshape(100, 100, 1) + 0.5) / 10_000
    regions = ramp[..., 0], np.ones((100, 100))
    ours, _ = evaluate(name, ramp, ramp, *(regions[::-1] if flipped else regions))
    assert_allclose(ours, 1 / 30, rtol=1e-3)


def test_directions_are_an_orthonormal_basis_and_always_the_same():
    for count in (1, 2, 64):
        directions = draw_directions(count)
        assert_allclose(directions @ directions.T, np.eye(count), atol=1e-12)
        assert not directions.flags.writeable
    assert draw_directions(64) is draw_directions(64)
    # Neither the axes, which the histograms have already, nor their mean stands out.
    assert np.max(np.abs(draw_directions(64))) < 0.7
    assert np.max(np.abs(draw_directions(64) @ np.full(64, 1 / 8))) < 0.5
    again = draw_directions.__wrapped__(64)
    assert_array_equal(again, draw_directions(64))


@pytest.mark.parametrize("name", ["sliced_wasserstein", "histogram", "mean_std", "wasserstein"])
def test_a_shift_of_all_features_is_its_mean_square(name):
    features, shift = random_features(0, (9, 8), 5), np.array([0.1, -2, 3, 0, 0.5])
    ours, _ = evaluate(name, features + shift, features)
    assert_allclose(ours, np.mean(shift**2), rtol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_ones_are_no_weights(name):
    x, y = random_features(0), random_features(1)
    plain, slope = evaluate(name, x, y)
    ones, gradient = evaluate(name, x, y, np.ones(SHAPE), np.ones(SHAPE))
    assert_allclose(ones, plain, rtol=1e-4)
    assert_allclose(gradient, slope, rtol=1e-3, atol=1e-4 * np.max(np.abs(slope)))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_only_the_proportions_of_weights_count_but_in_sums(name):
    x, y, w, v = random_features(0), random_features(1), random_weights(2), random_weights(3)
    once, _ = evaluate(name, x, y, w, v)
    again, _ = evaluate(name, x, y, 0.25 * w, 8 * v)
    assert_allclose(again, once / 16 if name == "half_sum" else once, rtol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_hard_regions_are_cut_out(name):
    x, y, ones = random_features(0), random_features(1), np.ones(SHAPE)
    inside = np.random.default_rng(2).random(SHAPE) < 0.6
    cut = x[inside].reshape(1, -1, 3)
    expected, slope = evaluate(name, cut, y)
    ours, gradient = evaluate(name, x, y, inside, ones)
    assert_allclose(ours, expected, rtol=1e-4)
    assert_allclose(gradient[inside], slope[0], rtol=1e-3, atol=1e-4 * np.max(np.abs(slope)))
    assert not np.any(gradient[~inside])
    if name not in SORTING:  # Their levels are as many as positions: see `test_quantiles`.
        assert_allclose(evaluate(name, y, x, ones, inside)[0], evaluate(name, y, cut)[0], rtol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_places_do_not_matter(name):
    arrays = random_features(0), random_features(1), random_weights(2), random_weights(3)
    orders = [np.random.default_rng(seed).permutation(30) for seed in (4, 5)]
    shuffled = [
        array.reshape(30, -1)[order].reshape(array.shape)
        for array, order in zip(arrays, orders * 2, strict=True)
    ]
    assert_allclose(evaluate(name, *shuffled)[0], evaluate(name, *arrays)[0], rtol=1e-4)
    assert_allclose(evaluate(name, *shuffled[:2])[0], evaluate(name, *arrays[:2])[0], rtol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_style_is_at_no_distance_of_itself(name):
    x, weights = random_features(0), random_weights(1)
    scale, _ = evaluate(name, np.zeros_like(x), x)
    assert evaluate(name, x, x)[0] <= 1e-5 * scale
    # Quantiles of uneven shares at even levels lose a little.
    most = (0.03 if name in SORTING else 1e-5) * scale
    assert evaluate(name, x, x, weights, weights)[0] <= most


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("dtype", "weights"),
    [(jnp.float16, None), (jnp.bfloat16, None), (jnp.bfloat16, random_weights(2))],
)
def test_half_precision_is_compared_in_single(name, dtype, weights):
    arrays = [
        None if array is None else jnp.asarray(array, dtype)
        for array in (random_features(0), random_features(1), weights)
    ]
    half, gradient = evaluate(name, *arrays, dtype=dtype)
    single, _ = evaluate(name, *arrays)
    assert half.dtype == jnp.float32
    assert gradient.dtype == dtype
    # The mean that a covariance is taken around has the features' precision.
    assert_allclose(half, single, rtol=0.02 if name in GAUSSIAN else 1e-5)
    assert np.all(np.isfinite(np.float32(gradient)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("target_value", [0.0, 1.0])
def test_losses_are_finite_on_constant_and_zero_features(name, value, target_value):
    x, y = (np.full((*SHAPE, 3), number) for number in (value, target_value))
    weights = random_weights(0)
    for arrays in ((x, y), (x, y, weights, weights)) if name in ONE_OF_EACH else ((x, y),):
        result, gradient = evaluate(name, *arrays)
        assert np.isfinite(result)
        assert np.all(np.isfinite(gradient))
        if value == target_value:
            assert_allclose(result, 0, atol=1e-6)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize(("image", "style"), [(0, 0), (0, 1), (1, 0)])
def test_empty_regions_are_finite(name, image, style):
    x, y = random_features(0), random_features(1)
    w, v = np.full(SHAPE, image), np.full(SHAPE, style)
    result, gradient = evaluate(name, x, y, w, v)
    assert np.isfinite(result)
    assert np.all(np.isfinite(gradient))
    assert image or not np.any(gradient)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize(("shape", "other"), [((1, 1), (3, 2)), ((3, 2), (1, 1))])
def test_a_single_position_has_a_style(name, shape, other):
    x, y = random_features(0, shape), random_features(1, other)
    result, gradient = evaluate(name, x, y, np.full(shape, 0.5), np.full(other, 0.5))
    assert np.isfinite(result)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences_in_float64(name, features, target):
    # Where values are equal, what is sorted has a kink.
    x = random_features(0, (5, 4)) if name in SORTING else features
    weights = random_weights(5, (5, 4))
    for given in (None, weights) if name in ONE_OF_EACH else (None,):
        with jax.enable_x64(True):
            check_grads(
                jax.jit(lambda v, w=given: style_loss(name, v, jnp.asarray(target), w)),
                (jnp.asarray(x),),
                order=1,
                modes=["rev"],
                rtol=1e-6,
            )


def test_no_gradient_flows_into_weights():
    """At zero the root that they enter a Gram matrix with has no slope."""
    x, y, w = (jnp.float32(a) for a in (random_features(0), random_features(1), random_weights(2)))
    slope = jax.jit(jax.grad(style_loss, argnums=3), static_argnums=0)
    for name in ("relative", "sliced_wasserstein"):
        assert not np.any(slope(name, x, y, w))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_regions_and_pairs_can_be_mapped_over(name):
    x, y = (
        jnp.float32(np.stack([random_features(s) for s in seeds])) for seeds in ((0, 1), (2, 3))
    )
    w, v = (jnp.float32(np.stack([random_weights(s) for s in seeds])) for seeds in ((4, 5), (6, 7)))
    over_regions = jax.vmap(COMPILED, in_axes=(None, None, None, 0, 0))
    over_pairs = jax.vmap(over_regions, in_axes=(None, 0, 0, None, None))
    found, gradients = jax.jit(over_pairs, static_argnums=0)(name, x, y, w, v)
    for i, j in np.ndindex(2, 2):
        expected, slope = evaluate(name, x[i], y[i], w[j], v[j])
        assert_allclose(found[i, j], expected, rtol=1e-4)
        # The inverse root of a covariance, which this slope holds, makes more of rounding.
        share = 1e-3 if name in GAUSSIAN else 1e-4
        assert_allclose(gradients[i, j], slope, rtol=1e-3, atol=share * np.max(np.abs(slope)))


def test_channel_moments_are_numpys():
    f, w = random_features(0, (6, 5)), random_weights(1, (6, 5))
    expected_mean, covariance = reference.moments(f, w)
    for statistic, second in (
        (mean_and_deviation, np.sqrt(np.diag(covariance))),
        (gaussian_statistic, covariance),
    ):
        mean, found = statistic(jnp.float32(f), jnp.float32(w))
        assert_allclose(mean, expected_mean, rtol=1e-5)
        assert_allclose(found, second, rtol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_blend_of_one_style_with_itself_is_that_style(name):
    statistic, compare = map(jax.jit, STYLE_LOSSES[name])
    x, one = jnp.float32(random_features(0, (5, 4))), jnp.float32(random_features(1, (7, 3)))
    kept = statistic(one, None)
    shares = [jnp.float32(share) for share in (0.1, 0.2, 0.7)]
    blended = blend_statistics([kept] * 3, shares)
    assert jax.tree.structure(blended) == jax.tree.structure(kept)
    for ours, expected in zip(jax.tree.leaves(blended), jax.tree.leaves(kept), strict=True):
        assert_allclose(ours, expected, rtol=1e-6)
    assert_allclose(compare(x, None, blended), compare(x, None, kept), rtol=1e-5)


@pytest.mark.parametrize("name", ["sliced_wasserstein", "histogram"])
def test_blended_distributions_are_between_their_styles(name):
    """Of copies moved by different amounts the barycenter is one moved by the mean amount."""
    style = random_features(0, (8, 7))
    moved = [style + 3.0, style - 1.0]
    statistic, compare = map(jax.jit, STYLE_LOSSES[name])
    target = blend_statistics([statistic(jnp.float32(m), None) for m in moved], (0.25, 0.75))
    assert compare(jnp.float32(style), None, target) < 1e-8
    assert compare(jnp.float32(style + 0.1), None, target) > 1e-5


def test_styles_of_different_sizes_are_blended_with_the_levels_of_the_largest():
    few, many = Quantiles(jnp.array([[0.0, 4.0]])), Quantiles(jnp.array([[1.0, 2.0, 3.0, 8.0]]))
    # At 1/8, 3/8, 5/8 and 7/8 the first, between 1/4 and 3/4, has 0, 1, 3 and 4.
    for parts, shares in (((few, many), (0.25, 0.75)), ((many, few), (0.75, 0.25))):
        blended = blend_statistics(parts, shares)
        assert_allclose(blended.values, [[0.75, 1.75, 3, 7]])


@pytest.mark.parametrize("name", ["histogram", "sliced_wasserstein"])
def test_blends_of_different_sizes_are_compared_as_mean_quantile_functions(name):
    statistic, compare = map(jax.jit, STYLE_LOSSES[name])
    directions = np.eye(3) if name == "histogram" else draw_directions(3)
    styles = [random_features(seed, shape) for seed, shape in enumerate(((5, 4), (7, 6), (1, 1)))]
    shares = (0.5, 0.2, 0.3)
    x = random_features(3, (4, 6))
    target = blend_statistics([statistic(jnp.float32(p), None) for p in styles], shares)
    own, levels = ((np.arange(count) + 0.5) / count for count in (24, 42))
    rows = []
    for direction in directions:
        curves = [
            reference.quantiles((p @ direction).ravel(), np.ones(p[..., 0].size)) for p in styles
        ]
        mean = sum(s * np.interp(levels, *curve) for s, curve in zip(shares, curves, strict=True))
        rows.append(np.mean((np.sort((x @ direction).ravel()) - np.interp(own, levels, mean)) ** 2))
    assert_allclose(compare(jnp.float32(x), None, target), np.mean(rows), rtol=1e-4)


PIXELS = FeatureNetwork(lambda params, image: {"pixels": image}, None)


def test_runs_take_on_the_styles_colors(content_image, style_image):
    """In a compiled loop with a line search over a batch, on the colors as seen by the slices."""
    config = Config().replace(
        content_layers="pixels",
        style_layers="pixels",
        style_loss="sliced_wasserstein",
        content_weight=0,
        tv_weight=0,
        scales=1,
        steps=10,
        report_every=10,
    )
    contents = [content_image[:20, :20], content_image[20:40, 30:50]]
    styles = [style_image[:20, :20], style_image[30:50, 20:]]
    results = stylize_batch(contents, styles, config, network=PIXELS)
    for result, style in zip(results, styles, strict=True):
        found, expected = (
            np.sort(picture.reshape(-1, 3) @ draw_directions(3).T, axis=0)
            for picture in (result.image, style)
        )
        # Corners of the color cube may be out of reach.
        assert np.mean(np.abs(found - expected)) < 1e-3
