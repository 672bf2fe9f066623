"""Winograd's convolutions against the direct ones, in float64 and, as they run, in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from neuart_jax.config.config import Config
from neuart_jax.engine.kernel_transforms import transform_kernels
from neuart_jax.engine.stylizer import stylize
from neuart_jax.losses.moments import gram_matrix
from neuart_jax.models import MODELS, NetworkParams, winograd
from neuart_jax.models.convolution import convolve, has_fast_form
from neuart_jax.models.features import make_feature_fn
from neuart_jax.models.winograd import transform_kernel

# Whole and broken tiles, one tile, and the smallest picture that can be reflected.
SHAPES = [(1, 8, 8), (2, 7, 9), (3, 13, 6), (1, 21, 5), (2, 2, 3), (1, 4, 30)]
IN_CHANNELS, OUT_CHANNELS = 3, 5


@pytest.fixture(params=["groups", "strips"])
def arrangement(request, monkeypatch):
    """Make small pictures go the way of large ones, too."""
    if request.param == "strips":
        monkeypatch.setattr(winograd, "_STRIP_BYTES", 1)
        monkeypatch.setattr(winograd, "_MIN_TILES", 1)


def random_arrays(shape, *, channels=(IN_CHANNELS, OUT_CHANNELS), dtype=np.float64):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((*shape, channels[0])).astype(dtype)
    kernel = rng.standard_normal((3, 3, *channels)).astype(dtype)
    cotangent = rng.standard_normal((*shape, channels[1])).astype(dtype)
    return inputs, kernel, cotangent


def fast(kernel, padding):
    kernel = jnp.asarray(kernel)
    return functools.partial(
        convolve, kernel=kernel, padding=padding, transformed=transform_kernel(kernel)
    )


def correlate(inputs, kernel, padding):
    mode = {"zero": "constant", "reflect": "reflect"}[padding]
    padded = np.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    outputs = np.zeros((*inputs.shape[:3], kernel.shape[3]))
    for image, i, o in np.ndindex(len(inputs), *kernel.shape[2:]):
        outputs[image, :, :, o] += scipy.signal.correlate2d(
            padded[image, :, :, i], kernel[:, :, i, o], mode="valid"
        )
    return outputs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_outputs_are_scipys(shape, padding, arrangement, float64):
    inputs, kernel, _ = random_arrays(shape)
    np.testing.assert_allclose(
        fast(kernel, padding)(inputs), correlate(inputs, kernel, padding), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_gradient_is_that_of_scipys_sum(shape, padding, arrangement, float64):
    # The map is linear: <c, A x> = <A' c, x> for any x, and for all unit vectors it is A' c.
    inputs, kernel, cotangent = random_arrays(shape)
    _, pull_back = jax.vjp(fast(kernel, padding), inputs)
    gradient = np.asarray(pull_back(cotangent)[0])
    for index in [(0, 0, 0, 0), (-1, -1, -1, 1), (0, 1, 1, 2), (-1, 0, shape[2] // 2, 0)]:
        unit = np.zeros_like(inputs)
        unit[index] = 1
        expected = np.sum(cotangent * correlate(unit, kernel, padding))
        assert gradient[index] == pytest.approx(expected, abs=1e-12)
    expected = np.sum(cotangent * correlate(inputs, kernel, padding))
    assert np.sum(gradient * inputs) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_pairs_under_vmap_are_single_ones(padding, arrangement, float64):
    inputs, kernel, _ = random_arrays((4, 9, 10))
    apart = jax.vmap(fast(kernel, padding))(inputs[:, None])[:, 0]
    np.testing.assert_allclose(apart, correlate(inputs, kernel, padding), rtol=0, atol=1e-12)


def test_kernels_under_vmap_are_single_ones(float64):
    inputs, kernel, _ = random_arrays((4, 9, 10))
    kernels = jnp.stack([kernel, 2 * kernel])
    run = lambda kernel, x: fast(kernel, "zero")(x)  # noqa: E731
    expected = correlate(inputs, kernel, "zero")
    for outputs in (
        jax.vmap(run, (0, None))(kernels, inputs),
        jax.vmap(run)(kernels, jnp.stack([inputs, inputs])),
    ):
        np.testing.assert_allclose(outputs, [expected, 2 * expected], rtol=0, atol=1e-12)


def test_gradient_of_the_kernel_is_the_direct_ones(float64):
    inputs, kernel, cotangent = random_arrays((1, 9, 10))

    def response(kernel, transformed):
        outputs = convolve(inputs, kernel, padding="reflect", transformed=transformed)
        return jnp.sum(outputs * cotangent)

    direct = jax.grad(response)(jnp.asarray(kernel), None)
    quick = jax.grad(response)(jnp.asarray(kernel), transform_kernel(jnp.asarray(kernel)))
    np.testing.assert_allclose(quick, direct, rtol=1e-12)


@pytest.mark.parametrize("channels", [64, 512])
def test_float32_error_is_small(channels, float64):
    arrays = random_arrays((1, 20, 20), channels=(channels, channels), dtype=np.float32)
    inputs, kernel, cotangent = arrays
    outputs, pull_back = jax.vjp(fast(kernel, "zero"), inputs)
    assert outputs.dtype == np.float32
    exact, pull_back_exact = jax.vjp(
        functools.partial(convolve, kernel=kernel.astype(np.float64), padding="zero"),
        inputs.astype(np.float64),
    )
    pairs = [
        (outputs, exact),
        (pull_back(cotangent)[0], pull_back_exact(cotangent.astype(np.float64))[0]),
    ]
    for values, expected in pairs:
        error = np.linalg.norm(np.float64(values) - expected) / np.linalg.norm(expected)
        assert error < 1e-5


@pytest.mark.parametrize(
    ("shape", "stride", "padding", "expected"),
    [
        ((3, 3, 64, 64), 1, "reflect", True),
        ((3, 3, 64, 64), 2, "reflect", False),
        ((3, 3, 3, 64), 1, "zero", False),
        ((1, 1, 64, 64), 1, "zero", False),
        ((3, 3, 64, 64), 1, "valid", False),
    ],
)
def test_what_is_worth_transforming(shape, stride, padding, expected):
    assert has_fast_form(shape, stride=stride, padding=padding) is expected


def count_convolutions(function, *args):
    return str(jax.make_jaxpr(function)(*args)).count("conv_general_dilated[")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layers", "num_fast"),
    [("vgg19", ("relu3_1",), 4), ("resnet50", ("conv2_block2_out",), 2)],
)
def test_a_networks_gradient_against_float64(model, layers, num_fast, float64):
    module = MODELS[model].make_module(pooling="average", padding="reflect")
    image = np.random.default_rng(0).random((37, 46, 3))
    variables = module.init(jax.random.key(0), image, layers=layers)
    assert "winograd" not in variables

    def cast(dtype):
        arrays = jax.tree.map(lambda a: jnp.asarray(a, dtype), variables)
        return NetworkParams(arrays, jnp.full(3, 0.5, dtype), jnp.full(3, 0.25, dtype))

    feature_fn = make_feature_fn(module, layers)

    def energy(params, image):
        features = feature_fn(params, image)[layers[0]]
        return jnp.sum(jnp.square(gram_matrix(features, divisor="positions")))

    direct = cast(jnp.float32)
    quick = transform_kernels(module, direct, layers, size=image.shape[:2])
    assert len(jax.tree.leaves(quick.variables["winograd"])) == 2 * num_fast
    small = image.astype(np.float32)
    saved = count_convolutions(energy, direct, small) - count_convolutions(energy, quick, small)
    assert saved == num_fast

    gradient_fn = jax.jit(jax.grad(energy, argnums=1))
    exact = gradient_fn(cast(jnp.float64), image)
    gradient = gradient_fn(quick, small)
    assert gradient.dtype == np.float32
    assert np.linalg.norm(gradient - exact) / np.linalg.norm(exact) < 1e-5


@pytest.mark.slow
def test_a_deep_gradients_error_is_that_of_its_kinks(float64, monkeypatch):
    """A ReLU whose input is next to zero may be on in float32 and off in float64.

    That changes the gradient by about 1e-3, whichever way the convolutions are computed. With the
    same ReLUs on, rounding is what remains.
    """
    module = MODELS["vgg19"].make_module(pooling="average", padding="reflect")
    relus = ("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1")
    layer = relus[-1]
    image = np.random.default_rng(0).random((64, 64, 3))
    variables = module.init(jax.random.key(0), image, layers=[layer])
    exact = jax.tree.map(np.float64, NetworkParams(variables, np.full(3, 0.5), np.full(3, 0.5)))
    rounded = jax.tree.map(np.float32, exact)
    quick = transform_kernels(module, rounded, [layer], size=image.shape[:2])

    def gradient(params, image):
        def energy(image):
            features = make_feature_fn(module, relus)(params, image)
            gram = gram_matrix(features[layer], divisor="positions")
            return jnp.sum(jnp.square(gram)), {name: features[name] > 0 for name in relus}

        return jax.jit(jax.grad(energy, has_aux=True))(image)

    found, is_on = gradient(quick, image.astype(np.float32))
    order = iter(relus)
    monkeypatch.setattr(jax.nn, "relu", lambda x: jnp.where(is_on[next(order)], x, 0))
    expected, _ = gradient(exact, image)
    assert next(order, None) is None
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 2e-5


@pytest.mark.slow
def test_the_setting_chooses_the_way(monkeypatch):
    chosen = []
    monkeypatch.setattr(
        "neuart_jax.engine.kernel_transforms.transform_kernels",
        lambda *args, **options: chosen.append(True) or transform_kernels(*args, **options),
    )
    rng = np.random.default_rng(0)
    content, style = rng.random((2, 24, 25, 3), np.float32)
    config = Config().replace(
        weights="random", style_layers="relu2_1", content_layers="relu2_1", scales=1, steps=2
    )
    losses = {}
    images = {}
    for choice in ("direct", "winograd", "auto"):
        chosen.clear()
        result = stylize(content, style, config.replace(convolution=choice))
        losses[choice], images[choice] = result.losses["total"], result.image
        on_cpu = jax.default_backend() == "cpu"
        assert bool(chosen) is (choice == "winograd" or (choice == "auto" and on_cpu))
    assert losses["winograd"] == pytest.approx(losses["direct"], rel=1e-4)
    assert np.any(images["winograd"] != images["direct"])
