"""The networks against Keras, layer by layer, and against literal array code."""

import functools
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import flax.errors
import flax.linen
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from neuart_jax.config.errors import InputError
from neuart_jax.models import (
    MODELS,
    NetworkParams,
    check_image_size,
    find_architecture,
    resnet50,
    resolve_layers,
    vgg,
)
from neuart_jax.models.features import make_feature_fn
from neuart_jax.models.layers import collect_layers, pool, pool_overlapping
from neuart_jax.models.params.canonical import flatten, nest
from neuart_jax.models.params.catalog import CAFFE
from neuart_jax.models.params.formats.convert import read_weights

pytestmark = pytest.mark.slow

SIZES = ((64, 64), (67, 93))
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def relative_error(ours, reference):
    assert ours.shape == reference.shape
    return float(np.abs(np.asarray(ours) - reference).max() / np.abs(reference).max())


def random_image(height, width, *, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def make_params(variables, normalization=CAFFE):
    mean, std = normalization
    variables = jax.tree.map(jnp.asarray, nest(variables))
    return NetworkParams(variables, jnp.asarray(mean), jnp.asarray(std))


def random_variables(model, *, seed=0):
    """Numbers for a whole network, such that activations stay near 1 for inputs near 1."""
    rng = np.random.default_rng(seed)
    module = MODELS[model].make_module()
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((64, 64, 3)))
    variables = {}
    for path, leaf in flatten(shapes).items():
        kind = path.rpartition("/")[2]
        if kind == "kernel":
            array = rng.standard_normal(leaf.shape, np.float32)
            array *= np.sqrt(2 / np.prod(leaf.shape[:3]))
        elif kind in ("var", "scale"):
            array = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            array = rng.normal(0, 0.1, leaf.shape)
        variables[path] = array.astype(np.float32)
    return variables


@pytest.fixture(scope="module")
def variables_of():
    return functools.cache(random_variables)


class KerasCase(NamedTuple):
    """A Keras model's random weights in a file, and what it computes from pictures.

    Attributes:
      model: row of `MODELS`.
      layer_names: Keras' names of all layers but the input.
      path: what `model.save` wrote.
      activations: size of the picture to the activations, in the order of the layers.
    """

    model: str
    layer_names: tuple[str, ...]
    path: Any
    activations: dict[tuple[int, int], list[np.ndarray]]


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        import keras

        assert keras.config.backend() == os.environ["KERAS_BACKEND"]
        return keras


def randomize(model, *, seed):
    """Give a Keras model weights of all magnitudes under which activations stay near 1.

    The channels that feed a batch normalization have spreads from 0.001 to 1, so that its epsilon
    matters in some.
    """
    rng = np.random.default_rng(seed)
    layers = {layer.name: layer for layer in model.layers}
    for layer in model.layers:
        shapes = [tuple(variable.shape) for variable in layer.weights]
        if len(shapes) == 2:
            kernel = rng.standard_normal(shapes[0]) * np.sqrt(2 / np.prod(shapes[0][:3]))
            if shapes[0][2] == 3:
                kernel /= 64  # The pictures' values go from -124 to 151.
            layer.set_weights([kernel, rng.normal(0, 0.1, shapes[1])])
    for name, layer in layers.items():
        if len(layer.weights) == 4:
            shape = tuple(layer.weights[0].shape)
            spread = 10 ** rng.uniform(-3, 0, shape)
            convolution = layers[name.replace("_bn", "_conv")]
            kernel, bias = (np.asarray(v.value) * spread for v in convolution.weights)
            convolution.set_weights([kernel, bias])
            gamma = rng.uniform(0.5, 1.5, shape) * (0.3 if name.endswith("3_bn") else 1)
            beta, mean = rng.normal(0, 0.2, shape), rng.normal(0, 0.2, shape) * spread
            layer.set_weights([gamma, beta, mean, rng.uniform(0.5, 2, shape) * spread**2])


