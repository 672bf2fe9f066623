"""On functions whose minimum, or whose every step, is known from elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import scipy.optimize
from loops import make_run_fn
from numpy.testing import assert_allclose

from neuart_jax.config.sections import OptimizerConfig
from neuart_jax.engine.loop import make_next_stop
from neuart_jax.engine.step import Status, StopRule
from neuart_jax.optimizers import Evaluation, Point, make_adam, make_lbfgs, make_lbfgs_fixed
from neuart_jax.optimizers.build import make_optimizer

SCALES = np.array([1.0, 10.0, 100.0])


def quadratic(image, params, targets):
    """A bowl around `targets`, steeper in some channels."""
    loss = jnp.sum(jnp.asarray(SCALES.reshape(1, 1, 3), image.dtype) * (image - targets) ** 2)
    return loss, {"total": loss}


def rosenbrock(image, params, targets):
    x = image.reshape(-1)
    loss = jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    return loss, {"total": loss}


@pytest.fixture
def target():
    return np.random.default_rng(0).random((2, 2, 3)).astype(np.float32)


def test_adam_is_the_papers_algorithm_with_projection(target):
    target = 2 * target - 0.5  # Partly beyond black and white, so that the projection matters.
    schedule = optax.cosine_decay_schedule(0.3, 8)
    optimizer = make_adam(0.3, schedule="cosine", decay_steps=8)
    run = make_run_fn(quadratic, optimizer, StopRule(8), chunk_steps=8)
    images = []
    result = run(
        jnp.full((2, 2, 3), 0.5),
        None,
        jnp.asarray(target),
        next_stop=make_next_stop(every=1),
        callback=lambda progress: images.append(progress.image()),
    )
    rates = [float(schedule(step)) for step in range(8)]
    expected = reference.adam(np.full((2, 2, 3), 0.5), lambda x: 2 * SCALES * (x - target), rates)
    assert_allclose(images[-1], expected, rtol=1e-4, atol=1e-5)
    assert result.num_evaluations == 9
    assert (images[-1].min(), images[-1].max()) == (0, 1)


@pytest.mark.parametrize(
    "constants",
    [
        {"beta1": 0.5, "beta2": 0.7, "epsilon": 0.3},
        {"beta1": 0.0},
        {"beta2": 0.0},
        {"epsilon": 0.0},
        {"beta1": 0.99, "epsilon": 0.1},
    ],
)
def test_adams_constants_reach_it(constants, target):
    rates = [0.02] * 6
    config = OptimizerConfig(optimizer="adam", learning_rate=0.02, schedule="constant", **constants)
    run = make_run_fn(quadratic, make_optimizer(config, num_steps=6), StopRule(6), chunk_steps=6)
    seen = []
    run(
        jnp.full((2, 2, 3), 0.5),
        None,
        jnp.asarray(target),
        callback=lambda progress: seen.append(progress.image()),
    )
    start, gradient_fn = np.full((2, 2, 3), 0.5), lambda x: 2 * SCALES * (x - target)
    expected = reference.adam(start, gradient_fn, rates, **constants)
    assert_allclose(seen[-1], expected, atol=2e-6)
    assert np.abs(expected - reference.adam(start, gradient_fn, rates)).max() > (
        0.0 if constants == {"epsilon": 0.0} else 1e-3
    )


def test_lbfgs_finds_the_minimum_that_scipy_finds():
    start = np.full((1, 2, 3), 0.3, np.float32)
    run = make_run_fn(rosenbrock, make_lbfgs(history=10), StopRule(60), chunk_steps=20)
    result = run(jnp.asarray(start), None, None)
    peer = scipy.optimize.minimize(
        scipy.optimize.rosen,
        start.reshape(-1).astype(np.float64),
        jac=scipy.optimize.rosen_der,
        method="L-BFGS-B",
    )
    assert_allclose(result.image.reshape(-1), peer.x, atol=2e-3)
    assert result.losses["total"] < 1e-5


def bowl(x):
    """A quadratic whose curvatures span six decades; value and gradient."""
    scales = np.logspace(-3, 3, x.size)
    return 0.5 * np.sum(scales * (x - 1) ** 2), scales * (x - 1)


def valley(x):
    return scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)


@pytest.mark.parametrize(("function", "num_steps"), [(bowl, 60), (valley, 50)])
def test_every_step_of_lbfgs_fulfils_the_strong_wolfe_conditions(function, num_steps):
    """In float64, evaluated by NumPy and SciPy, counted here."""
    optimizer, trials = make_lbfgs(history=10), 0
    with jax.enable_x64(True):
        propose, observe = jax.jit(optimizer.propose), jax.jit(optimizer.observe)

        def evaluate(image):
            loss, gradient = function(np.asarray(image).reshape(-1))
            return Point(
                image, Evaluation(jnp.float64(loss), jnp.asarray(gradient).reshape(1, 2, 3))
            )

        now = evaluate(jnp.full((1, 2, 3), 0.3))
        _, _, state, _ = observe(now, now, optimizer.init(now.image), True, ())
        for _ in range(num_steps):
            direction = np.asarray(state.known.direction).reshape(-1)
            accepted = False
            while not accepted:
                step = float(state.search.step)
                image, state = propose(now, state, ())
                trial = evaluate(image)
                accepted, failed, state, _ = observe(now, trial, state, False, ())
                trials += 1
                assert not failed
            before, after = (function(np.asarray(p.image).reshape(-1)) for p in (now, trial))
            if before[0] < 1e-20:
                break
            slope = before[1] @ direction
            assert slope < 0
            # Nocedal & Wright 2006, equation (3.7).
            assert after[0] <= before[0] + 1e-4 * step * slope
            assert abs(after[1] @ direction) <= 0.9 * abs(slope)
            now = trial
    assert trials < 1.4 * num_steps
    assert_allclose(np.asarray(now.image).reshape(-1), 1.0, atol=1e-4)


def test_lbfgs_never_goes_up_and_counts_its_evaluations():
    calls = []

    def counted(image, params, targets):
        jax.debug.callback(lambda: calls.append(1))
        return rosenbrock(image, params, targets)

    run = make_run_fn(counted, make_lbfgs(history=5), StopRule(10), chunk_steps=10)
    result = run(jnp.full((1, 2, 3), 0.3), None, None)
    jax.effects_barrier()
    assert np.all(np.diff(result.step_losses) <= 0)
    # Beside the counted ones: that of the final image.
    assert len(calls) == result.num_evaluations + 1
    assert result.num_evaluations >= 11


def test_lbfgs_fixed_takes_one_evaluation_per_step(target):
    run = make_run_fn(quadratic, make_lbfgs_fixed(1.0, history=5), StopRule(30), chunk_steps=10)
    result = run(jnp.full((2, 2, 3), 0.5), None, jnp.asarray(target))
    assert result.num_evaluations == 31
    assert_allclose(result.image, target, atol=1e-3)


@pytest.mark.parametrize("name", ["adam", "lbfgs", "lbfgs_fixed"])
def test_every_named_optimizer_gets_nearer(name, target):
    config = OptimizerConfig(optimizer=name)
    run = make_run_fn(quadratic, make_optimizer(config, num_steps=40), StopRule(40))
    result = run(jnp.full((2, 2, 3), 0.5), None, jnp.asarray(target))
    assert result.status == Status.COMPLETED
    assert result.losses["total"] < 0.05 * result.step_losses[0]


def test_the_cosine_schedule_ends_at_zero(target):
    config = OptimizerConfig(optimizer="adam", learning_rate=0.1, schedule="cosine")
    run = make_run_fn(quadratic, make_optimizer(config, num_steps=20), StopRule(20))
    images = []
    run(
        jnp.full((2, 2, 3), 0.5),
        None,
        jnp.asarray(target),
        next_stop=make_next_stop(every=1),
        callback=lambda progress: images.append(progress.image()),
    )
    moved = [np.max(np.abs(b - a)) for a, b in zip(images, images[1:], strict=False)]
    assert moved[0] == pytest.approx(0.1, rel=1e-3)
    assert moved[-1] < 0.002
