"""Filters learned from the pictures: what they promise, for every network."""

import functools

import jax
import numpy as np
import pytest

from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import flatten
from neuart_jax.models.params.catalog import FITTED
from neuart_jax.models.params.fitted import fitted
from neuart_jax.models.params.fitted.calibration import PIXEL_UNIT, standardize
from neuart_jax.models.params.fitted.fitted import FitRecipe, fit_variables, make_fit_batch

UNIT = {"vgg19": PIXEL_UNIT, "vgg16": PIXEL_UNIT, "resnet50": 1.0}
_VGG = {"pooling": "average", "padding": "reflect"}
OPTIONS = {"vgg19": _VGG, "vgg16": _VGG, "resnet50": {}}
DEEPEST = {"vgg19": "relu2_2", "vgg16": "relu2_2", "resnet50": "conv2_block1_out"}
SMALL = FitRecipe(num_patches=3000, max_channel_components=16, num_rounds=4)


def fit(model, batch, *, layer="", seed=0, recipe=SMALL, **options):
    factory = functools.partial(MODELS[model].make_module, **(OPTIONS[model] | options))
    layers = (layer or DEEPEST[model],)
    return fit_variables(factory, batch, layers=layers, seed=seed, recipe=recipe)


@pytest.fixture(scope="module")
def batch(content_image, style_image):
    return make_fit_batch([content_image, style_image], longest_side=40)


@pytest.fixture(scope="module")
def variables_of(batch):
    return functools.cache(lambda model: fit(model, batch))


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_filters(batch, variables_of, model):
    first, again = (flatten(v) for v in (variables_of(model), fit(model, batch)))
    assert list(first) == list(again)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])


def test_another_seed_gives_other_filters(batch, variables_of):
    first = flatten(variables_of("vgg19"))
    other = flatten(fit("vgg19", batch, seed=1))
    for name in ("params/conv1_1/kernel", "params/conv2_2/kernel"):
        assert np.abs(first[name] - other[name]).max() > 0.01


def test_other_pictures_give_other_filters(batch, variables_of):
    other = flatten(fit("vgg19", batch[:, ::-1, :, ::-1], layer="conv1_1"))
    kernel = flatten(variables_of("vgg19"))["params/conv1_1/kernel"]
    assert np.abs(kernel - other["params/conv1_1/kernel"]).max() > 0.01


@pytest.mark.parametrize("model", MODELS)
def test_filters_end_at_the_deepest_layer(variables_of, model):
    names = MODELS[model].layer_names
    within = names[: names.index(DEEPEST[model]) + 1]
    with_parameters = {
        name
        for name in within
        if (name.startswith("conv") if model != "resnet50" else name.endswith(("_conv", "_bn")))
    }
    assert {path.split("/")[1] for path in flatten(variables_of(model))} == with_parameters


@pytest.mark.parametrize("model", MODELS)
def test_every_convolution_responds_with_mean_0_and_the_same_deviation(batch, variables_of, model):
    variables = variables_of(model)
    convolutions = tuple(name for name, leaves in variables["params"].items() if "kernel" in leaves)
    assert len(convolutions) == {"vgg19": 4, "vgg16": 4, "resnet50": 5}[model]
    module = MODELS[model].make_module(**OPTIONS[model])
    apply = jax.jit(functools.partial(module.apply, layers=convolutions))
    for name, responses in apply(variables, standardize(batch, FITTED)).items():
        responses = np.asarray(responses, np.float64) / UNIT[model]
        np.testing.assert_allclose(responses.mean(axis=(0, 1, 2)), 0, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(responses.std(axis=(0, 1, 2)), 1, atol=1e-3, err_msg=name)


@pytest.fixture(scope="module")
def whole_resnet50(content_image, style_image):
    """Fit ResNet50 to its end, and return the batch and the variables."""
    batch = make_fit_batch([content_image, style_image], longest_side=64)
    recipe = SMALL._replace(num_patches=1000, max_channel_components=8)
    return batch, fit("resnet50", batch, layer="conv5_block3_out", recipe=recipe)


@pytest.mark.slow
def test_a_whole_resnet50_has_all_parameters_and_the_statistics_of_its_pictures(whole_resnet50):
    batch, variables = whole_resnet50
    module = MODELS["resnet50"].make_module()
    shapes = jax.eval_shape(module.init, jax.random.key(0), batch[0])
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)
    layers = tuple(name for name in MODELS["resnet50"].layer_names if name.endswith("_bn"))
    assert len(layers) == 53
    apply = jax.jit(functools.partial(module.apply, layers=layers))
    for name, responses in apply(variables, standardize(batch, FITTED)).items():
        # To a batch normalization's own epsilon, and what rounding adds up to in 50 layers.
        responses = np.asarray(responses, np.float64)
        np.testing.assert_allclose(responses.mean(axis=(0, 1, 2)), 0, atol=2e-3, err_msg=name)
        deviation = responses.std(axis=(0, 1, 2))
        assert np.all((np.abs(deviation - 1) < 2e-3) | (deviation == 0)), name
        assert (deviation > 0).mean() > 0.99, name