@pytest.fixture(scope="module", params=MODELS)
def keras_case(request, keras, tmp_path_factory):
    build = {
        "vgg19": keras.applications.VGG19,
        "vgg16": keras.applications.VGG16,
        "resnet50": keras.applications.ResNet50,
    }
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.h5"
    with warnings.catch_warnings(), jax.default_matmul_precision("highest"):
        warnings.simplefilter("ignore")
        model = build[request.param](weights=None, include_top=False, input_shape=(None, None, 3))
        randomize(model, seed=3)
        model.save(path)
        model.save(path.with_suffix(".keras"))
        model.save_weights(path.with_suffix(".weights.h5"))
        layers = [x for x in model.layers if not isinstance(x, keras.layers.InputLayer)]
        every = keras.Model(model.inputs, [layer.output for layer in layers])
        trainable = [variable.value for variable in every.trainable_variables]
        frozen = [variable.value for variable in every.non_trainable_variables]
        apply = jax.jit(lambda t, f, x: every.stateless_call(t, f, x, training=False)[0])
        activations = {}
        for size in SIZES:
            inputs = keras_inputs(keras, request.param, random_image(*size))
            outputs = apply(trainable, frozen, inputs)
            activations[size] = [np.asarray(output)[0] for output in outputs]
    return KerasCase(request.param, tuple(x.name for x in layers), path, activations)


def keras_inputs(keras, model, image):
    """Blue, green, red from 0 to 255, minus the mean pixel."""
    module = getattr(keras.applications, model)
    return module.preprocess_input(np.float32(255) * image[None])


def errors_per_layer(case, size, features):
    activations = dict(zip(case.layer_names, case.activations[size], strict=True))
    errors = {}
    for name, reference in activations.items():
        ours = features[resolve_layers(case.model, [name])[0]]
        assert 0.01 < np.std(reference) < (10 if name != "conv1_pad" else 100), name
        errors[name] = relative_error(ours, reference)
    return errors


@pytest.mark.parametrize("kind", [".weights.h5", ".keras", ".weights.h5 before Keras 3.6"])
def test_keras_own_newer_files_hold_the_same_bits(keras_case, kind, tmp_path):
    legacy = read_weights(keras_case.path, model=keras_case.model)
    path = keras_case.path.with_suffix(kind.split()[0])
    if kind.endswith("3.6"):
        path = shutil.copy(path, tmp_path / "weights.h5")
        with h5py.File(path, "a") as file:
            for group in file["layers"].values():
                del group["vars"].attrs["name"]
    newer = read_weights(Path(path), model=keras_case.model)
    assert sorted(newer.variables) == sorted(legacy.variables)
    for name, array in newer.variables.items():
        np.testing.assert_array_equal(array, legacy.variables[name], err_msg=name)
    assert newer[1:3] == legacy[1:3]


# VGG reads its colors in the other order than Keras, and sums them in that order: float32
# rounding alone makes 1.2e-6 of that with AVX-512, 2.2e-6 without. In Keras' order, below, the
# numbers are Keras' own.
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_keras_file_gives_keras_features_in_every_layer(keras_case, size):
    bar = {"vgg": 4e-6, "resnet": 1e-5}[MODELS[keras_case.model].family]
    names = resolve_layers(keras_case.model, keras_case.layer_names)
    weights = read_weights(keras_case.path, model=keras_case.model)
    module = MODELS[keras_case.model].make_module()
    feature_fn = jax.jit(make_feature_fn(module, names))
    params = make_params(weights.variables, weights.normalization)
    features = feature_fn(params, random_image(*size))
    if "conv1_pad" in features:
        features["conv1_pad"] = features["conv1_pad"][..., ::-1]
    errors = errors_per_layer(keras_case, size, features)
    worst = max(errors, key=errors.get)
    assert errors[worst] <= bar, f"{worst}: {errors[worst]:.2e}"


