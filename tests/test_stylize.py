"""The library as a researcher uses it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax import Config, FeatureNetwork, InputError, Status, Term, stylize, stylize_batch
from neuart_jax.engine import loop, state, step
from neuart_jax.engine.binding import load_run_network
from neuart_jax.engine.pairs import stylize_pairs
from neuart_jax.engine.plan import make_plan
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.inputs.initial_image import make_start
from neuart_jax.inputs.pair import make_pair
from neuart_jax.io.images import fill_resize, save_image
from neuart_jax.models.vgg import VGG

SHALLOW = Config().replace(
    model="vgg19",
    weights="fitted",
    content_layers="relu2_1",
    style_layers="relu1_1,relu2_1",
    steps=6,
    report_every=3,
)


@pytest.fixture(scope="module")
def network(content_image, style_image):
    config = resolve_config(SHALLOW)
    return load_run_network([make_plan(make_pair(config, content_image, style_image))])


def test_the_style_loss_falls_and_the_content_stays(content_image, style_image, network):
    result = stylize(content_image, style_image, SHALLOW.replace(steps=15), network=network)
    first = result.history[0]
    assert result.status == Status.COMPLETED
    assert result.image.shape == content_image.shape
    assert result.image.dtype == np.float32
    assert result.losses["style"] < 0.2 * first["style"]
    # Nearer to the content than to any other picture: correlation of the luminances.
    correlation = np.corrcoef(result.image.mean(-1).ravel(), content_image.mean(-1).ravel())
    assert correlation[0, 1] > 0.5


def test_calls_of_one_shape_compile_once(content_image, style_image, network):
    traces = []
    module = VGG(pooling="average", padding="reflect")

    def feature_fn(params, image):
        traces.append(image.shape)
        return module.apply(params.variables, image, layers=("relu1_1", "relu2_1"))

    own = FeatureNetwork(feature_fn, network.params)
    config = SHALLOW.replace(optimizer="adam")
    stylize(content_image, style_image, config, network=own)
    first = len(traces)
    changed = config.replace(style_weight=2.0, style_layers="relu1_1:3,relu2_1:4", seed=9)
    stylize(content_image[::-1], style_image, changed, network=own)
    assert len(traces) == first


def test_no_program_is_compiled_for_other_numbers(content_image, style_image, network):
    """Nor for another number of steps, which a loop in the program counts."""
    compiled = []

    def listen(event, duration, fun_name="", **_):
        if event.endswith("/backend_compile_duration"):
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)

    def count(**settings):
        compiled.clear()
        result = stylize(content_image, style_image, SHALLOW.replace(**settings), network=network)
        assert len(result.step_losses) == result.num_steps + 1
        return sum("chunk" in name or "init" in name for name in compiled)

    jax.jit(lambda x: 3 * x + 1)(jnp.ones(7))
    assert compiled  # Somebody listens.
    count()
    for numbers in (
        {"steps": 7, "report_every": 4},
        {"stop_patience": 3, "stop_tolerance": 0.5},
        {"content_weight": 3.0, "style_weight": 0.5, "tv_weight": 2.0, "seed": 4},
        {"beta1": 0.5, "learning_rate": 0.5},  # L-BFGS doesn't ask for them.
    ):
        assert count(**numbers) == 0, numbers
    # What only this test asks for.
    adam = {"optimizer": "adam", "average": 0.9}
    assert count(**adam) > 0
    others = {"learning_rate": 0.1, "beta1": 0.5, "beta2": 0.9, "epsilon": 0.1, "steps": 5}
    assert count(**{**adam, **others, "average": 0.5}) == 0


def test_losses_of_more_steps_than_a_state_holds(monkeypatch, content_image, style_image, network):
    whole = stylize(content_image, style_image, SHALLOW.replace(steps=11), network=network)
    for module in (step, loop, state):
        monkeypatch.setattr(module, "NUM_RECENT", 4)
    # Another program, since the size of the state is part of it.
    config = SHALLOW.replace(steps=11, report_every=20, history=9)
    few = stylize(content_image, style_image, config, network=network)
    assert len(few.step_losses) == 12
    assert few.history[-1]["step"] == 11 and len(few.history) == 2
    assert_allclose(few.step_losses[:9], whole.step_losses[:9], rtol=1e-5)
    assert few.step_losses[-1] < few.step_losses[8]


def test_a_loss_of_ones_own(content_image, style_image, network):
    darkness = Term(
        name="darkness",
        weight=1e4,
        make_target=lambda inputs: jnp.float32(0.1),
        loss_fn=lambda image, features, target: jnp.square(jnp.mean(image) - target),
    )
    # Adam keeps pixels in [0, 1]; L-BFGS would reach the mean with negative ones.
    config = SHALLOW.replace(optimizer="adam", learning_rate=0.05, steps=40, style_weight=0.1)
    result = stylize(content_image, style_image, config, network=network, extra_terms=[darkness])
    assert abs(result.image.mean() - 0.1) < 0.05
    assert result.losses["darkness"] == pytest.approx((result.image.mean() - 0.1) ** 2, rel=1e-2)


def test_a_network_of_ones_own(content_image, style_image):
    def edges(params, image):
        gray = jnp.mean(image, axis=-1)
        steps = [gray[1:, 1:] - gray[:-1, 1:], gray[1:, 1:] - gray[1:, :-1]]
        return {"edges": params * jnp.stack(steps, axis=-1), "pixels": image}

    config = Config().replace(content_layers="edges", style_layers="pixels", steps=20, tv_weight=0)
    result = stylize(
        content_image, style_image, config, network=FeatureNetwork(edges, jnp.float32(2.0))
    )
    # The style of this network is the color statistics alone.
    style_mean = style_image.reshape(-1, 3).mean(0)
    before = np.abs(content_image.reshape(-1, 3).mean(0) - style_mean).max()
    after = np.abs(result.image.reshape(-1, 3).mean(0) - style_mean).max()
    assert after < 0.35 * before


@pytest.mark.parametrize("kind", ["content", "style", "noise", "blend", "gray"])
def test_starts(kind, content_image, style_image):
    run = Config().replace(init=kind, noise_ratio=0.25, noise_scale=0.2, seed=3).run
    start = np.asarray(make_start(run, content_image=content_image, style_image=style_image))
    noise = np.clip(
        0.5 + 0.2 * np.asarray(jax.random.normal(jax.random.key(3), content_image.shape)), 0, 1
    )
    expected = {
        "content": content_image,
        "style": fill_resize(style_image, *content_image.shape[:2]),
        "noise": noise,
        "blend": 0.25 * noise + 0.75 * content_image,
        "gray": np.full_like(content_image, 0.5),
    }[kind]
    assert start.dtype == np.float32
    assert_allclose(start, expected, atol=1e-6)


def test_a_file_as_start_is_scaled_and_cropped(tmp_path, content_image, style_image):
    save_image(tmp_path / "start.png", style_image)
    run = Config().replace(init=str(tmp_path / "start.png")).run
    start = make_start(run, content_image=content_image, style_image=style_image)
    # Eight bits in the file.
    assert_allclose(start, fill_resize(style_image, *content_image.shape[:2]), atol=2 / 255)


def test_the_same_seed_gives_the_same_picture(content_image, style_image, network):
    config = SHALLOW.replace(init="noise")
    once = stylize(content_image, style_image, config, network=network)
    again = stylize(content_image, style_image, config, network=network)
    other = stylize(content_image, style_image, config.replace(seed=1), network=network)
    assert_array_equal(once.image, again.image)
    assert np.max(np.abs(once.image - other.image)) > 0.05


def test_defaults_by_model_and_aliases_are_resolved():
    fitted = Config().replace(model="vgg19", weights="fitted")
    vgg = resolve_config(fitted.replace(content_layers="block4_conv2"))
    assert vgg.losses.content_layers == (("relu4_2", 1.0),)
    assert dict(vgg.losses.style_layers) == {f"relu{b}_1": 0.2 for b in range(1, 6)}
    resnet = resolve_config(Config().replace(model="resnet50", content_layers="stem:2"))
    assert resnet.losses.content_layers == (("conv1_relu", 2.0),)
    assert len(resnet.losses.style_layers) == 3


@pytest.mark.slow
def test_resnet50_runs_from_end_to_end(content_image, style_image):
    config = Config().replace(
        model="resnet50",
        weights="fitted",
        content_layers="conv2_block1_out",
        style_layers="stem,conv2_block1_out",
        steps=5,
    )
    result = stylize(content_image, style_image, config)
    assert result.step_losses[-1] < 0.7 * result.step_losses[0]


@pytest.fixture(scope="module")
def three_pairs():
    contents = [smooth_image(48, 64, seed=seed) for seed in (1, 2, 3)]
    return contents, [smooth_image(56, 40 + seed, seed=seed) for seed in (4, 5, 6)]


@pytest.mark.slow
def test_a_batch_equals_its_single_runs(three_pairs, network):
    """Up to rounding, which later steps would let grow."""
    config = SHALLOW.replace(init="noise", steps=4)
    together = stylize_batch(*three_pairs, config, network=network)
    for one, content, style in zip(together, *three_pairs, strict=True):
        alone = stylize(content, style, config, network=network)
        assert_allclose(one.step_losses, alone.step_losses, rtol=1e-4)
        assert_allclose(one.image, alone.image, atol=2e-3)
        assert one.num_evaluations == alone.num_evaluations


def test_pairs_of_a_batch_have_coefficients_and_seeds_of_their_own(three_pairs, network):
    configs = [
        SHALLOW.replace(
            **{"init": "noise", "seed": seed, "content_weight": 10.0**seed},
            **{"style_layers": layers, "steps": 4, "optimizer": "adam"},
        )
        for seed, layers in enumerate(("relu1_1,relu2_1", "relu1_1:3,relu2_1:1", "relu1_1,relu2_1"))
    ]
    plans = [
        make_plan(make_pair(resolve_config(config), content, style))
        for config, content, style in zip(configs, *three_pairs, strict=True)
    ]
    together = stylize_pairs(plans, network=network)
    for one, config, content, style in zip(together, configs, *three_pairs, strict=True):
        alone = stylize(content, style, config, network=network)
        assert_allclose(one.step_losses, alone.step_losses, rtol=1e-4)
        assert_allclose(one.image, alone.image, atol=2e-3)


@pytest.mark.slow
def test_pairs_of_a_batch_are_painted_each_as_far_as_it_is_told(three_pairs, network):
    """How far is data: one program for the batch, and for each pair its own degree."""
    config = SHALLOW.replace(steps=4, range_weight=50)
    configs = [config.replace(stylization=degree) for degree in (0.3, 0.7, 1.0)]
    plans = [
        make_plan(make_pair(resolve_config(config), content, style))
        for config, content, style in zip(configs, *three_pairs, strict=True)
    ]
    assert plans[0].traits == plans[1].traits == plans[2].traits
    together = stylize_pairs(plans, network=network)
    for one, config, content, style in zip(together, configs, *three_pairs, strict=True):
        alone = stylize(content, style, config, network=network)
        assert_allclose(one.step_losses, alone.step_losses, rtol=1e-4)
        assert_allclose(one.image, alone.image, atol=2e-3)


def test_what_can_be_refused_is_before_weights_are_looked_for(monkeypatch):
    monkeypatch.setattr("neuart_jax.engine.resolution.settle_network", pytest.fail)
    with pytest.raises(InputError, match="vgg19 has no layer 'relu6_1'"):
        stylize(image_of(), image_of(), Config().replace(style_layers="relu6_1"))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"steps": 5}, "numbers of steps"),
        ({"stop_patience": 5}, "numbers of steps"),
        ({"beta1": 0.5}, "numbers of the optimizer"),
        ({"tv_weight": 0}, "settings"),
        ({"weights": "random"}, "settings"),
        ({"range_weight": 300}, "settings"),
        ({"stylization": 0}, "settings"),
        ({"save_every": 2}, "frames"),
    ],
)
def test_other_settings_are_no_batch(settings, name, three_pairs):
    contents, styles = three_pairs
    configs = [resolve_config(SHALLOW), resolve_config(SHALLOW.replace(**settings))]
    plans = [make_plan(make_pair(c, contents[0], styles[0])) for c in configs]
    assert plans[0].traits != plans[1].traits
    with pytest.raises(InputError, match=f"pair 2 is unlike pair 1 in its {name};"):
        stylize_pairs(plans)


def test_losses_that_sort_want_styles_of_one_size(three_pairs):
    config = resolve_config(SHALLOW.replace(style_loss="histogram"))
    plans = [make_plan(make_pair(config, *each)) for each in zip(*three_pairs, strict=True)]
    with pytest.raises(InputError, match=r"its sizes of the styles: \(\(56, 45\),\) and"):
        stylize_pairs(plans)


@pytest.mark.slow
def test_a_picture_in_windows_is_the_picture(network):
    """Both scales and the style are larger than a window."""
    content, style = smooth_image(203, 210, seed=1), smooth_image(210, 198, seed=2)
    config = SHALLOW.replace(
        **{"steps": 1, "coarse_steps": 1, "optimizer": "adam"},
        **{"balance": True, "color": "luminance", "auto_masks": 2},
    )
    whole = stylize(content, style, config, network=network)
    windows = stylize(content, style, config.replace(window=80), network=network)
    assert_allclose(windows.step_losses, whole.step_losses, rtol=1e-5)
    # A first step of Adam goes by the gradient's sign, which rounding may change where it is zero.
    assert np.mean(np.abs(windows.image - whole.image) > 1e-4) < 1e-3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"window": 10}, "a window of 10 pixels is too small for these layers; expected at least"),
        ({"window": 80, "style_loss": "histogram"}, "'style' needs all features of a layer"),
        ({"window": 80, "shard_rows": 2}, "--window=80 came with --shard_rows=2"),
    ],
)
def test_windows_that_cannot_be(settings, sentence, network):
    picture = smooth_image(100, 100, seed=1)
    with pytest.raises(InputError, match=sentence):
        stylize(picture, picture, SHALLOW.replace(**settings), network=network)


def test_a_network_of_ones_own_is_seen_whole():
    picture = smooth_image(100, 100, seed=1)
    own = FeatureNetwork(lambda params, image: {"pixels": image}, ())
    config = Config().replace(content_layers="pixels", style_layers="pixels", window=50)
    with pytest.raises(InputError, match="window=50 came with a custom network"):
        stylize(picture, picture, config, network=own)


@pytest.mark.parametrize("init", ["content", "noise"])
def test_line_searches_take_few_evaluations(init, three_pairs, network):
    config = SHALLOW.replace(steps=10, init=init)
    results = stylize_batch(*three_pairs, config, network=network)
    assert [result.num_steps for result in results] == [10, 10, 10]
    # A batch is evaluated as often as its slowest pair.
    assert max(result.num_evaluations for result in results) <= 1.2 * 10
    for result in results:
        assert np.all(np.diff(result.step_losses) < 0)


@pytest.mark.parametrize(
    ("contents", "styles", "sentence"),
    [
        ([], [], "there are 0 content images, 0 style images"),
        ([(32, 32)], [(32, 32)] * 2, "there are 1 content images, 2 style images"),
        ([(32, 32), (32, 40)], [(32, 32)] * 2, r"its size of the content: \(32, 40\) and \(32, 32"),
    ],
)
def test_pairs_that_are_no_batch_are_one_sentence(contents, styles, sentence):
    contents, styles = ([image_of(shape=(*s, 3)) for s in part] for part in (contents, styles))
    with pytest.raises(InputError, match=sentence):
        stylize_batch(contents, styles, SHALLOW)


def image_of(value=0.5, shape=(32, 32, 3), dtype=np.float32):
    return np.full(shape, value, dtype)


@pytest.mark.parametrize(
    ("content", "style", "settings", "sentence"),
    [
        (image_of(shape=(32, 32)), image_of(), {}, r"the content image has the shape \(32, 32\)"),
        (image_of(), image_of(shape=(8, 8, 4)), {}, "the style image has the shape"),
        (image_of(128, dtype=np.uint8), image_of(), {}, "the content image holds uint8"),
        (image_of(1.5), image_of(), {}, "has values from 1.5 to 1.5"),
        (image_of(np.nan), image_of(), {}, "has values from nan to nan"),
        (image_of(shape=(1, 1, 3)), image_of(), {}, "the content image is 1x1 pixels; expected"),
        (image_of(), image_of(shape=(31, 64, 3)), {}, "the style image is 64x31 pixels"),
        (image_of(), image_of(), {"model": "vgg91"}, "model 'vgg91' is not known.*'vgg19'"),
        (image_of(), image_of(), {"style_layers": "relu6_1"}, "vgg19 has no layer 'relu6_1'.*relu"),
        (
            image_of(),
            image_of(),
            {"style_layers": "relu4_2,block4_conv2"},
            "'relu4_2' comes 2 times",
        ),
        (image_of(), image_of(), {"style_weight": 0, "content_weight": 0}, "are both 0"),
        (image_of(), image_of(), {"weights": "nowhere.h5"}, "nowhere.h5 is not a file"),
    ],
)
def test_bad_input_is_one_sentence(content, style, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        stylize(content, style, Config().replace(**settings))


def test_an_unknown_start_is_one_sentence(content_image, style_image, network):
    config = SHALLOW.replace(init="contnet")
    with pytest.raises(InputError, match="neither a kind of initial image nor a file.*'content'"):
        stylize(content_image, style_image, config, network=network)


def test_a_layer_that_ones_own_network_lacks(content_image, style_image):
    own = FeatureNetwork(lambda params, image: {"pixels": image}, None)
    config = Config().replace(content_layers="pixel", style_layers="pixels")
    with pytest.raises(InputError, match="the network has no layer 'pixel'.*'pixels'"):
        stylize(content_image, style_image, config, network=own)


def test_the_name_of_a_term_can_be_taken(content_image, style_image, network):
    term = Term(name="style", weight=1, make_target=lambda i: (), loss_fn=lambda *a: jnp.zeros(()))
    with pytest.raises(InputError, match="the name of the loss term 'style' is taken"):
        stylize(content_image, style_image, SHALLOW, network=network, extra_terms=[term])
