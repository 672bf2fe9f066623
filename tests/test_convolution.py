"""`convolve` and its hand-written gradient in float64, against pad-then-XLA and torch."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from neuart_jax.models.convolution import convolve

BATCH, IN_CHANNELS, OUT_CHANNELS = 2, 3, 4
PADDING_MODES = {"valid": None, "zero": "constant", "reflect": "reflect"}

SIZES = ((2, 2), (5, 8), (9, 8))
CASES = [
    (size, stride, padding, height, width)
    for size in (1, 3, 7)
    for stride in (1, 2)
    for padding in ("valid", "zero", "reflect")
    for height, width in SIZES
    if padding != "valid" or min(height, width) >= size
    if (size, padding) == (7, "valid") or height < 9
    if padding != "reflect" or size == 3
]


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


def random_arrays(size, height, width, *, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((BATCH, height, width, IN_CHANNELS))
    kernel = rng.standard_normal((size, size, IN_CHANNELS, OUT_CHANNELS))
    return inputs, kernel


def margins(kernel, padding):
    margin = 0 if padding == "valid" else kernel.shape[0] // 2
    return ((0, 0), (margin, margin), (margin, margin), (0, 0))


def pad_and_convolve(inputs, kernel, *, stride=1, padding="valid"):
    if padding != "valid":
        inputs = jnp.pad(inputs, margins(kernel, padding), mode=PADDING_MODES[padding])
    return lax.conv_general_dilated(
        inputs, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def random_cotangent(inputs, kernel, stride, padding):
    shape = jax.eval_shape(
        functools.partial(pad_and_convolve, stride=stride, padding=padding), inputs, kernel
    ).shape
    return np.random.default_rng(1).standard_normal(shape)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def outputs_and_gradients(function, inputs, kernel, cotangent, stride, padding):
    outputs, pull_back = jax.vjp(
        functools.partial(function, stride=stride, padding=padding), inputs, kernel
    )
    return outputs, *pull_back(cotangent)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(12, 10), (13, 11)])
@pytest.mark.parametrize(("size", "padding"), [(3, "zero"), (3, "reflect"), (7, "valid")])
def test_averaging_outputs_is_another_kernel(size, padding, height, width):
    inputs, kernel = random_arrays(size, height, width)

    def convolve_then_average(inputs, kernel):
        outputs = pad_and_convolve(inputs, kernel, padding=padding)
        rows, columns = (side // 2 * 2 for side in outputs.shape[1:3])
        corners = [outputs[:, i:rows:2, j:columns:2] for i in range(2) for j in range(2)]
        return sum(corners) / 4

    ours = functools.partial(convolve, stride=2, padding=padding, average=True)
    expected, pull_back_expected = jax.vjp(convolve_then_average, inputs, kernel)
    outputs, pull_back = jax.vjp(ours, inputs, kernel)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)
    cotangent = np.random.default_rng(2).standard_normal(expected.shape)
    for bar, expected_bar in zip(pull_back(cotangent), pull_back_expected(cotangent), strict=True):
        np.testing.assert_allclose(bar, expected_bar, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "stride", "padding", "height", "width"), CASES)
def test_equals_padding_and_then_convolving(size, stride, padding, height, width):
    inputs, kernel = random_arrays(size, height, width)
    cotangent = random_cotangent(inputs, kernel, stride, padding)
    arguments = (inputs, kernel, cotangent, stride, padding)
    ours = outputs_and_gradients(convolve, *arguments)
    reference = outputs_and_gradients(pad_and_convolve, *arguments)
    for name, a, b in zip(("outputs", "inputs", "kernel"), ours, reference, strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("size", "stride", "padding", "height", "width"), CASES)
def test_equals_torch(torch, size, stride, padding, height, width):
    inputs, kernel = random_arrays(size, height, width)
    cotangent = random_cotangent(inputs, kernel, stride, padding)
    ours = outputs_and_gradients(convolve, inputs, kernel, cotangent, stride, padding)
    torch_inputs = torch.tensor(inputs, requires_grad=True)
    torch_kernel = torch.tensor(kernel, requires_grad=True)
    padded = torch_inputs.permute(0, 3, 1, 2)
    if padding != "valid":
        margin = size // 2
        padded = torch.nn.functional.pad(padded, (margin,) * 4, mode=PADDING_MODES[padding])
    outputs = torch.nn.functional.conv2d(padded, torch_kernel.permute(3, 2, 0, 1), stride=stride)
    outputs = outputs.permute(0, 2, 3, 1)
    outputs.backward(torch.tensor(cotangent))
    reference = (outputs.detach(), torch_inputs.grad, torch_kernel.grad)
    for name, a, b in zip(("outputs", "inputs", "kernel"), ours, reference, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=1e-12, err_msg=name)


def test_stride_two_pads_evenly_unlike_same():
    inputs, kernel = random_arrays(3, 8, 8)
    same = lax.conv_general_dilated(
        inputs, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    ours = convolve(inputs, kernel, stride=2, padding="zero")
    assert ours.shape == same.shape
    assert np.abs(ours - same).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize(("size", "padding"), [(1, "valid"), (3, "zero"), (3, "reflect")])
def test_descent_inside_scan_equals_a_python_loop(size, padding):
    inputs, _ = random_arrays(size, 6, 7)
    kernels = np.stack([random_arrays(size, 1, 1, seed=seed)[1] for seed in range(4)])

    def step(state, kernel):
        def loss(image):
            return jnp.sum(jnp.square(jax.nn.relu(convolve(image, kernel, padding=padding))))

        value, gradient = jax.value_and_grad(loss)(state)
        return state - 1e-3 * gradient, value

    scanned, scanned_values = jax.jit(lambda x, ks: lax.scan(step, x, ks))(inputs, kernels)
    state, values, single_step = jnp.asarray(inputs), [], jax.jit(step)
    for kernel in kernels:
        state, value = single_step(state, kernel)
        values.append(value)
    np.testing.assert_allclose(scanned, state, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scanned_values, values, rtol=1e-13)


@pytest.mark.parametrize(("size", "padding"), [(3, "zero"), (3, "reflect"), (7, "valid")])
def test_mapping_over_pairs_equals_one_at_a_time(size, padding):
    pairs = np.stack([random_arrays(size, 8, 9, seed=seed)[0] for seed in range(3)])
    _, kernel = random_arrays(size, 1, 1)

    def gradient(inputs):
        return jax.grad(lambda x: jnp.sum(convolve(x, kernel, padding=padding) ** 3))(inputs)

    mapped = jax.jit(jax.vmap(gradient))(pairs)
    single = jax.jit(gradient)
    singles = np.stack([single(inputs) for inputs in pairs])
    np.testing.assert_allclose(mapped, singles, rtol=0, atol=1e-12 * np.abs(singles).max())