@pytest.mark.parametrize("keras_case", ["vgg19", "vgg16"], indirect=True)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_with_keras_order_of_the_colors_the_features_are_keras_own(keras, keras_case, size):
    model = keras_case.model
    names = resolve_layers(model, keras_case.layer_names)
    variables = read_weights(keras_case.path, model=model).variables
    variables["params/conv1_1/kernel"] = variables["params/conv1_1/kernel"][:, :, ::-1]
    module = MODELS[model].make_module()
    inputs = keras_inputs(keras, model, random_image(*size))[0]
    features = jax.jit(functools.partial(module.apply, layers=names))(
        make_params(variables).variables, inputs
    )
    errors = errors_per_layer(keras_case, size, features)
    worst = max(errors, key=errors.get)
    assert errors[worst] <= 1e-6, f"{worst}: {errors[worst]:.2e}"


def test_every_layer_that_keras_names_is_ours_too(keras_case):
    resolved = resolve_layers(keras_case.model, keras_case.layer_names)
    more = set(MODELS[keras_case.model].layer_names) - set(resolved)
    # Keras' VGG has one layer for a convolution and its ReLU.
    before_relu = {name.replace("relu", "conv") for name in resolved if name.startswith("relu")}
    assert more == before_relu


@pytest.mark.parametrize("model", MODELS)
def test_turning_the_first_kernel_around_is_exact(variables_of, model):
    name = {"vgg": "conv1_1", "resnet": "conv1_conv"}[MODELS[model].family]
    rng = np.random.default_rng(5)
    image = rng.random((21, 18, 3))
    module = MODELS[model].make_module()
    kernel = variables_of(model)[f"params/{name}/kernel"].astype(np.float64)
    bias = rng.standard_normal(64)
    blue_green_red = image[..., ::-1] * 255 - np.array([103.939, 116.779, 123.68])
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        keras_way, our_way = (
            make_params({f"params/{name}/kernel": k, f"params/{name}/bias": bias})
            for k in (kernel, kernel[:, :, ::-1])
        )
        reference = module.apply(keras_way.variables, blue_green_red, layers=(name,))[name]
        ours = make_feature_fn(module, (name,))(our_way, image)[name]
        assert ours.dtype == np.float64
        assert relative_error(ours, reference) < 1e-13
    finally:
        jax.config.update("jax_enable_x64", before)


