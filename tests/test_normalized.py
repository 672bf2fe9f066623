"""The normalized VGG against hand-derived numbers and against the network that it came from."""

import functools
import weakref

import jax
import numpy as np
import pytest
import scipy.signal

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS
from neuart_jax.models.params.catalog import CAFFE, FITTED
from neuart_jax.models.params.fitted import normalized
from neuart_jax.models.params.fitted.calibration import standardize

pytestmark = pytest.mark.slow

mean_activations = functools.partial(normalized.mean_activations, model="vgg19")
normalize_vgg = functools.partial(normalized.normalize_vgg, model="vgg19")

ALL_LAYERS = MODELS["vgg19"].layer_names
CONVOLUTIONS = tuple(name for name in ALL_LAYERS if name.startswith("conv"))
SIZES = ((32, 48), (41, 35))


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def make_variables(num_convolutions, *, seed=0, dtype=np.float32):
    """Make VGG19's parameters under which activations stay near those of the input."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        MODELS["vgg19"].make_module().init, jax.random.key(0), np.zeros((32, 32, 3))
    )
    params = {}
    for name in CONVOLUTIONS[:num_convolutions]:
        shape = shapes["params"][name]["kernel"].shape
        kernel = rng.standard_normal(shape, np.float32) * np.float32(
            (2 / np.prod(shape[:3])) ** 0.5
        )
        params[name] = {
            "kernel": kernel.astype(dtype),
            "bias": rng.normal(0.1, 0.2, shape[-1]).astype(dtype),
        }
    return {"params": params}


def make_images(sizes=SIZES, *, dtype=np.float32):
    rng = np.random.default_rng(5)
    return [rng.random((*size, 3)).astype(dtype) for size in sizes]


@functools.cache
def jitted(layers, **options):
    return jax.jit(functools.partial(MODELS["vgg19"].make_module(**options).apply, layers=layers))


def by_hand(inputs, kernel, bias):
    """Correlate with zeros around, add the bias, cut at zero: float[height, width, filters]."""
    outputs = [
        sum(
            scipy.signal.correlate2d(inputs[..., i], kernel[..., i, o], mode="same")
            for i in range(kernel.shape[2])
        )
        for o in range(kernel.shape[3])
    ]
    return np.maximum(np.stack(outputs, axis=-1) + bias, 0)


def test_two_layers_are_rescaled_as_derived_by_hand():
    variables = make_variables(2)
    first, second = (
        [variables["params"][name][part].astype(np.float64) for part in ("kernel", "bias")]
        for name in CONVOLUTIONS[:2]
    )
    images = make_images(((5, 4), (3, 7)))
    positions = [[], []]
    for image in images:
        standardized = (image.astype(np.float64) - 0.5) / 0.25
        hidden = by_hand(standardized, *first)
        positions[0].append(hidden.reshape(-1, 64))
        positions[1].append(by_hand(hidden, *second).reshape(-1, 64))
    means = [np.concatenate(some).mean(axis=0) for some in positions]
    assert min(mean.min() for mean in means) > 1e-3
    result = normalize_vgg(
        variables, iter(images), normalization=FITTED, pooling="max", padding="zero"
    )["params"]
    assert list(result) == ["conv1_1", "conv1_2"]
    expected = {
        "conv1_1": {"kernel": first[0] / means[0], "bias": first[1] / means[0]},
        "conv1_2": {
            "kernel": np.einsum("hwio,i,o->hwio", second[0], means[0], 1 / means[1]),
            "bias": second[1] / means[1],
        },
    }
    for name, leaves in expected.items():
        for part, array in leaves.items():
            assert result[name][part].dtype == np.float32
            np.testing.assert_allclose(result[name][part], array, rtol=2e-5)


CAFFE_LIKE = (CAFFE[0], (0.25, 0.25, 0.25))
"""Three different means, and inputs near 1, for which the parameters above are made."""


def scales_of(means, layer):
    """Return what a layer was divided by, float64[channels]: one for every filter never active."""
    block = layer.removeprefix("pool")
    name = (
        [c for c in means if c.startswith(f"conv{block}_")][-1]
        if layer.startswith("pool")
        else layer.replace("relu", "conv")
    )
    return np.where(means[name] > 0, means[name], 1)


def check_exactness(count, pooling, padding, *, dtype, tolerance):
    """Compare every layer that `count` convolutions give, on the images and on another one."""
    options = {"normalization": CAFFE_LIKE, "pooling": pooling, "padding": padding}
    layers = ALL_LAYERS[: ALL_LAYERS.index(f"relu{CONVOLUTIONS[count - 1][4:]}") + 2]
    apply = jitted(layers, pooling=pooling, padding=padding)
    variables, images = make_variables(count, dtype=dtype), make_images(dtype=dtype)
    means = mean_activations(variables, images, **options)
    assert tuple(means) == CONVOLUTIONS[:count]
    normalized = normalize_vgg(variables, images, **options)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), normalized) == jax.tree.map(
        lambda x: (x.shape, x.dtype), variables
    )
    positions = {name: [] for name in means}
    another = np.random.default_rng(9).random(images[0].shape).astype(dtype)
    for image in (*images, another):
        standardized = standardize(image, CAFFE_LIKE)
        before, after = (apply(some, standardized) for some in (variables, normalized))
        for layer in layers:
            restored = np.asarray(after[layer], np.float64) * scales_of(means, layer)
            error = np.abs(restored - before[layer]).max() / np.abs(before[layer]).max()
            assert error < tolerance, layer
            if layer.startswith("relu") and image is not another:
                some = np.asarray(after[layer], np.float64).reshape(-1, after[layer].shape[-1])
                positions[layer.replace("relu", "conv")].append(some)
    for name, mean in means.items():
        assert (mean > 0).mean() > 0.5, name
        error = np.concatenate(positions[name]).mean(axis=0) - (mean > 0)
        assert np.abs(error * mean).max() / mean.max() < tolerance, name


@pytest.mark.parametrize(
    ("count", "pooling", "padding"), [(16, "max", "zero"), (4, "average", "reflect")]
)
def test_activations_become_the_originals_over_their_means(float64, count, pooling, padding):
    check_exactness(count, pooling, padding, dtype=np.float64, tolerance=1e-12)


def test_in_single_precision_they_do_to_rounding():
    check_exactness(8, "average", "zero", dtype=np.float32, tolerance=1e-5)


def test_parameters_may_end_anywhere():
    images = make_images(((16, 20),))
    options = {"normalization": FITTED, "pooling": "average", "padding": "reflect"}
    whole = normalize_vgg(make_variables(7), images, **options)["params"]
    for count in (1, 5):
        result = normalize_vgg(make_variables(count), images, **options)["params"]
        assert list(result) == list(CONVOLUTIONS[:count])
        for name, leaves in result.items():
            for part, array in leaves.items():
                np.testing.assert_allclose(array, whole[name][part], rtol=1e-4, atol=1e-6)


def test_normalizing_twice_changes_nothing():
    images = make_images(((16, 20), (9, 8)))
    options = {"normalization": FITTED, "pooling": "max", "padding": "zero"}
    once = normalize_vgg(make_variables(4), images, **options)
    means = mean_activations(once, images, **options)
    for name, mean in means.items():
        np.testing.assert_allclose(mean[mean > 0], 1, rtol=1e-5, err_msg=name)
    twice = normalize_vgg(once, images, **options)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), twice, once)


def test_a_filter_that_never_responds_keeps_its_scale_and_is_read_as_before():
    variables = make_variables(3)
    first, second, third = (variables["params"][name] for name in CONVOLUTIONS[:3])
    second["bias"][7] = -1e4
    images = make_images(((16, 12),))
    options = {"pooling": "max", "padding": "zero"}
    means = mean_activations(variables, images, normalization=FITTED, **options)
    assert means["conv1_2"][7] == 0
    result = normalize_vgg(variables, images, normalization=FITTED, **options)["params"]
    for leaves in result.values():
        assert all(np.all(np.isfinite(array)) for array in leaves.values())
    assert result["conv1_2"]["bias"][7] == second["bias"][7]
    np.testing.assert_allclose(
        result["conv1_2"]["kernel"][..., 7],
        second["kernel"][..., 7] * means["conv1_1"].reshape(1, 1, -1),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        result["conv2_1"]["kernel"][:, :, 7],
        third["kernel"][:, :, 7] / scales_of(means, "conv2_1"),
        rtol=1e-6,
    )


def test_a_filter_that_responds_everywhere_alike_comes_to_1():
    variables = make_variables(1)
    variables["params"]["conv1_1"]["kernel"][..., 3] = 0
    variables["params"]["conv1_1"]["bias"][3:5] = 0.125, 0
    variables["params"]["conv1_1"]["kernel"][..., 4] = 0
    result = normalize_vgg(
        variables, make_images(), normalization=FITTED, pooling="max", padding="zero"
    )["params"]["conv1_1"]
    np.testing.assert_allclose(result["bias"][3:5], [1, 0], rtol=1e-6)
    np.testing.assert_array_equal(result["kernel"][..., 3:5], 0)


def test_a_large_image_counts_as_much_as_its_positions():
    variables = make_variables(3)
    large, small = make_images(((24, 32), (10, 13)))
    options = {"normalization": FITTED, "pooling": "average", "padding": "reflect"}
    alone = [mean_activations(variables, [image], **options) for image in (large, small)]
    both = mean_activations(variables, [small, large], **options)
    for name, (large_count, small_count) in {
        "conv1_2": (24 * 32, 10 * 13),
        "conv2_1": (12 * 16, 5 * 6),
    }.items():
        expected = (alone[0][name] * large_count + alone[1][name] * small_count) / (
            large_count + small_count
        )
        np.testing.assert_allclose(both[name], expected, rtol=1e-6)


def test_one_image_is_held_at_a_time():
    given = []

    def images():
        for image in range(5):
            assert sum(reference() is not None for reference in given) <= 1
            image = np.full((8, 8, 3), image / 5, np.float32)
            given.append(weakref.ref(image))
            yield image
            del image

    mean_activations(
        make_variables(1), images(), normalization=FITTED, pooling="max", padding="zero"
    )
    assert len(given) == 5


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"params": {"conv1_conv": {}, "conv1_bn": {}}, "batch_stats": {}}, "conv1_bn, conv1_conv"),
        ({"params": {"conv1_1": {}, "conv2_1": {}}}, "conv1_1, conv2_1"),
        ({"params": {"conv1_2": {}}}, "conv1_2"),
        ({"params": {}}, "nothing"),
        ({}, "nothing"),
    ],
    ids=["resnet50", "a gap", "no beginning", "no parameters", "nothing"],
)
def test_only_a_chain_of_vgg19s_convolutions_can_be_normalized(variables, found):
    with pytest.raises(InputError, match=rf"vgg19 is to be normalized, .*\({found}, ...\)"):
        normalize_vgg(variables, make_images(), normalization=CAFFE, pooling="max", padding="zero")


def test_vgg16_has_other_layers_and_is_normalized_as_well():
    variables = make_variables(10)
    del variables["params"]["conv3_4"]
    options = {"normalization": FITTED, "pooling": "average", "padding": "reflect"}
    images = make_images()
    result = normalize_vgg(variables, images, model="vgg16", **options)
    means = mean_activations(result, images, model="vgg16", **options)
    assert list(means)[6:] == ["conv3_3", "conv4_1", "conv4_2"]
    alive = [mean[mean > 0] for mean in means.values()]
    np.testing.assert_allclose(np.concatenate(alive), 1, rtol=1e-3)
    with pytest.raises(InputError, match="vgg19 is to be normalized"):
        normalize_vgg(variables, images, **options)


def test_no_image_at_all_is_refused():
    with pytest.raises(InputError, match="no image to normalize over; .*at least one"):
        normalize_vgg(
            make_variables(1), iter(()), normalization=CAFFE, pooling="max", padding="zero"
        )


@pytest.mark.parametrize(("padding", "smallest"), [("zero", 2), ("reflect", 4)])
def test_an_image_too_small_for_the_deepest_layer_is_refused(padding, smallest):
    options = {"normalization": FITTED, "pooling": "max", "padding": padding}
    fitting, small = make_images(((smallest, 9), (9, smallest - 1)))
    mean_activations(make_variables(3), [fitting], **options)
    with pytest.raises(InputError, match=f"image 2 of the set .* at least {smallest} pixels"):
        mean_activations(make_variables(3), [fitting, small], **options)