@pytest.mark.slow
def test_the_activations_of_a_whole_resnet50_neither_fade_nor_grow(whole_resnet50):
    batch, variables = whole_resnet50
    layers = tuple(name for name in MODELS["resnet50"].layer_names if name.endswith("_out"))
    apply = jax.jit(functools.partial(MODELS["resnet50"].make_module().apply, layers=layers))
    for name, feature in apply(variables, standardize(batch, FITTED)).items():
        # Each block adds deviation 1; a stage's first projects to deviation 1 again.
        assert 0.6 < np.std(feature) < 3, name


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shades", [(0.5, 0.5), (0.0, 1.0)], ids=["gray", "black and white"])
def test_constant_pictures_give_finite_filters(model, shades):
    batch = np.stack([np.full((12, 16, 3), shade, np.float32) for shade in shades])
    variables = fit(model, batch)
    for name, array in flatten(variables).items():
        assert np.all(np.isfinite(array)), name
    module = MODELS[model].make_module(**OPTIONS[model])
    features = module.apply(variables, standardize(batch, FITTED), layers=(DEEPEST[model],))
    assert np.all(np.isfinite(features[DEEPEST[model]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size", "options"),
    [
        ("vgg19", 4, {}),
        ("vgg19", 2, {"padding": "zero"}),
        ("resnet50", 4, {}),
        ("resnet50", 1, {}),
    ],
)
def test_tiny_pictures_give_finite_filters(model, size, options):
    pixels = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    for name, array in flatten(fit(model, pixels, **options)).items():
        assert np.all(np.isfinite(array)), name


@pytest.mark.parametrize(
    ("content", "style", "expected"),
    [
        ((60, 120), (60, 120), (60, 120)),
        ((900, 1200), (600, 800), (288, 384)),
        ((900, 600), (800, 400), (384, 222)),
        ((100, 200), (200, 100), (200, 200)),
        ((768, 1024), (1024, 768), (384, 384)),
        ((50, 1000), (60, 1200), (96, 384)),
        ((1000, 50), (1200, 60), (384, 96)),
        ((50, 1000), (1000, 50), (384, 384)),
        ((40, 40), (40, 80), (57, 80)),
        ((1, 1), (1, 1), (1, 1)),
        ((3, 1), (1, 9), (5, 9)),
    ],
    ids=str,
)
def test_the_batch_has_the_mean_aspect_and_at_most_the_longest_side(content, style, expected):
    rng = np.random.default_rng(0)
    images = [rng.random((*shape, 3), np.float32) for shape in (content, style)]
    batch = make_fit_batch(images, longest_side=384)
    assert batch.shape == (2, *expected, 3)
    assert batch.dtype == np.float32
    assert batch.min() >= 0 and batch.max() <= 1


def test_pictures_are_cropped_and_not_squeezed():
    rows, columns = np.mgrid[:60, :60] / 100
    ramps = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.float32)
    content, _ = make_fit_batch([ramps, np.zeros((60, 135, 3), np.float32)], longest_side=90)
    assert content.shape[:2] == (60, 90)
    down = (content[50, 45, 0] - content[10, 45, 0]) / 40
    across = (content[30, 80, 1] - content[30, 10, 1]) / 70
    np.testing.assert_allclose([down, across], 0.01 * 60 / 90, rtol=0.02)


def test_a_batch_of_pictures_of_its_own_size_is_those_pictures(content_image):
    batch = make_fit_batch([content_image, content_image[::-1]], longest_side=384)
    np.testing.assert_allclose(batch, np.stack([content_image, content_image[::-1]]), atol=1e-6)


def all_patches(images):
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 27).astype(np.float64)


