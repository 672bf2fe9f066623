"""The filter that L-BFGS starts from, against SciPy and against what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax.curvature import find_direction, init_memory, remember
from neuart_jax.loop import make_run_fn
from neuart_jax.objective import Targets
from neuart_jax.optimizers import make_lbfgs, make_lbfgs_fixed
from neuart_jax.preconditioning import CORNER, find_gains, precondition, preconditioned_square
from neuart_jax.step import StopRule

SHAPE = (9, 14, 3)


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(size=SHAPE)


def filter_by_scipy(image, exponent):
    down, across = (np.arange(side) / (2 * side) for side in image.shape[:2])
    gains = (1 + (down[:, None] ** 2 + across**2) / CORNER**2) ** -exponent
    spectrum = scipy.fft.dctn(image, axes=(0, 1), norm="ortho")
    return scipy.fft.idctn(gains[..., None] * spectrum, axes=(0, 1), norm="ortho")


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_scipy_filters_the_same(image, exponent):
    expected = filter_by_scipy(image, exponent)
    with jax.enable_x64(True):
        found = precondition(jnp.asarray(image), exponent)
        square = preconditioned_square(jnp.asarray(image), exponent)
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert_allclose(square, np.sum(image * expected), rtol=1e-10)
    single = precondition(jnp.asarray(image, jnp.float32), exponent)
    assert single.dtype == jnp.float32
    assert_allclose(single, expected, atol=1e-5)


def test_without_an_exponent_nothing_is_filtered(image):
    assert_array_equal(precondition(jnp.asarray(image), 0), jnp.asarray(image))
    assert_array_equal(find_gains(4, 5, 0), jnp.ones((4, 5, 1)))


def test_flat_pictures_pass_and_a_wave_at_the_corner_is_halved():
    assert_allclose(precondition(jnp.full((8, 8, 3), 0.3), 1), 0.3, rtol=1e-5)
    # Half a wave across 25 pixels is 0.02 cycles per pixel.
    assert_allclose(find_gains(25, 1, 1)[1], 0.5, rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.75])
def test_the_newest_pair_is_reproduced(image, exponent):
    """The secant equation H y = s holds whatever H_0 is; Nocedal & Wright 2006, (6.6)."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        memory = init_memory(jnp.asarray(image), history=3)
        for _ in range(4):
            step = jnp.asarray(rng.normal(size=SHAPE))
            change = 3 * step + 0.1 * jnp.asarray(rng.normal(size=SHAPE))
            memory = remember(memory, step=step, change=change, wanted=True, exponent=exponent)
        assert_allclose(
            find_direction(memory, change, exponent=exponent), -step, rtol=1e-9, atol=1e-12
        )


def test_an_empty_memory_goes_no_farther_than_1(image):
    memory = init_memory(jnp.asarray(image, jnp.float32), history=3)
    for size, length in ((0.5, 0.5), (20.0, 1.0)):
        gradient = jnp.asarray(size * image / np.linalg.norm(image), jnp.float32)
        direction = find_direction(memory, gradient, exponent=0.75)
        assert_allclose(jnp.linalg.norm(direction), length, rtol=1e-5)
        filtered = precondition(gradient, 0.75)
        cosine = -jnp.vdot(direction, filtered) / length / jnp.linalg.norm(filtered)
        assert_allclose(cosine, 1, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [make_lbfgs, lambda **options: make_lbfgs_fixed(1.0, **options)],
    ids=["search", "fixed"],
)
def test_differences_of_neighbors_are_minimized_in_fewer_steps(make):
    """A quadratic whose curvature grows as the square of the frequency, as total variation's."""
    goal = jnp.asarray(np.random.default_rng(2).normal(size=(48, 64, 3)), jnp.float32)

    def objective(image, params, targets):
        error = image - goal
        down, across = jnp.diff(error, axis=0), jnp.diff(error, axis=1)
        loss = 1e-3 * jnp.sum(error**2) + jnp.sum(down**2) + jnp.sum(across**2)
        return loss, {"total": loss}

    losses = {}
    for exponent in (0.0, 1.0):
        run = make_run_fn(objective, make(history=5, exponent=exponent), StopRule(25))
        losses[exponent] = run(0 * goal, None, Targets({}, {})).step_losses[-1]
    assert losses[1.0] < 0.1 * losses[0.0]
