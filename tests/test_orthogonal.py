"""Random orthogonal filters, calibrated: what they promise, for both networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuart_jax.models import MODELS
from neuart_jax.models.params.catalog import CAFFE, FITTED
from neuart_jax.models.params.fitted.calibration import PIXEL_UNIT, standardize
from neuart_jax.models.params.fitted.fitted import make_fit_batch
from neuart_jax.models.params.fitted.orthogonal import (
    _orthonormalize,
    draw_orthogonal,
    random_variables,
)

pytestmark = pytest.mark.slow

UNIT = {"vgg19": PIXEL_UNIT, "resnet50": 1.0}
OPTIONS = {"vgg19": {"pooling": "average", "padding": "reflect"}, "resnet50": {}}
SHALLOW = {"vgg19": "relu3_3", "resnet50": "conv3_block2_out"}


def draw(model, batch, *, layer="", seed=0, **options):
    factory = functools.partial(MODELS[model].make_module, **(OPTIONS[model] | options))
    return random_variables(factory, batch, layers=(layer or SHALLOW[model],), seed=seed)


def kernels(variables):
    return {
        name: np.asarray(leaves["kernel"], np.float64).reshape(-1, leaves["kernel"].shape[-1])
        for name, leaves in variables["params"].items()
        if "kernel" in leaves
    }


def directions(variables):
    return {name: k / np.linalg.norm(k, axis=0) for name, k in kernels(variables).items()}


@pytest.fixture(scope="module")
def batch(content_image, style_image):
    return make_fit_batch([content_image, style_image], longest_side=48)


@pytest.fixture(scope="module")
def variables_of(batch):
    return functools.cache(functools.partial(draw, batch=batch))


@pytest.mark.parametrize("shape", [(7, 7), (30, 8), (200, 3), (5, 1)])
def test_orthonormal_columns_are_those_of_the_qr_decomposition(shape):
    columns = np.random.default_rng(1).standard_normal(shape)
    q, r = np.linalg.qr(columns)
    np.testing.assert_allclose(_orthonormalize(columns), q * np.sign(np.diag(r)), atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 3, 3, 64), (3, 3, 16, 20), (1, 1, 64, 64), (1, 1, 8, 32)])
def test_kernels_are_orthogonal_in_columns_or_rows(shape):
    kernel = draw_orthogonal(shape, np.random.default_rng(0))
    assert kernel.shape == shape
    assert kernel.dtype == np.float32
    flat = kernel.reshape(-1, shape[-1])
    if len(flat) < shape[-1]:
        flat = flat.T
    np.testing.assert_allclose(flat.T @ flat, np.eye(flat.shape[1]), atol=1e-5)


def test_no_direction_is_preferred():
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_orthogonal((1, 1, 3, 2), rng)[0, 0] for _ in range(4000)])
    # Uniform on the sphere in 3 dimensions: mean 0, mean square 1/3, every coordinate uniform.
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.04)
    np.testing.assert_allclose((drawn**2).mean(axis=0), 1 / 3, atol=0.02)
    np.testing.assert_allclose((drawn < 0.5).mean(axis=0), 0.75, atol=0.03)


@pytest.mark.parametrize("model", OPTIONS)
def test_every_convolution_responds_with_mean_0_and_the_same_deviation(batch, variables_of, model):
    variables = variables_of(model)
    convolutions = tuple(kernels(variables))
    assert len(convolutions) == {"vgg19": 7, "resnet50": 18}[model]
    module = MODELS[model].make_module(**OPTIONS[model])
    apply = jax.jit(functools.partial(module.apply, layers=convolutions))
    for name, responses in apply(variables, standardize(batch, FITTED)).items():
        responses = np.asarray(responses, np.float64) / UNIT[model]
        np.testing.assert_allclose(responses.mean(axis=(0, 1, 2)), 0, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(responses.std(axis=(0, 1, 2)), 1, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("model", OPTIONS)
def test_the_columns_stay_orthogonal_under_calibration(variables_of, model):
    wide = [name for name, k in kernels(variables_of(model)).items() if k.shape[0] < k.shape[1]]
    assert (
        wide
        == {
            "vgg19": ["conv1_1"],
            "resnet50": [
                *("conv2_block1_0_conv", "conv2_block1_3_conv", "conv2_block2_3_conv"),
                *("conv2_block3_3_conv", "conv3_block1_0_conv"),
                *("conv3_block1_3_conv", "conv3_block2_3_conv"),
            ],
        }[model]
    )
    for name, columns in directions(variables_of(model)).items():
        if name not in wide:
            inner = columns.T @ columns
            np.testing.assert_allclose(inner, np.eye(len(inner)), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("model", OPTIONS)
def test_the_same_pictures_and_seed_give_the_same_variables(batch, variables_of, model):
    again = draw(model, batch)
    jax.tree.map(np.testing.assert_array_equal, variables_of(model), again)


@pytest.mark.parametrize("model", OPTIONS)
def test_pictures_change_scales_and_biases_and_never_directions(batch, variables_of, model):
    first, other = variables_of(model), draw(model, batch[:, ::-1] ** 2)
    other_directions = directions(other)
    for name, columns in directions(first).items():
        np.testing.assert_allclose(columns, other_directions[name], atol=1e-6, err_msg=name)
        for part in ("kernel", "bias"):
            assert not np.allclose(first["params"][name][part], other["params"][name][part])


def test_the_seed_and_the_place_in_the_network_change_directions(batch, variables_of):
    first, other = directions(variables_of("vgg19")), directions(draw("vgg19", batch, seed=1))
    for name, columns in first.items():
        assert np.abs(columns - other[name]).max() > 0.05, name
    assert first["conv3_2"].shape == first["conv3_3"].shape
    assert np.abs(first["conv3_2"] - first["conv3_3"]).max() > 0.05


def test_a_shallower_network_has_the_same_filters(batch, variables_of):
    shallow = draw("resnet50", batch, layer="conv2_block2_1_relu")["params"]
    deep = variables_of("resnet50")["params"]
    assert list(shallow) == list(deep)[: len(shallow)]
    for name, leaves in shallow.items():
        jax.tree.map(np.testing.assert_array_equal, leaves, deep[name])


@pytest.mark.parametrize("model", OPTIONS)
def test_a_whole_network_has_its_shapes_and_activations_neither_fade_nor_grow(batch, model):
    module = MODELS[model].make_module(**OPTIONS[model])
    variables = draw(model, batch, layer=MODELS[model].layer_names[-1])
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((64, 64, 3)))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)
    layers = tuple(
        name for name in MODELS[model].layer_names if name.endswith("out") or name[:4] == "relu"
    )
    assert len(layers) == 16
    features = jax.jit(functools.partial(module.apply, layers=layers))(
        variables, standardize(batch, FITTED)
    )
    for name, feature in features.items():
        # A sum of residuals grows as the root of the number of blocks since the last projection.
        low, high = {"vgg19": (0.45, 0.75), "resnet50": (0.6, 2)}[model]
        assert low < np.std(feature) / UNIT[model] < high, name
        assert np.max(feature) < 60 * np.mean(feature), name


@pytest.mark.parametrize("model", OPTIONS)
def test_a_constant_picture_leaves_the_scale_and_takes_the_response_away(model):
    gray = np.full((2, 24, 24, 3), 0.3, np.float32)
    variables = draw(model, gray, layer="conv1_1" if model == "vgg19" else "conv1_conv")
    (kernel,) = kernels(variables).values()
    kernel = kernel / UNIT[model]
    if model == "vgg19":  # reflected borders, so that the response is the same everywhere
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(len(kernel)), atol=1e-5)
    deep = draw(model, gray)
    module = MODELS[model].make_module(**OPTIONS[model])
    features = module.apply(deep, standardize(gray, FITTED), layers=(SHALLOW[model],))
    assert np.all(np.isfinite(features[SHALLOW[model]]))
    assert np.abs(features[SHALLOW[model]]).max() < 30 * UNIT[model]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardizing_is_what_the_published_networks_say(dtype):
    image = np.random.default_rng(0).random((4, 5, 3)).astype(dtype)
    result = standardize(image, CAFFE)
    assert result.dtype == dtype
    expected = image.astype(np.float64) * 255 - [[[123.68, 116.779, 103.939]]]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 if dtype is np.float32 else 1e-9)
