"""The temporal term and the warping error, against sums and derivatives written out here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax import Config, FeatureNetwork, stylize
from neuart_jax.losses.temporal import temporal_loss, warping_error
from neuart_jax.models.receptive_field import Reach
from neuart_jax.objective.build import range_term
from neuart_jax.objective.temporal import References, refer_to, temporal_term
from neuart_jax.objective.term import make_objective, make_targets
from neuart_jax.objective.tiled import make_tiled_objective
from neuart_jax.objective.windows import plan_tiles

HEIGHT, WIDTH = 14, 11


def draw(num_references=2, *, dtype=np.float64):
    rng = np.random.default_rng(3)
    image = rng.random((HEIGHT, WIDTH, 3)).astype(dtype)
    references = rng.random((num_references, HEIGHT, WIDTH, 3)).astype(dtype)
    return image, references, rng.random((num_references, HEIGHT, WIDTH)).astype(dtype)


def test_the_loss_is_the_weighted_mean_square(float64):
    image, references, weights = draw()
    total = 0.0
    for j in range(2):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                for channel in range(3):
                    difference = image[y, x, channel] - references[j, y, x, channel]
                    total += weights[j, y, x] * difference**2
    found = temporal_loss(*map(jnp.asarray, (image, references, weights)))
    assert_allclose(found, total / (3 * HEIGHT * WIDTH), rtol=1e-12)


def test_the_gradient_is_the_one_derived_by_hand(float64):
    """d/dx of mean c (x - omega)^2 is 2 c (x - omega) / D, added up over the references."""
    image, references, weights = draw()
    expected = np.sum(2 * weights[..., None] * (image - references), axis=0) / image.size
    found = jax.grad(temporal_loss)(*map(jnp.asarray, (image, references, weights)))
    assert_allclose(found, expected, rtol=1e-12)


def test_half_precision_is_summed_in_single():
    image, references, weights = draw(dtype=np.float32)
    exact = temporal_loss(*map(jnp.asarray, (image, references, weights)))
    coarse = temporal_loss(*(jnp.asarray(a, jnp.bfloat16) for a in (image, references, weights)))
    assert coarse.dtype == jnp.float32
    assert_allclose(coarse, exact, rtol=0.02)


def test_the_warping_error_is_the_mean_where_it_is_known():
    image, moved, _ = draw(1, dtype=np.float32)
    moved = moved[0]
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.6
    expected = np.mean(np.square(image.astype(np.float64) - moved)[mask])
    arrays = map(jnp.asarray, (image, moved, mask.astype(np.float32)))
    assert_allclose(warping_error(*arrays), expected, rtol=1e-5)
    assert warping_error(jnp.asarray(image), jnp.asarray(image), jnp.asarray(mask)) == 0
    nothing = jnp.zeros((HEIGHT, WIDTH))
    assert warping_error(jnp.asarray(image), jnp.asarray(moved), nothing) == 0


def objective_of(terms):
    image = jnp.zeros((HEIGHT, WIDTH, 3))
    targets = make_targets(
        terms, content_image=image, style_images=(), content_features={}, style_features=()
    )
    return make_objective(lambda params, image: {}, terms), targets


def test_a_first_frame_is_held_to_nothing():
    objective, targets = objective_of([temporal_term(weight=5.0)])
    image = jnp.asarray(draw(1, dtype=np.float32)[0])
    (total, _), gradient = jax.value_and_grad(objective, has_aux=True)(image, None, targets)
    assert total == 0
    assert_array_equal(gradient, 0)


def test_frames_share_a_program_and_fewer_references_weigh_nothing():
    traces = []

    def objective(image, targets):
        traces.append(1)
        return plain(image, None, targets)[0]

    plain, targets = objective_of([temporal_term(weight=5.0, num_references=3)])
    compiled = jax.jit(objective)
    image, references, weights = draw(2, dtype=np.float32)
    assert compiled(jnp.asarray(image), targets) == 0
    referred = refer_to(targets, References(references, weights))
    expected = 5 * temporal_loss(*map(jnp.asarray, (image, references, weights)))
    assert_allclose(compiled(jnp.asarray(image), referred), expected, rtol=1e-6)
    assert len(traces) == 1


def test_equal_terms_are_one():
    """A run finds its program by its terms, in which a coefficient is left out."""
    one, other = (temporal_term(weight=w, num_references=2) for w in (1.0, 5.0))
    assert dataclasses.replace(other, weight=1.0) == one
    assert temporal_term(weight=1.0, num_references=3) != one


@pytest.mark.parametrize(
    "shape", [(3, HEIGHT, WIDTH, 3), (1, HEIGHT, WIDTH + 1, 3), (1, WIDTH, HEIGHT, 3)]
)
def test_references_that_do_not_fit_are_refused(shape):
    _, targets = objective_of([temporal_term(weight=1.0, num_references=2)])
    with pytest.raises(ValueError, match="expected up to"):
        refer_to(targets, References(np.zeros(shape), np.zeros(shape[:3])))
    with pytest.raises(ValueError, match="expected up to"):
        refer_to(targets, References(np.zeros((1, HEIGHT, WIDTH, 3)), np.zeros((1, HEIGHT, 1))))


def test_windows_change_nothing():
    """It reads no layer, so that it sees the whole picture however that is cut."""
    terms = [temporal_term(weight=5.0), range_term(weight=1.0)]
    whole, targets = objective_of(terms)
    image, references, weights = draw(1, dtype=np.float32)
    targets = refer_to(targets, References(references, weights))
    tiling = plan_tiles(HEIGHT, WIDTH, halo=1, stride=1, window=8)
    tiled = make_tiled_objective(lambda params, image: {}, terms, tiling, dict[str, Reach]())
    for objective in (whole, tiled):
        (total, _), gradient = jax.value_and_grad(objective, has_aux=True)(
            jnp.asarray(image), None, targets
        )
        assert_allclose(total, 5 * temporal_loss(*map(jnp.asarray, (image, references, weights))))
        expected = 5 * 2 * weights[0][..., None] * (image - references[0]) / image.size
        assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)


def test_a_run_is_held_to_a_frame_where_it_is_known():
    """One's own frames as references, by a term of a run that has other ones as well."""
    content, style = smooth_image(24, 20, seed=3), smooth_image(20, 24, seed=4)
    earlier = smooth_image(24, 20, seed=9)
    weights = np.zeros((24, 20), np.float32)
    weights[:12] = 1
    plain = temporal_term(weight=1000.0)
    term = dataclasses.replace(
        plain,
        make_target=lambda inputs: References(
            jnp.asarray(earlier[None]), jnp.asarray(weights[None])
        ),
    )
    config = Config().replace(
        **{"content_layers": "pixels", "style_layers": "pixels", "scales": 1, "steps": 15},
        **{"content_weight": 1.0, "style_loss": "relative", "tv_weight": 0.0, "range_weight": 0.0},
    )
    network = FeatureNetwork(lambda params, image: {"pixels": params * image}, jnp.float32(2.0))
    free = stylize(content, style, config, network=network, extra_terms=[plain]).image
    held = stylize(content, style, config, network=network, extra_terms=[term]).image
    assert np.abs(held - earlier)[:12].mean() < 0.02 < np.abs(free - earlier)[:12].mean()
    # And where it isn't, to nothing.
    assert np.abs(held - earlier)[12:].mean() > 0.1
