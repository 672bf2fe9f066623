"""Several styles: a loss for each, or one target blended from all of them."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax import Config, FeatureNetwork, InputError, stylize
from neuart_jax.config.sections import LossConfig
from neuart_jax.engine.binding import load_run_network
from neuart_jax.engine.plan import make_plan
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.inputs.pair import make_pair
from neuart_jax.objective.build import make_terms
from neuart_jax.objective.term import make_objective, make_targets

LAYERS = {"shallow": 0.25, "deep": 2.0}
CONFIG = LossConfig(
    content_layers="deep",
    style_layers=LAYERS,
    content_loss="mean",
    style_loss="mean",
    content_weight=3,
    style_weight=10,
    tv_weight=0.5,
)
SHAPES = {"shallow": (6, 5, 3), "deep": (3, 2, 4)}


def random_features(seed, *, scale=1):
    """Return features of a picture; a larger one has more positions of the same channels."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.random((scale * height, width, channels)), jnp.float32)
        for name, (height, width, channels) in SHAPES.items()
    }


OWN, CONTENT = random_features(0), random_features(1)
STYLES = (random_features(2), random_features(3, scale=2), random_features(4, scale=3))
IMAGE = jnp.asarray(np.random.default_rng(5).random((6, 5, 3)), jnp.float32)


def evaluate(styles, **changes):
    """Return the objective's terms and coefficients with the given styles' features."""
    config = LossConfig(**{**vars(CONFIG), **changes})
    terms = make_terms(config, num_styles=len(styles))
    targets = make_targets(
        terms,
        content_image=IMAGE,
        style_images=(IMAGE,) * len(styles),
        content_features=CONTENT,
        style_features=styles,
    )
    _, losses = make_objective(lambda params, image: params, terms)(IMAGE, OWN, targets)
    coefficients = {name: float(weight) for name, weight in targets.weights.items()}
    return {name: float(value) for name, value in losses.items()}, coefficients


@pytest.mark.parametrize(
    ("blend", "shares"),
    [
        ((), (1 / 3, 1 / 3, 1 / 3)),
        ((3, 1, 0.5), (6 / 9, 2 / 9, 1 / 9)),
        ((1, 0, 3), (0.25, 0, 0.75)),
    ],
)
def test_separate_styles_are_the_weighted_sum_of_single_ones(blend, shares):
    losses, coefficients = evaluate(STYLES, style_blend=blend)
    total = 3 * losses["content"] + 0.5 * losses["tv"]
    for number, (style, share) in enumerate(zip(STYLES, shares, strict=True), 1):
        single = evaluate((style,))[0]["style"]
        total += 10 * share * single
        if share:
            assert losses[f"style{number}"] == pytest.approx(single, rel=1e-6)
            assert coefficients[f"style{number}"] == pytest.approx(10 * share, rel=1e-6)
        else:
            assert f"style{number}" not in losses
    assert losses["total"] == pytest.approx(total, rel=1e-6)
    assert len(coefficients) == 2 + sum(share > 0 for share in shares)


