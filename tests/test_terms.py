"""Regions, stylization and balance in the terms, against sums written out here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

from neuart_jax.config.sections import LossConfig, RealismConfig
from neuart_jax.objective.build import find_layer_weights, make_terms
from neuart_jax.objective.term import make_objective, make_targets

LAYERS = {"shallow": 0.25, "deep": 2.0}
CONFIG = LossConfig(
    content_layers="deep",
    style_layers=LAYERS,
    content_loss="mean",
    style_loss="sum",
    content_weight=3,
    style_weight=10,
    tv_weight=0.0,
)
SHAPES = {"shallow": (6, 5, 3), "deep": (3, 2, 4)}


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def draw_memberships(seed, num_regions, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    drawn = {n: rng.random((*s[:2], num_regions)).astype(np.float32) for n, s in shapes.items()}
    return {name: values / values.sum(-1, keepdims=True) for name, values in drawn.items()}


def losses_of(config, image, content, styles, *, presence=(), places=(None, ())):
    """Evaluate all terms with features given instead of a network."""
    terms = make_terms(config, num_styles=len(styles), presence=presence)
    targets = make_targets(
        terms,
        content_image=jnp.zeros((6, 5, 3)),
        style_images=(jnp.zeros((6, 5, 3)),) * len(styles),
        content_features=content,
        style_features=tuple(styles),
        content_memberships=places[0],
        style_memberships=tuple(places[1]),
    )
    objective = make_objective(lambda params, _: image, terms)
    found = jax.jit(objective)(jnp.zeros((6, 5, 3)), None, targets)[1]
    return {name: float(value) for name, value in found.items()}, targets


def weighted_gram(features, weights):
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    w = weights.reshape(-1, 1).astype(np.float64)
    return (flat * w).T @ flat / w.sum()


def test_regions_are_compared_each_with_its_own_by_the_share_they_cover():
    image, content, style = draw(1), draw(2), draw(3)
    here, there = draw_memberships(4, 3), draw_memberships(5, 3)
    found, _ = losses_of(
        CONFIG, image, content, [style], presence=((True,),) * 3, places=(here, [there])
    )
    expected = 0.0
    for layer, weight in LAYERS.items():
        for region in range(3):
            w = here[layer][..., region]
            difference = weighted_gram(image[layer], w) - weighted_gram(
                style[layer], there[layer][..., region]
            )
            expected += weight * w.mean() * np.sum(difference**2)
    assert found["style"] == pytest.approx(expected, rel=1e-5)


def test_one_region_everywhere_is_no_region():
    image, content, style = draw(1), draw(2), draw(3)
    ones = {name: np.ones((*shape[:2], 1), np.float32) for name, shape in SHAPES.items()}
    whole, _ = losses_of(CONFIG, image, content, [style])
    found, _ = losses_of(
        CONFIG, image, content, [style], presence=((True,),), places=(ones, [ones])
    )
    assert found["style"] == pytest.approx(whole["style"], rel=1e-5)


@pytest.mark.parametrize("mix", ["separate", "blended"])
def test_a_regions_styles_share_it(mix):
    """Two styles in the first region, one in the second, with shares of 3 and 1."""
    image, content, styles = draw(1), draw(2), [draw(3), draw(4)]
    here, there = draw_memberships(5, 2), [draw_memberships(6, 2), draw_memberships(7, 2)]
    config = dataclasses.replace(CONFIG, style_mix=mix, style_blend=(3, 1))
    found, _ = losses_of(
        config, image, content, styles, presence=((True, True), (False, True)), places=(here, there)
    )
    total = 0.0
    for layer, weight in LAYERS.items():
        for region, shares in enumerate([{0: 0.75, 1: 0.25}, {1: 1.0}]):
            w = here[layer][..., region]
            own = weighted_gram(image[layer], w)
            theirs = {
                index: weighted_gram(styles[index][layer], there[index][layer][..., region])
                for index in shares
            }
            if mix == "blended":
                target = sum(share * theirs[index] for index, share in shares.items())
                loss = np.sum((own - target) ** 2)
            else:
                loss = sum(s * np.sum((own - theirs[i]) ** 2) for i, s in shares.items())
            total += 10 * weight * w.mean() * loss
    style_losses = {n: v for n, v in found.items() if n.startswith("style")}
    assert len(style_losses) == (1 if mix == "blended" else 2)
    assert found["total"] - 3 * found["content"] == pytest.approx(total, rel=1e-5)


def test_styles_with_a_region_each_are_one_term():
    image, content, styles = draw(1), draw(2), [draw(3), draw(4)]
    here = draw_memberships(5, 2)
    there = [draw_memberships(6, 2), draw_memberships(7, 2)]
    presence = ((False, True), (True, False))
    found, _ = losses_of(CONFIG, image, content, styles, presence=presence, places=(here, there))
    assert set(found) == {"total", "content", "style"}
    expected = 0.0
    for layer, weight in LAYERS.items():
        for region, index in enumerate([1, 0]):
            w = here[layer][..., region]
            theirs = weighted_gram(styles[index][layer], there[index][layer][..., region])
            expected += weight * w.mean() * np.sum((weighted_gram(image[layer], w) - theirs) ** 2)
    assert found["style"] == pytest.approx(expected, rel=1e-5)


def test_stylization_moves_the_target_from_the_content_to_the_style():
    content, style = draw(2), draw(3)
    config = dataclasses.replace(CONFIG, stylization=0.25)
    ones = {name: np.ones(shape[:2]) for name, shape in SHAPES.items()}
    found, _ = losses_of(config, draw(1), content, [style])
    expected = 0.0
    for layer, weight in LAYERS.items():
        own, c, s = (weighted_gram(f[layer], ones[layer]) for f in (draw(1), content, style))
        expected += weight * np.sum((own - 0.75 * c - 0.25 * s) ** 2)
    assert found["style"] == pytest.approx(expected, rel=1e-5)
    at_content, _ = losses_of(
        dataclasses.replace(CONFIG, stylization=0.0), content, content, [style]
    )
    assert at_content["total"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_balanced_style_begins_at_one_and_content_without_places_is_one(scale):
    """Whatever unit the features have: sums, unlike relative losses, grow with its fourth power."""
    content, style = draw(2), draw(3)
    scaled = [{n: scale * f for n, f in each.items()} for each in (content, style)]
    config = dataclasses.replace(CONFIG, balance=True, style_layers="shallow,deep")
    found, targets = losses_of(config, scaled[0], scaled[0], [scaled[1]])
    assert found["style"] == pytest.approx(1, rel=1e-5)
    assert found["content"] == pytest.approx(0, abs=1e-9)
    empty = {n: np.broadcast_to(f.mean((0, 1)), f.shape) for n, f in scaled[0].items()}
    found, _ = losses_of(config, empty, scaled[0], [scaled[1]])
    assert found["content"] == pytest.approx(1, rel=1e-5)
    weights = find_layer_weights(targets)
    assert set(weights) == {"content", "style"}
    plain, _ = losses_of(
        dataclasses.replace(config, balance=False), scaled[0], scaled[0], [scaled[1]]
    )
    assert 1 / plain["style"] <= max(weights["style"].values())


def test_balance_does_not_divide_by_nothing():
    content = draw(2)
    config = dataclasses.replace(CONFIG, balance=True)
    found, targets = losses_of(config, draw(1), content, [content])
    assert all(np.isfinite(list(found.values())))
    assert find_layer_weights(targets)["style"] == pytest.approx(LAYERS)


PIXELS = np.random.default_rng(7)
CONTENT_IMAGE, IMAGE = (PIXELS.random((6, 5, 3)).astype(np.float32) for _ in range(2))


def pixel_losses(config, image, content_image=CONTENT_IMAGE):
    """Evaluate terms that read no features."""
    config = dataclasses.replace(config, content_weight=0, style_weight=0)
    terms = make_terms(config)
    targets = make_targets(
        terms,
        content_image=jnp.asarray(content_image),
        style_images=(),
        content_features={},
        style_features=(),
    )
    total, found = make_objective(lambda params, _: {}, terms)(jnp.asarray(image), None, targets)
    return float(total), {name: float(value) for name, value in found.items()}, targets


@pytest.mark.parametrize("formula", sorted(reference.TV_LOSSES))
@pytest.mark.parametrize("scale", [1.0, 255.0])
@pytest.mark.parametrize("stylization", [0.0, 0.25, 1.0])
def test_a_share_of_the_photographs_own_steps_is_free(formula, scale, stylization):
    config = LossConfig(
        tv_weight=3, tv_loss=formula, pixel_scale=scale, stylization=stylization, range_weight=0
    )
    total, found, targets = pixel_losses(config, IMAGE)
    rest = IMAGE.astype(np.float64) - (1 - stylization) * CONTENT_IMAGE
    expected = reference.TV_LOSSES[formula](scale * rest)
    assert found["tv"] == pytest.approx(expected, rel=1e-5)
    # The coefficient stays whole, however little is painted.
    assert targets.weights["tv"] == 3
    assert total == pytest.approx(3 * expected, rel=1e-5)


def test_a_photograph_that_is_not_painted_is_smooth_enough():
    config = LossConfig(tv_weight=1, stylization=0.0)
    assert pixel_losses(config, CONTENT_IMAGE)[0] == 0
    # Another brightness has no steps of its own.
    assert pixel_losses(config, CONTENT_IMAGE + 0.25)[0] == pytest.approx(0, abs=1e-12)
    full = dataclasses.replace(config, stylization=1.0)
    plain = reference.TV_LOSSES["mean_squares"](CONTENT_IMAGE.astype(np.float64))
    assert pixel_losses(full, CONTENT_IMAGE)[0] == pytest.approx(plain, rel=1e-5)
    # ... nor does the photograph matter to what is painted in full.
    assert pixel_losses(full, IMAGE)[0] == pixel_losses(full, IMAGE, 1 - CONTENT_IMAGE)[0]


def test_a_range_is_a_term_with_a_coefficient():
    image = 3 * IMAGE - 1
    total, found, _ = pixel_losses(LossConfig(tv_weight=0, range_weight=50), image)
    distances = image - np.clip(image, 0, 1)
    assert found["range"] == pytest.approx(np.mean(distances**2), rel=1e-5)
    assert total == pytest.approx(50 * found["range"], rel=1e-6)
    for weight in (0, None):
        config = LossConfig(tv_weight=1, range_weight=weight)
        assert "range" not in {term.name for term in make_terms(config)}


def test_realism_is_a_term_with_a_coefficient():
    rng = np.random.default_rng(0)
    content = jnp.asarray(rng.random((7, 8, 3)), jnp.float32)
    config = dataclasses.replace(CONFIG, style_weight=0, content_weight=0, tv_weight=1)
    terms = make_terms(config, realism=RealismConfig(realism_weight=50.0))
    assert [term.name for term in terms] == ["tv", "realism"]
    targets = make_targets(
        terms,
        content_image=content,
        style_images=(),
        content_features={},
        style_features=(),
    )
    objective = make_objective(lambda params, image: {}, terms)
    # Another white balance is an affine change everywhere.
    toned = content * jnp.array([0.5, 0.8, 1.0]).reshape(1, 1, 3) + 0.1
    assert float(objective(toned, None, targets)[1]["realism"]) == pytest.approx(0, abs=1e-6)
    noisy = jnp.asarray(rng.random((7, 8, 3)), jnp.float32)
    loss, found = objective(noisy, None, targets)
    assert float(found["realism"]) > 1e-4
    assert float(loss) == pytest.approx(float(found["tv"] + 50 * found["realism"]), rel=1e-5)
    assert_allclose(np.isfinite(jax.grad(lambda x: objective(x, None, targets)[0])(noisy)), True)