def test_first_filters_are_unit_directions_in_the_space_of_the_whitened_patches(batch):
    normalized = standardize(batch, FITTED)
    recipe = SMALL._replace(num_patches=100_000)
    kernel = flatten(fit("vgg19", batch, layer="conv1_1", recipe=recipe))["params/conv1_1/kernel"]
    patches = all_patches(normalized)
    values, vectors = np.linalg.eigh(np.cov(patches.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    num_kept = np.searchsorted(np.cumsum(values) / values.sum(), recipe.patch_variance) + 1
    assert 3 < num_kept < 20
    filters = np.asarray(kernel, np.float64).reshape(27, 64)
    coordinates = vectors.T @ filters
    # Nothing of a filter lies outside the kept components ...
    outside = np.linalg.norm(coordinates[num_kept:], axis=0)
    assert np.max(outside / np.linalg.norm(filters, axis=0)) < 1e-3
    # ... where each is the mean of the whitened patches nearest to it, up to its length.
    scale = 1 / np.sqrt(values[:num_kept] + recipe.whitening * values[0])
    centroids = (coordinates[:num_kept] / scale.reshape(-1, 1)).T
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    points = (patches - patches.mean(axis=0)) @ vectors[:, :num_kept] * scale.reshape(1, -1)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    drawn = points[np.random.default_rng(0).choice(len(points), 64, replace=False)]
    similarity, similarity_to_drawn = (
        np.max(points @ some.T, axis=1).mean() for some in (centroids, drawn)
    )
    assert similarity > similarity_to_drawn + 0.03


def points_around_directions(num_points, num_directions, dimensions):
    rng = np.random.default_rng(7)
    directions = rng.standard_normal((num_directions, dimensions))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    labels = rng.integers(num_directions, size=num_points)
    noise = 0.08 * rng.standard_normal((num_points, dimensions))
    lengths = rng.uniform(0.5, 2, (num_points, 1))
    return ((directions[labels] + noise) * lengths).astype(np.float32), directions


def test_k_means_finds_the_directions_that_the_points_lie_around():
    points, directions = points_around_directions(2000, 6, 12)
    rng = np.random.default_rng(0)
    centroids = fitted._spherical_k_means(points, 24, 10, rng)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    assert np.min(np.max(directions @ centroids.T, axis=1)) > 0.95


@pytest.mark.parametrize("num_centroids", [4, 16, 64])
def test_k_means_beats_centroids_drawn_from_the_points(num_centroids):
    points = np.random.default_rng(3).standard_normal((1500, 8)).astype(np.float32)
    points *= np.linspace(2, 0.3, 8, dtype=np.float32).reshape(1, 8)
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)

    def mean_similarity(num_rounds):
        rng = np.random.default_rng(1)
        centroids = fitted._spherical_k_means(points, num_centroids, num_rounds, rng)
        assert centroids.shape == (num_centroids, 8)
        assert centroids.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
        return np.max(directions @ centroids.T, axis=1).mean()

    drawn, once, often = (mean_similarity(num_rounds) for num_rounds in (0, 1, 8))
    assert drawn < once < often
    assert often - drawn > 0.02


@pytest.mark.parametrize(("count", "dimensions"), [(3, 3), (40, 6), (63, 200)])
def test_k_means_with_fewer_points_than_centroids_keeps_all_and_mixes_pairs(count, dimensions):
    points = np.random.default_rng(2).standard_normal((count, dimensions)).astype(np.float32)
    centroids = fitted._spherical_k_means(points, 64, 3, np.random.default_rng(0))
    assert centroids.shape == (64, dimensions)
    assert centroids.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    similarity = centroids @ centroids.T - 2 * np.eye(64)
    # Three points make only so many pairs, and a pair may be one point twice, turned around.
    assert similarity.max() < (1 - 1e-6 if count > 3 else 2)
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert np.min(np.max(directions @ centroids.T, axis=1)) > 1 - 1e-6
    shares = np.linalg.lstsq(directions.T, centroids.T, rcond=None)[0]
    if dimensions >= count:
        assert np.all(np.sum(np.abs(shares) > 1e-4, axis=0) <= 2)


def test_k_means_of_points_without_direction_gives_none():
    centroids = fitted._spherical_k_means(
        np.zeros((5, 4), np.float32), 9, 3, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(centroids, np.zeros((9, 4)))


@pytest.mark.parametrize("shape", [(300, 20), (20, 300), (12, 12)])
@pytest.mark.parametrize("variance", [0.5, 0.99])
def test_principal_components_are_those_of_the_singular_value_decomposition(shape, variance):
    points = np.random.default_rng(0).standard_normal(shape)
    points = (points * np.geomspace(3, 0.03, shape[1])).astype(np.float32)
    points -= points.mean(axis=0)
    values, vectors = fitted._principal_components(points, variance)
    assert values.dtype == vectors.dtype == np.float32
    _, singular, directions = np.linalg.svd(points.astype(np.float64), full_matrices=False)
    expected = singular**2 / len(points)
    held = np.append(0, np.cumsum(expected) / expected.sum())
    assert held[len(values)] >= variance > held[len(values) - 1]
    np.testing.assert_allclose(values, expected[: len(values)], rtol=1e-4)
    alignment = np.abs(np.sum(directions[: len(values)].T * vectors, axis=0))
    np.testing.assert_allclose(alignment, 1, atol=1e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-4)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_points_that_are_all_one_have_finite_components(shape):
    values, vectors = fitted._principal_components(np.zeros(shape, np.float32), 0.98)
    np.testing.assert_array_equal(values, 0)
    assert np.all(np.isfinite(vectors))