@pytest.mark.parametrize(
    ("blend", "shares"), [((), (1 / 3, 1 / 3, 1 / 3)), ((2, 0, 6), (0.25, 0, 0.75))]
)
def test_a_blended_target_is_the_weighted_mean_of_gram_matrices(blend, shares):
    losses, coefficients = evaluate(STYLES, style_blend=blend, style_mix="blended")
    expected = 0.0
    for name, weight in LAYERS.items():
        target = sum(
            share * reference.gram(np.float64(style[name])) / style[name][..., 0].size
            for style, share in zip(STYLES, shares, strict=True)
        )
        found = reference.gram(np.float64(OWN[name])) / OWN[name][..., 0].size
        expected += weight * np.mean((found - target) ** 2)
    assert losses["style"] == pytest.approx(expected, rel=1e-5)
    assert coefficients == {"content": 3, "style": 10, "tv": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("formula", ["wasserstein", "mean_std", "sliced_wasserstein", "histogram"])
def test_blended_distributions_are_those_of_one_style_if_all_are_the_same(formula):
    blended, _ = evaluate(STYLES, style_loss=formula, style_mix="blended")
    same, _ = evaluate((STYLES[1],) * 3, style_loss=formula, style_mix="blended")
    single, _ = evaluate((STYLES[1],), style_loss=formula)
    assert same["style"] == pytest.approx(single["style"], rel=1e-4)
    assert blended["style"] != pytest.approx(single["style"], rel=1e-2)


@pytest.mark.parametrize("mix", ["separate", "blended"])
def test_only_the_proportions_of_the_shares_count(mix):
    once = evaluate(STYLES, style_blend=(1, 2, 3), style_mix=mix)
    assert_allclose(
        list(evaluate(STYLES, style_blend=(1e6, 2e6, 3e6), style_mix=mix)[0].values()),
        list(once[0].values()),
        rtol=1e-6,
    )
    equal = evaluate(STYLES, style_blend=(5, 5, 5), style_mix=mix)
    assert equal[0] == pytest.approx(evaluate(STYLES, style_mix=mix)[0], rel=1e-6)


@pytest.mark.parametrize("mix", ["separate", "blended"])
def test_one_style_is_one_term_whatever_the_mix(mix):
    plain = evaluate(STYLES[:1])
    assert evaluate(STYLES[:1], style_mix=mix, style_blend=(7,)) == plain
    assert list(plain[1]) == ["content", "style", "tv"]


@pytest.mark.parametrize("mix", ["separate", "blended"])
@pytest.mark.parametrize(
    ("blend", "came"),
    [
        ((1, 2), "style_blend has 2 shares with the sum 3"),
        ((1, 2, 3, 4), "style_blend has 4 shares with the sum 10"),
        ((0, 0, 0), "style_blend has 3 shares with the sum 0"),
        ((1e308, 1e308, 1e308), "style_blend has 3 shares with the sum inf"),
    ],
)
def test_shares_that_do_not_fit_are_one_sentence(mix, blend, came):
    with pytest.raises(InputError) as caught:
        evaluate(STYLES, style_blend=blend, style_mix=mix)
    assert str(caught.value) == (
        f"{came}; expected 3 shares, one for each style, not all of them 0; give one share for "
        "every style, or none at all."
    )


PIXELS = FeatureNetwork(lambda params, image: {"pixels": image}, None)
RUN = Config().replace(
    content_layers="pixels",
    style_layers="pixels",
    # A relative loss would listen to the darker style more.
    style_loss="mean",
    steps=12,
    report_every=6,
    scales=1,
    tv_weight=0,
    content_weight=0.01,
)


@pytest.fixture(scope="module")
def dark_and_bright():
    return 0.4 * smooth_image(20, 30, seed=3), 0.6 + 0.4 * smooth_image(34, 16, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["separate", "blended"])
def test_styles_of_different_sizes_pull_in_proportion(content_image, dark_and_bright, mix):
    def mean_of(blend):
        config = RUN.replace(style_mix=mix, style_blend=blend)
        return stylize(content_image, dark_and_bright, config, network=PIXELS).image.mean()

    dark, middle, bright = (mean_of(blend) for blend in ((9, 1), (), (1, 9)))
    assert dark + 0.05 < middle < bright - 0.05
    # A style without a share has no part in it.
    alone = stylize(content_image, dark_and_bright[0], RUN, network=PIXELS).image
    shared = stylize(
        content_image,
        dark_and_bright,
        RUN.replace(style_blend=(2, 0), style_mix=mix),
        network=PIXELS,
    )
    assert_allclose(shared.image, alone, atol=1e-5)


def test_shares_are_data_of_one_program(content_image, dark_and_bright):
    traces = []

    def counted(params, image):
        traces.append(image.shape)
        return {"pixels": image}

    network = FeatureNetwork(counted, None)
    stylize(content_image, dark_and_bright, RUN.replace(style_blend=(3, 1)), network=network)
    first = len(traces)
    again = RUN.replace(style_blend=(1, 5), style_weight=2)
    stylize(content_image, dark_and_bright, again, network=network)
    assert len(traces) == first


def test_a_named_network_takes_shares_as_well(content_image, style_image):
    """Sizes are checked, and weights are fitted, with as many styles as there are."""
    config = Config().replace(
        weights="random",
        content_layers="relu1_1",
        style_layers="relu1_1",
        style_blend=(3, 1),
        steps=1,
        scales=1,
    )
    styles = [style_image[:24, :20], style_image[20:50]]
    content = content_image[:24, :24]
    result = stylize(content, styles, config)
    assert {"style1", "style2"} < set(result.losses)
    assert {"style1", "style2"} < set(result.history[0])
    resolved = resolve_config(config)
    both, other = (
        load_run_network([make_plan(make_pair(resolved, content, pictures))])
        for pictures in (styles, [styles[0], style_image[30:54, :20]])
    )
    assert both.identity["sha256"] != other.identity["sha256"]
    with pytest.raises(InputError, match="the style image 2 is 1x3 pixels; expected at least 2"):
        make_plan(make_pair(resolved, content, [style_image, style_image[:3, :1]]))
    with pytest.raises(InputError, match="style_blend has 2 shares.*expected 3 shares"):
        stylize(content, [*styles, style_image], config)


def test_what_is_no_list_of_styles(content_image, style_image):
    with pytest.raises(InputError, match="there is no style image"):
        stylize(content_image, [], RUN, network=PIXELS)
    with pytest.raises(InputError, match="the style image 2 has the shape"):
        stylize(content_image, [style_image, style_image[..., 0]], RUN, network=PIXELS)
    one = stylize(content_image, style_image, RUN, network=PIXELS).image
    assert_array_equal(one, stylize(content_image, (style_image,), RUN, network=PIXELS).image)
