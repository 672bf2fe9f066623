"""The two-loop recursion against the inverse Hessian it stands for, written out as a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax.optimizers.lbfgs_memory import (
    find_direction,
    forget,
    init_memory,
    remember,
    resize_gradient,
    resize_memory,
)

SHAPE = (2, 1, 3)
YES, NO = jnp.bool_(True), jnp.bool_(False)


def inverse_hessian(pairs):
    """BFGS updates of gamma * I: Nocedal & Wright 2006, equations (7.16) and (7.20)."""
    step, change = pairs[-1]
    inverse = np.eye(step.size) * (step @ change) / (change @ change)
    for step, change in pairs:
        rho = 1 / (step @ change)
        factor = np.eye(step.size) - rho * np.outer(change, step)
        inverse = factor.T @ inverse @ factor + rho * np.outer(step, step)
    return inverse


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def make_pairs(count):
    """Draw steps over a bowl: y = A s with a positive definite A."""
    rng = np.random.default_rng(3)
    root = rng.standard_normal((6, 6))
    steps = rng.standard_normal((count, 6))
    return [(step, (root @ root.T + np.eye(6)) @ step) for step in steps]


def store(memory, pair, wanted=YES):
    step, change = (jnp.asarray(part.reshape(SHAPE)) for part in pair)
    return remember(memory, step=step, change=change, wanted=wanted)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_the_direction_is_that_of_the_newest_pairs(count):
    memory = init_memory(jnp.zeros(SHAPE), history=4)
    pairs = make_pairs(count)
    for pair in pairs:
        memory = store(memory, pair)
    gradient = np.random.default_rng(4).standard_normal(6)
    expected = -inverse_hessian(pairs[-4:]) @ gradient
    direction = find_direction(memory, jnp.asarray(gradient.reshape(SHAPE)))
    assert_allclose(direction.reshape(-1), expected, rtol=1e-9)


@pytest.mark.lenient
def test_directions_are_optaxs():
    transform = optax.scale_by_lbfgs(memory_size=3)
    state = transform.init(jnp.zeros(SHAPE))
    memory = init_memory(jnp.zeros(SHAPE), history=3)
    image, gradient = jnp.zeros(SHAPE), jnp.ones(SHAPE)
    for pair in make_pairs(5):
        expected, state = transform.update(gradient, state, image)
        assert_allclose(find_direction(memory, gradient), -expected, rtol=1e-9)
        step, change = (part.reshape(SHAPE) for part in pair)
        image, gradient = image + step, gradient + change
        memory = store(memory, pair)


def test_the_first_direction_is_no_longer_than_one():
    memory = init_memory(jnp.zeros(SHAPE), history=4)
    for length, expected in ((50.0, 1.0), (0.01, 0.01)):
        gradient = jnp.full(SHAPE, length / np.sqrt(6))
        direction = find_direction(memory, gradient)
        assert float(jnp.linalg.norm(direction)) == pytest.approx(expected)
        assert float(jnp.vdot(direction, gradient)) == pytest.approx(-expected * length)


def test_at_a_minimum_there_is_no_way_to_go():
    memory = init_memory(jnp.zeros(SHAPE), history=4)
    assert_array_equal(find_direction(memory, jnp.zeros(SHAPE)), jnp.zeros(SHAPE))


def test_pairs_that_bend_down_or_are_not_wanted_are_left_out():
    memory = store(init_memory(jnp.zeros(SHAPE), history=4), make_pairs(1)[0])
    step, change = make_pairs(2)[1]
    across = np.array([change[1], -change[0], 0, 0, 0, 0])
    for other in (
        store(memory, (step, change), NO),
        store(memory, (step, -change)),
        store(memory, (across, change)),  # The product is rounding, if not zero.
        store(memory, (0 * step, 0 * change)),
        store(memory, (step, change * np.nan), NO),
    ):
        for kept, given in zip(other, memory, strict=True):
            assert_array_equal(kept, given)


def test_a_memory_that_forgot_is_as_good_as_new():
    full = init_memory(jnp.zeros(SHAPE), history=4)
    for pair in make_pairs(6):
        full = store(full, pair)
    gradient = jnp.arange(6.0).reshape(SHAPE)
    empty, kept = forget(full, wanted=YES), forget(full, wanted=NO)
    new = init_memory(jnp.zeros(SHAPE), history=4)
    assert_array_equal(find_direction(empty, gradient), find_direction(new, gradient))
    assert_array_equal(find_direction(kept, gradient), find_direction(full, gradient))
    pair = make_pairs(1)[0]
    assert_allclose(
        find_direction(store(empty, pair), gradient), find_direction(store(new, pair), gradient)
    )


def remember_all(pairs, shape=SHAPE, history=4):
    memory = init_memory(jnp.zeros(shape), history=history)
    for step, change in pairs:
        memory = remember(
            memory, step=step.reshape(shape), change=change.reshape(shape), wanted=YES
        )
    return memory


def test_a_gradient_keeps_its_slope_along_smooth_directions():
    """Of a mean over pixels: the same change of the picture changes the loss as much."""
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 16).reshape(1, -1, 1), (16, 16, 3))
    fine_ramp = jax.image.resize(ramp, (32, 32, 3), "linear")
    slope = float(jnp.vdot(ramp, ramp))
    assert float(jnp.vdot(resize_gradient(ramp, (32, 32, 3)), fine_ramp)) == pytest.approx(
        slope, rel=0.02
    )


def test_a_memory_of_constants_implies_the_same_steps_at_another_size():
    """Pictures that are flat are flat at any size: the quasi-Newton step has to be the same."""
    curvature = 3.0
    steps = [np.full(6, 0.5), np.full(6, -0.2)]
    memory = remember_all([(step, curvature * step) for step in steps])
    finer = resize_memory(memory, (4, 2, 3))
    # A fourth of the share of each pixel in the loss, a fourth of its gradient.
    gradient = jnp.full(SHAPE, 0.7)
    step = find_direction(memory, gradient)
    assert_allclose(find_direction(finer, jnp.full((4, 2, 3), 0.7 / 4)), step[0, 0, 0], rtol=1e-9)
    assert_allclose(step, -0.7 / curvature, rtol=1e-9)


def test_a_memory_resized_to_its_own_size_is_the_same():
    memory = remember_all(make_pairs(6))
    same = resize_memory(memory, SHAPE)
    for one, other in zip(memory, same, strict=True):
        assert_allclose(one, other, rtol=1e-9)


def test_a_memory_whose_newest_pair_does_not_survive_is_empty():
    # Positive along a pattern that averaging takes away.
    step = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    memory = remember_all([(np.ones(6), np.ones(6)), (step, step)])
    small = resize_memory(memory, (1, 1, 3))
    assert int(small.num_stored) == 0
    gradient = jnp.full((1, 1, 3), 0.1)
    assert_allclose(find_direction(small, gradient), -gradient, rtol=1e-9)


def test_memories_of_a_batch_are_read_as_far_as_each_is_filled():
    memories = [init_memory(jnp.zeros(SHAPE), history=4)]
    for pair in make_pairs(6):
        memories.append(store(memories[-1], pair))
    memories.append(forget(memories[-1], wanted=YES))
    gradients = np.random.default_rng(5).standard_normal((len(memories), *SHAPE))
    together = jax.tree.map(lambda *parts: jnp.stack(parts), *memories)
    directions = jax.vmap(find_direction)(together, jnp.asarray(gradients))
    for memory, gradient, direction in zip(memories, gradients, directions, strict=True):
        assert_allclose(direction, find_direction(memory, jnp.asarray(gradient)), rtol=1e-12)


def test_slots_that_nothing_was_stored_in_are_not_visited():
    """A history of a hundred costs a run of ten steps no more than a history of ten."""
    small, large = (init_memory(jnp.zeros(SHAPE), history=history) for history in (3, 100))
    for pair in make_pairs(3):
        small, large = store(small, pair), store(large, pair)
    poisoned = large._replace(steps=large.steps.at[3:].set(jnp.nan))
    gradient = jnp.arange(6.0).reshape(SHAPE)
    assert_array_equal(find_direction(poisoned, gradient), find_direction(small, gradient))
