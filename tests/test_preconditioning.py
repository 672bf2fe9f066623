"""Bands of frequencies and what is learned of them, against SciPy and curvatures that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from loops import make_run_fn
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax.engine.step import StopRule
from neuart_jax.objective.term import Targets
from neuart_jax.optimizers import frequency_bands, make_lbfgs, make_lbfgs_fixed
from neuart_jax.optimizers.frequency_bands import (
    NUM_BANDS,
    learn_gains,
    resize_components,
    spread_gains,
)
from neuart_jax.optimizers.lbfgs_memory import find_direction, init_memory, remember

to_cosines = jax.jit(frequency_bands.to_cosines)
from_cosines = jax.jit(frequency_bands.from_cosines)

SHAPE = (24, 37, 3)
NOTHING = np.zeros(NUM_BANDS)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def draw(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def frequencies(height, width):
    """In cycles per pixel, [height, width, 1]."""
    down, across = (np.arange(side) / (2 * side) for side in (height, width))
    return np.hypot(down[:, None], across)[..., None]


def wave(height, width, *, down, across):
    rows, columns = ((2 * np.arange(side) + 1) / (2 * side) for side in (height, width))
    values = np.cos(np.pi * down * rows)[:, None] * np.cos(np.pi * across * columns)
    return np.repeat(values[..., None], 3, axis=-1)


def test_components_are_scipys():
    images = draw(0, (2, *SHAPE))
    components = to_cosines(jnp.asarray(images))
    expected = scipy.fft.dctn(images, axes=(1, 2), norm="ortho")
    assert_allclose(components, expected, rtol=1e-10, atol=1e-12)
    assert_allclose(from_cosines(components), images, rtol=1e-10, atol=1e-12)
    single = to_cosines(jnp.asarray(images, jnp.float32))
    assert single.dtype == jnp.float32
    assert_allclose(single, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(48, 74), (12, 20), (12, 74), SHAPE[:2]])
def test_waves_are_the_same_waves_at_another_size(shape):
    """Half waves across a picture don't depend on its number of pixels."""
    small, large = (wave(*size, down=3, across=5) for size in (SHAPE[:2], shape))
    resized = resize_components(to_cosines(jnp.asarray(small)), (*shape, 3))
    assert_allclose(from_cosines(resized), large, atol=1e-12)


def test_waves_that_a_smaller_picture_cannot_hold_are_lost():
    fine = to_cosines(jnp.asarray(wave(*SHAPE[:2], down=15, across=2)))
    assert_allclose(
        resize_components(fine[None], (12, 20, 3)), np.zeros((1, 12, 20, 3)), atol=1e-12
    )


@pytest.mark.parametrize("exponent", [-1.0, 2.0])
def test_curvatures_that_are_a_power_of_the_frequency_are_found(exponent):
    """Gains are interpolated in the logarithm, in which a power is a straight line."""
    step = draw(1, (64, 96, 3))
    curvature = np.maximum(frequencies(64, 96), 0.01) ** exponent
    gains = learn_gains(NOTHING, step, curvature * step, wanted=True)
    found = np.asarray(spread_gains(gains, 64, 96)) * curvature
    inside = (frequencies(64, 96) > 0.03) & (frequencies(64, 96) < 0.4)
    assert np.ptp(np.log(found[inside])) < 0.35
    assert np.ptp(np.log(curvature[inside])) > 2.5
    assert_allclose(np.sum(gains), 0, atol=1e-9)


def test_one_curvature_for_all_gives_all_the_same_gain():
    step = draw(1)
    gains = learn_gains(NOTHING, step, 7 * step, wanted=True)
    assert_allclose(gains, NOTHING, atol=1e-9)
    assert_allclose(spread_gains(gains, 9, 14), np.ones((9, 14, 1)), atol=1e-9)


def test_pairs_are_averaged_and_unwanted_ones_ignored():
    step, coarse = draw(1), np.where(frequencies(*SHAPE[:2]) < 0.1, 4.0, 1.0)
    first = learn_gains(NOTHING, step, coarse * step, wanted=True)
    assert first[-1] - first[10] == pytest.approx(np.log(4), rel=1e-6)
    # Of the next pair, whose curvatures are all the same, a tenth.
    second = learn_gains(first, step, step, wanted=True)
    assert_allclose(second, 0.9 * np.asarray(first), rtol=1e-9)
    assert_array_equal(learn_gains(first, step, step, wanted=False), first)


@pytest.mark.parametrize("change", [0.0, np.nan, np.inf])
def test_pairs_that_say_nothing_change_nothing(change):
    known = np.linspace(-1, 1, NUM_BANDS)
    step = draw(1)
    assert_array_equal(learn_gains(known, step, change * step, wanted=True), known)
    assert_array_equal(learn_gains(known, 0 * step, step, wanted=True), known)


def test_bands_that_bend_down_get_a_small_gain_and_no_negative_one():
    step, bends = draw(1), np.where(frequencies(*SHAPE[:2]) < 0.1, -1.0, 1.0)
    gains = learn_gains(NOTHING, step, bends * step, wanted=True)
    assert gains[-1] - gains[10] == pytest.approx(np.log(20), rel=1e-6)


def test_the_newest_pair_is_reproduced():
    """The secant equation H y = s holds whatever H_0 is; Nocedal & Wright 2006, (6.6)."""
    gains = np.exp(draw(5, (*SHAPE[:2], 1)))
    memory = init_memory(jnp.zeros(SHAPE), history=3)
    for seed in range(4):
        step = jnp.asarray(draw(seed))
        change = 3 * step + 0.1 * draw(10 + seed)
        memory = remember(memory, step=step, change=change, wanted=True, gains=gains)
    assert_allclose(find_direction(memory, change, gains=gains), -step, rtol=1e-9, atol=1e-12)


def test_an_empty_memory_goes_no_farther_than_1():
    gains = np.exp(draw(5, (*SHAPE[:2], 1)))
    memory = init_memory(jnp.zeros(SHAPE), history=3)
    for size, length in ((0.5, 0.5), (20.0, 1.0)):
        gradient = jnp.asarray(size * draw(0) / np.linalg.norm(draw(0)))
        direction = find_direction(memory, gradient, gains=gains)
        expected = -gains * gradient * length / np.linalg.norm(gains * gradient)
        assert_allclose(direction, expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [make_lbfgs, lambda **options: make_lbfgs_fixed(1.0, **options)],
    ids=["search", "fixed"],
)
@pytest.mark.parametrize("stiff", ["fine", "coarse"])
def test_quadratics_are_minimized_in_fewer_steps(make, stiff):
    """One whose curvature grows as the square of the frequency, as total variation's, and one
    whose curvature falls as much."""
    with jax.enable_x64(False):
        goal = jnp.asarray(draw(2, (48, 64, 3)), jnp.float32)
        squares = (frequencies(48, 64) / 0.02) ** 2
        curvatures = 1 + squares if stiff == "fine" else 1 / (1 + squares)
        curvatures = jnp.asarray(curvatures, jnp.float32)

        def objective(image, params, targets):
            error = to_cosines(image - goal)
            loss = jnp.sum(curvatures * error**2)
            return loss, {"total": loss}

        losses = {}
        for precondition in (False, True):
            optimizer = make(history=5, precondition=precondition)
            run = make_run_fn(objective, optimizer, StopRule(25))
            losses[precondition] = run(0 * goal, None, Targets({}, {})).step_losses[-1]
    assert losses[True] < 0.1 * losses[False]