def expected_shape(model, layer, height, width):
    stride = MODELS[model].layer_stride(layer)
    if MODELS[model].family == "vgg":
        return (height // stride, width // stride)
    margin = {"conv1_pad": 6, "pool1_pad": 2}.get(layer, 0)
    return (-(-height // stride) + margin, -(-width // stride) + margin)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (67, 93), (35, 32)])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["single", "batch"])
@pytest.mark.parametrize("model", MODELS)
def test_all_layers_come_in_order_with_the_shape_their_stride_implies(model, batch, height, width):
    module = MODELS[model].make_module()
    image = jnp.zeros((*batch, height, width, 3))
    order = []

    def run(key):
        features, _ = module.init_with_output(key, image)
        order.extend(features)
        return features

    features = jax.eval_shape(run, jax.random.key(0))
    assert tuple(order) == MODELS[model].layer_names
    for name, feature in features.items():
        assert feature.shape[:-1] == (*batch, *expected_shape(model, name, height, width)), name


@pytest.mark.parametrize(("model", "count"), [("vgg19", 20_024_384), ("vgg16", 14_714_688)])
def test_vgg_has_the_published_channels_and_number_of_parameters(model, count):
    module = vgg.VGG(model)
    shapes = flatten(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((32, 32, 3))))
    assert sum(np.prod(leaf.shape) for leaf in shapes.values()) == count
    assert shapes["params/conv3_1/kernel"].shape == (3, 3, 128, 256)


def test_resnet50_has_the_published_number_of_parameters():
    shapes = flatten(
        jax.eval_shape(resnet50.ResNet50().init, jax.random.key(0), jnp.zeros((32, 32, 3)))
    )
    assert sum(np.prod(leaf.shape) for leaf in shapes.values()) == 23_587_712


SHALLOW = {
    "vgg19": ("conv1_1", "relu1_2", "pool1", "relu2_1"),
    "vgg16": ("conv1_1", "relu1_2", "pool1", "block2_conv1"),
    "resnet50": ("conv1_bn", "stem", "conv2_block1_out"),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_equals_its_pictures_one_by_one(variables_of, model):
    layers = resolve_layers(model, SHALLOW[model])
    feature_fn = jax.jit(make_feature_fn(MODELS[model].make_module(), layers))
    params = make_params(variables_of(model))
    images = np.stack([random_image(24, 31, seed=seed) for seed in range(3)])
    together = feature_fn(params, images)
    for index, image in enumerate(images):
        alone = feature_fn(params, image)
        for name in layers:
            assert alone[name].ndim == 3
            assert relative_error(together[name][index], np.asarray(alone[name])) < 1e-6


def test_relu_layers_are_the_convolutions_cut_at_zero(variables_of):
    layers = ("conv1_1", "relu1_1", "conv1_2", "relu1_2")
    features = vgg.VGG().apply(
        nest(variables_of("vgg19")), random_image(9, 11) - 0.5, layers=layers
    )
    for index in ("1_1", "1_2"):
        assert np.asarray(features[f"conv{index}"]).min() < -0.1
        np.testing.assert_array_equal(
            features[f"relu{index}"], np.maximum(features[f"conv{index}"], 0)
        )


def plain_convolution(features, variables, name, *, stride=1, padding=0, mode="constant"):
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    outputs = lax.conv_general_dilated(
        jnp.pad(features, margins, mode=mode),
        variables[f"params/{name}/kernel"],
        (stride, stride),
        "VALID",
        dimension_numbers=DIMENSIONS,
    )
    return outputs + variables[f"params/{name}/bias"].reshape(1, 1, 1, -1)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (16, 16), (17, 22)])
def test_reflect_padding_equals_padding_by_hand(variables_of, height, width):
    variables = variables_of("vgg19")
    image = random_image(height, width) - 0.5
    layers = ("relu1_1", "relu1_2")
    features = vgg.VGG(padding="reflect").apply(nest(variables), image, layers=layers)
    zero_padded = vgg.VGG(padding="zero").apply(nest(variables), image, layers=layers)
    reference = image[None]
    for layer in layers:
        reference = plain_convolution(
            reference, variables, layer.replace("relu", "conv"), padding=1, mode="reflect"
        )
        reference = np.maximum(reference, 0)
        assert relative_error(features[layer], reference[0]) < 1e-6
        assert relative_error(zero_padded[layer], reference[0]) > 1e-2


@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 8, 6, 3), (1, 7, 9, 2), (1, 1, 4, 1)])
@pytest.mark.parametrize(("kind", "reduce"), [("average", np.mean), ("max", np.max)])
def test_pooling_equals_a_loop_over_windows(shape, kind, reduce):
    inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    batch, height, width, channels = shape
    reference = np.zeros((batch, height // 2, width // 2, channels), np.float32)
    for row in range(height // 2):
        for column in range(width // 2):
            window = inputs[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            reference[:, row, column] = reduce(window, axis=(1, 2))
    np.testing.assert_allclose(pool(inputs, kind=kind), reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("pooling", "side", "shape"),
    [
        (functools.partial(pool, kind="max"), 2, (2, 7, 6, 3)),
        (pool_overlapping, 3, (2, 7, 9, 3)),
        (pool_overlapping, 3, (1, 8, 4, 2)),
        (pool_overlapping, 3, (1, 3, 3, 1)),
    ],
)
def test_maxima_and_their_gradients_are_those_of_a_window_reduction(pooling, side, shape):
    inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    # Of equal elements, the first takes the gradient; zeros are frequent after a ReLU.
    for values in (inputs, np.maximum(inputs, 0), np.ones(shape, np.float32)):
        found, pull_back = jax.vjp(pooling, values)
        reference, pull_reference_back = jax.vjp(
            lambda x: flax.linen.max_pool(x, (side, side), strides=(2, 2)), values
        )
        np.testing.assert_array_equal(found, reference)
        cotangent = np.random.default_rng(1).standard_normal(found.shape).astype(np.float32)
        expected = pull_reference_back(cotangent)[0]
        np.testing.assert_allclose(pull_back(cotangent)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (2, 2)])
def test_maxima_pass_on_what_is_no_number(place):
    inputs = jnp.ones((1, 3, 3, 1)).at[0, *place].set(jnp.nan)
    assert np.isnan(pool_overlapping(inputs)).all()
    if max(place) < 2:
        assert np.isnan(pool(inputs, kind="max")).all()


def test_average_pooling_replaces_every_pooling_of_vgg19(variables_of):
    image = random_image(10, 13) - 0.5
    layers = ("relu1_2", "pool1", "relu2_2", "pool2")
    features = vgg.VGG(pooling="average").apply(nest(variables_of("vgg19")), image, layers=layers)
    for block in (1, 2):
        before = np.asarray(features[f"relu{block}_2"])
        height, width = (side // 2 * 2 for side in before.shape[:2])
        corners = [before[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
        pooled = np.mean(corners, axis=0)
        np.testing.assert_allclose(features[f"pool{block}"], pooled, rtol=1e-5, atol=1e-6)


def plain_batch_norm(features, variables, name):
    per_channel = (1, 1, 1, -1)
    scale, bias, mean, var = (
        variables[path].reshape(per_channel)
        for path in (
            f"params/{name}/scale",
            f"params/{name}/bias",
            f"batch_stats/{name}/mean",
            f"batch_stats/{name}/var",
        )
    )
    return (features - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def mean_of_windows(features):
    return lax.reduce_window(features, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def resnet_written_out(variables, image, *, stride_on="3x3", pooling="max", padding="zero"):
    """ResNet50's first two stages, by default "V1.5": the stride lies on the 3x3 convolution."""
    mode = {"zero": "constant", "reflect": "reflect"}[padding]
    on_first, on_second = (2, 1) if stride_on == "1x1" else (1, 2)

    def conv_bn(features, name, *, stride=1, **options):
        step = stride if pooling == "max" else 1
        convolved = plain_convolution(
            features, variables, f"{name}_conv", stride=step, mode=mode, **options
        )
        if step < stride:
            convolved = mean_of_windows(convolved)
        return plain_batch_norm(convolved, variables, f"{name}_bn")

    layers = {}
    features = jnp.maximum(conv_bn(image[None], "conv1", stride=2, padding=3), 0)
    layers["conv1_relu"] = features
    if pooling == "average":
        features = mean_of_windows(features)
    else:
        margins = ((0, 0), (1, 1), (1, 1), (0, 0))
        features = lax.reduce_window(
            features, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), margins
        )
    layers["pool1_pool"] = features
    for stage, num_blocks in ((2, 3), (3, 4)):
        for block in range(1, num_blocks + 1):
            name = f"conv{stage}_block{block}"
            halves = (stage, block) == (3, 1)
            first, second = (on_first, on_second) if halves else (1, 1)
            shortcut = features
            if block == 1:
                shortcut = conv_bn(features, f"{name}_0", stride=2 if halves else 1)
            features = jnp.maximum(conv_bn(features, f"{name}_1", stride=first), 0)
            layers[f"{name}_1_relu"] = features
            features = jnp.maximum(conv_bn(features, f"{name}_2", stride=second, padding=1), 0)
            layers[f"{name}_2_relu"] = features
            features = jnp.maximum(conv_bn(features, f"{name}_3") + shortcut, 0)
            layers[f"{name}_out"] = features
    return {name: feature[0] for name, feature in layers.items()}


# Keras has the remaining one: the stride on the 1x1, maxima and zeros.
@pytest.mark.parametrize(
    ("stride_on", "pooling", "padding", "height", "width"),
    [
        ("3x3", "max", "zero", 32, 32),
        ("3x3", "max", "zero", 45, 66),
        ("3x3", "max", "reflect", 37, 50),
        ("1x1", "max", "reflect", 37, 50),
        ("3x3", "average", "zero", 37, 50),
        ("3x3", "average", "reflect", 45, 66),
        ("1x1", "average", "zero", 32, 32),
        ("1x1", "average", "reflect", 37, 50),
    ],
)
def test_resnet50_equals_it_written_out(variables_of, stride_on, pooling, padding, height, width):
    variables = variables_of("resnet50")
    image = random_image(height, width) - 0.5
    options = {"stride_on": stride_on, "pooling": pooling, "padding": padding}
    reference = jax.jit(functools.partial(resnet_written_out, **options))(variables, image)
    module = resnet50.ResNet50(**options)
    apply = jax.jit(functools.partial(module.apply, layers=tuple(reference)))
    features = apply(nest(variables), image)
    for name, expected in reference.items():
        assert relative_error(features[name], np.asarray(expected)) < 1e-5, name


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@pytest.mark.parametrize("flat", [False, True])
def test_averaging_resnet50_overlooks_no_pixel(variables_of, stride_on, flat):
    """Strides leave positions out; means don't, but for an odd last row or column."""
    layer = "conv3_block1_out"
    module = resnet50.ResNet50(stride_on=stride_on, pooling="average", padding="reflect")
    variables = nest(keep_until("resnet50", variables_of("resnet50"), layer))
    image = np.full((33, 42, 3), 0.3, np.float32) if flat else random_image(33, 42)

    @jax.jit
    @jax.grad
    def gradient_fn(image):
        return jnp.sum(module.apply(variables, image, layers=(layer,))[layer] ** 2)

    gradient = np.asarray(gradient_fn(image))
    assert np.all(np.isfinite(gradient))
    assert np.min(np.abs(gradient[:32, :40]).max(axis=-1)) > 1e-4 * np.abs(gradient).max()


def test_averaging_resnet50_halves_every_layer_downwards():
    module = resnet50.ResNet50(pooling="average")
    order = []

    def run(key):
        features, _ = module.init_with_output(key, jnp.zeros((70, 93, 3)))
        order.extend(features)
        return features

    features = jax.eval_shape(run, jax.random.key(0))
    assert tuple(order) == resnet50.layer_names()
    for name, feature in features.items():
        stride, margin = resnet50.layer_stride(name), 6 if name == "conv1_pad" else 0
        assert feature.shape[:2] == (70 // stride + margin, 93 // stride + margin), name


@pytest.mark.parametrize(("height", "width"), [(64, 96), (67, 93)])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("vgg19", {"pooling": "max"}),
        ("vgg19", {"pooling": "average"}),
        ("vgg16", {"pooling": "max"}),
        ("resnet50", {"pooling": "max"}),
        ("resnet50", {"pooling": "average"}),
        ("resnet50", {"pooling": "max", "stride_on": "3x3"}),
        ("resnet50", {"pooling": "average", "stride_on": "3x3"}),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else value,
)
def test_shapes_of_layers_are_those_that_are_computed(model, options, height, width):
    image = jnp.zeros((height, width, 3))
    module = MODELS[model].make_module(**options)
    features = jax.eval_shape(lambda key: module.init_with_output(key, image)[0], jax.random.key(0))
    shapes = MODELS[model].layer_shapes(height=height, width=width, **options)
    assert tuple(shapes) == MODELS[model].layer_names
    assert shapes == {name: feature.shape for name, feature in features.items()}


def keep_until(model, variables, layer):
    """Drop the parameters of the layers after one."""
    names = MODELS[model].layer_names
    kept = set(names[: names.index(layer) + 1])
    return {path: array for path, array in variables.items() if path.split("/")[1] in kept}


@pytest.mark.parametrize(
    ("model", "layer", "deeper"),
    [
        ("vgg19", "conv1_1", "conv1_2"),
        ("vgg19", "relu2_1", "conv2_2"),
        ("vgg19", "pool1", "conv2_1"),
        ("resnet50", "conv1_conv", "conv1_bn"),
        ("resnet50", "conv2_block1_out", "conv2_block2_1_conv"),
    ],
)
def test_parameters_may_end_at_the_deepest_layer_asked_for(variables_of, model, layer, deeper):
    module, image = MODELS[model].make_module(), random_image(18, 20)
    variables = variables_of(model)
    ended = nest(keep_until(model, variables, layer))
    np.testing.assert_array_equal(
        module.apply(ended, image, layers=(layer,))[layer],
        module.apply(nest(variables), image, layers=(layer,))[layer],
    )
    with pytest.raises((flax.errors.ScopeParamNotFoundError, flax.errors.ScopeCollectionNotFound)):
        module.apply(ended, image, layers=(layer, deeper))


@pytest.mark.parametrize(
    ("model", "layers", "count"),
    [
        ("vgg19", ("relu1_1",), 1),
        ("vgg19", ("pool1", "conv1_1"), 2),
        ("resnet50", ("stem",), 1),
        ("resnet50", ("pool1_pool",), 1),
        ("resnet50", ("conv2_block1_out",), 5),
    ],
)
def test_nothing_deeper_than_asked_for_is_traced(variables_of, model, layers, count):
    module = MODELS[model].make_module()
    apply = functools.partial(module.apply, layers=resolve_layers(model, layers))
    program = str(jax.make_jaxpr(apply)(nest(variables_of(model)), random_image(8, 8)))
    assert program.count("conv_general_dilated[") == count


def test_collecting_stops_at_the_last_wanted_layer():
    def layers():
        yield "first", jnp.ones((1, 2, 2, 1))
        yield "second", jnp.zeros((1, 2, 2, 1))
        raise AssertionError("went on")

    assert list(collect_layers(layers(), ("first",), batched=False)) == ["first"]
    both = collect_layers(layers(), ("second", "first", "second"), batched=True)
    assert list(both) == ["first", "second"]
    assert both["first"].shape == (1, 2, 2, 1)
    assert collect_layers(layers(), (), batched=False) == {}


@pytest.mark.parametrize(
    ("model", "alias", "name"),
    [
        ("vgg19", "block1_conv1", "relu1_1"),
        ("vgg19", "block4_conv2", "relu4_2"),
        ("vgg16", "block4_conv3", "relu4_3"),
        ("vgg19", "block3_pool", "pool3"),
        ("vgg19", "conv4_2", "conv4_2"),
        ("resnet50", "stem", "conv1_relu"),
        ("resnet50", "conv4_block6_out", "conv4_block6_out"),
    ],
)
def test_aliases_stand_for_our_names(model, alias, name):
    assert resolve_layers(model, [alias]) == (name,)


def test_resolving_keeps_the_order_given():
    assert resolve_layers("vgg19", ["pool2", "block1_conv1"]) == ("pool2", "relu1_1")


@pytest.mark.parametrize(
    ("model", "wrong", "close"),
    [
        ("vgg19", "relu4_5", "relu4_4"),
        ("vgg16", "relu4_4", "relu4_3"),
        ("vgg19", "block4_conv9", "block4_conv"),
        ("vgg19", "pool6", "pool5"),
        ("resnet50", "conv4_block7_out", "conv4_block6_out"),
        ("resnet50", "stm", "stem"),
        ("resnet50", "relu2_1", "--model=vgg19, which has it, or a layer such as 'conv1_"),
    ],
)
def test_a_layer_that_is_not_there_is_answered_with_the_nearest(model, wrong, close):
    with pytest.raises(InputError, match=f"{model} has no layer '{wrong}'; .*{close}"):
        resolve_layers(model, ["relu1_1" if model != "resnet50" else "conv1_relu", wrong])


@pytest.mark.parametrize("wrong", ["vgg17", "resnet", ""])
def test_a_model_that_is_not_there_is_answered_with_the_known_ones(wrong):
    with pytest.raises(InputError, match=f"model '{wrong}' is not known; .*vgg19, vgg16, resnet50"):
        find_architecture(wrong)


AVERAGE_REFLECT = {"pooling": "average", "padding": "reflect"}


@pytest.mark.parametrize(
    ("model", "options", "layers", "smallest"),
    [
        ("vgg19", {"padding": "zero"}, ("relu1_1",), 1),
        ("vgg19", {"padding": "zero"}, ("relu2_1", "conv1_1"), 2),
        ("vgg19", {"padding": "zero"}, ("relu1_1", "pool5"), 32),
        ("vgg19", {"padding": "reflect"}, ("relu1_1",), 2),
        ("vgg19", {"padding": "reflect"}, ("relu1_1", "relu2_1"), 4),
        ("vgg19", {"padding": "reflect"}, ("relu5_1",), 32),
        ("resnet50", {"padding": "zero"}, ("conv1_relu",), 2),
        ("resnet50", {"padding": "zero"}, ("pool1_pad",), 2),
        ("resnet50", {"padding": "zero", "pooling": "average"}, ("pool1_pad",), 2),
        ("resnet50", {"padding": "reflect"}, ("conv1_relu", "conv1_pad"), 4),
        ("resnet50", {"padding": "reflect"}, ("conv2_block1_out",), 8),
        ("resnet50", {"padding": "zero", "pooling": "average"}, ("conv3_block1_out",), 8),
        ("resnet50", AVERAGE_REFLECT, ("conv3_block1_out", "conv1_pad"), 16),
        ("resnet50", AVERAGE_REFLECT | {"stride_on": "3x3"}, ("conv3_block1_out",), 16),
    ],
)
def test_the_smallest_picture_that_passes_also_runs(variables_of, model, options, layers, smallest):
    padding = options["padding"]

    def check(height, width):
        check_image_size(
            model, layers, height=height, width=width, padding=padding, name="the content"
        )

    apply = jax.jit(functools.partial(MODELS[model].make_module(**options).apply, layers=layers))
    check(smallest, smallest)
    check(smallest, 2 * smallest + 1)
    check(2 * smallest + 1, smallest)
    features = apply(nest(variables_of(model)), random_image(smallest, smallest))
    for name in layers:
        assert features[name].size > 0
        assert np.all(np.isfinite(features[name]))
    for height, width in ((smallest - 1, 5 * smallest), (5 * smallest, smallest - 1)):
        with pytest.raises(InputError) as caught:
            check(height, width)
        assert str(caught.value).startswith(f"the content is {width}x{height} pixels; ")
        deepest = max(layers, key=MODELS[model].layer_stride)
        assert f"at least {smallest} pixels per side for the layer {deepest}" in str(caught.value)


def test_one_pixel_less_than_the_smallest_leaves_nothing(variables_of):
    features = vgg.VGG().apply(
        keep_shallow := nest(keep_until("vgg19", variables_of("vgg19"), "pool2")),
        random_image(3, 16),
        layers=("pool2",),
    )
    assert set(keep_shallow["params"]) == {"conv1_1", "conv1_2", "conv2_1", "conv2_2"}
    assert features["pool2"].shape == (0, 4, 128)
