"""Quantiles and matching along a line, against numpy's sort and interpolation, and scipy's LP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment

from neuart_jax.losses import quantiles
from neuart_jax.losses.quantiles import Quantiles

# Step by step, every operation would be compiled on its own.
find_quantiles, match = jax.jit(quantiles.find_quantiles), jax.jit(quantiles.match)
resample = jax.jit(quantiles.resample, static_argnums=1)


def rows(seed, num_positions, dtype=np.float32):
    """Three rows of different scale and sign, all values different."""
    normal = np.random.default_rng(seed).normal(size=(3, num_positions))
    return (normal * np.array([[1e-3], [1.0], [100.0]]) + [[0], [-5], [30]]).astype(dtype)


AWKWARD = np.float32(
    [[3, -0.5, 0, 1e-42, -1e-42, -3e38, 3e38, np.inf, -np.inf, 1, 1, -2, -0.0, 2.5, -0.5, 0]]
)
"""Both infinities, denormal numbers, both zeros, and equal values."""


@pytest.mark.parametrize("values", [rows(0, 1), rows(0, 2), rows(0, 37), AWKWARD, -AWKWARD])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_with_equal_shares_are_the_sorted_values(values, dtype):
    with jax.enable_x64(dtype == np.float64):
        found = find_quantiles(jnp.asarray(values, dtype)).values
    assert found.dtype == dtype
    assert_array_equal(found, np.sort(values.astype(dtype), axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matching_is_the_cheapest_assignment(dtype):
    values, target = rows(0, 40, dtype), rows(1, 40, dtype)
    with jax.enable_x64(dtype == np.float64):
        found = match(jnp.asarray(values), find_quantiles(jnp.asarray(target)))
    assert found.dtype == dtype
    for ours, x, y in zip(found, np.float64(values), np.float64(target), strict=True):
        _, columns = linear_sum_assignment((x.reshape(-1, 1) - y.reshape(1, -1)) ** 2)
        assert_array_equal(ours, target.dtype.type(y[columns]))


def test_equal_values_get_all_that_belongs_to_them():
    target = Quantiles(jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    found = match(jnp.array([[7.0, 0.0, 7.0, -1.0, 7.0]]), target)
    assert_array_equal(found, [[3, 2, 4, 1, 5]])


@pytest.mark.parametrize(("count", "other"), [(12, 5), (5, 12), (7, 1), (1, 7)])
def test_other_numbers_of_levels_are_numpys_interpolation(count, other):
    values = np.sort(rows(2, count), axis=1)
    found = resample(Quantiles(jnp.asarray(values)), other).values
    levels, own = ((np.arange(n) + 0.5) / n for n in (other, count))
    expected = [np.interp(levels, own, row) for row in values]
    assert_allclose(found, expected, rtol=1e-5)
    assert_allclose(
        match(jnp.asarray(rows(3, other)), Quantiles(jnp.asarray(values))),
        np.take_along_axis(np.array(expected), np.argsort(np.argsort(rows(3, other))), axis=1),
        rtol=1e-5,
    )


def shares_of(seed, num_positions):
    """Uneven ones; about a third has none."""
    shares = np.maximum(np.random.default_rng(seed).random(num_positions) - 0.3, 0)
    return np.float32(shares / np.sum(shares))


@pytest.mark.parametrize("num_positions", [3, 30, 500])
def test_quantiles_with_shares_are_numpys_interpolation(num_positions):
    values, shares = rows(4, num_positions), shares_of(5, num_positions)
    found = find_quantiles(jnp.asarray(values), jnp.asarray(shares)).values
    expected = [reference.quantiles(row, shares)[1] for row in np.float64(values)]
    assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.all(np.diff(found, axis=1) >= 0)


@pytest.mark.parametrize(("num_positions", "num_levels"), [(3, 8), (30, 30), (500, 40)])
def test_matching_with_shares_is_numpys_interpolation(num_positions, num_levels):
    values, shares = rows(6, num_positions), shares_of(7, num_positions)
    target = np.sort(rows(8, num_levels), axis=1)
    found = match(jnp.asarray(values), Quantiles(jnp.asarray(target)), jnp.asarray(shares))
    levels = (np.arange(num_levels) + 0.5) / num_levels
    counts = shares > 0
    for ours, row, of_target in zip(found, values, target, strict=True):
        middles, ordered = reference.nodes(np.float64(row), np.float64(shares))
        expected = np.interp(middles, levels, of_target)
        back = np.searchsorted(ordered, row[counts])
        assert_allclose(ours[counts], expected[back], rtol=1e-4, atol=1e-6)


def test_equal_shares_are_no_shares():
    values, target = rows(9, 64), rows(10, 64)
    shares = jnp.full(64, 1 / 64)
    plain, shared = find_quantiles(values), find_quantiles(jnp.asarray(values), shares)
    assert_allclose(shared.values, plain.values, rtol=1e-5)
    sorted_target = find_quantiles(jnp.asarray(target))
    assert_allclose(match(values, sorted_target, shares), match(values, sorted_target), rtol=1e-5)


def test_what_has_no_share_does_not_count():
    shares = jnp.array([0.5, 0, 0, 0.5])
    found = find_quantiles(jnp.array([[1.0, 99.0, -99.0, 2.0]]), shares).values
    # The middles of the halves are at 1/4 and 3/4, the levels at 1/8, 3/8, 5/8 and 7/8.
    assert_allclose(found, [[1, 1.25, 1.75, 2]])
    nothing = find_quantiles(jnp.array([[1.0, 99.0, -99.0, 2.0]]), jnp.zeros(4)).values
    assert_array_equal(nothing, np.zeros((1, 4)))
    matched = match(jnp.ones((1, 4)), Quantiles(jnp.array([[3.0, 4.0]])), jnp.zeros(4))
    assert np.all(np.isfinite(matched))


def test_integers_of_64_bits_stay_inside():
    """Transformed and compiled in every order, everything else still has 32 bits."""
    values = np.stack([rows(seed, 20) for seed in range(4)])
    target = find_quantiles(jnp.asarray(rows(9, 20)))
    expected = np.stack([match(jnp.asarray(one), target) for one in values])

    def descend(one):
        def step(carry, _):
            moved = quantiles.match(carry, target) - carry
            return carry + 0.5 * moved, jnp.sum(carry)

        found, sums = jax.lax.scan(step, one, length=20)
        assert sums.dtype == jnp.float32
        return jax.lax.cond(
            found[0, 0] > 1e9, lambda: found, lambda: quantiles.match(found, target)
        )

    for transformed in (jax.jit(jax.vmap(descend)), jax.vmap(jax.jit(jax.checkpoint(descend)))):
        found = transformed(jnp.asarray(values))
        assert found.dtype == jnp.float32
        assert_array_equal(found, expected)
    assert jnp.arange(3).dtype == jnp.int32
