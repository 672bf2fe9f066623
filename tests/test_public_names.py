"""What a researcher finds: documented names, and no surprise where something doesn't fit."""

import dataclasses
import functools
import inspect
import pydoc
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from conftest import smooth_image
from numpy.testing import assert_allclose

import neuart_jax
from neuart_jax import (
    Config,
    FeatureNetwork,
    InputError,
    Term,
    losses,
    make_objective,
    optimizers,
    stylize,
    stylize_batch,
)

CONTENT, STYLE = smooth_image(24, 20, seed=3), smooth_image(20, 24, seed=4)
CONFIG = Config().replace(
    **{"content_layers": "pixels", "style_layers": "pixels", "scales": 1, "steps": 4},
    **{"content_weight": 1.0, "style_loss": "relative", "tv_weight": 0.0, "range_weight": 0.0},
)
NETWORK = FeatureNetwork(lambda params, image: {"pixels": params * image}, jnp.float32(2.0))


@pytest.mark.parametrize("module", [neuart_jax, losses, optimizers], ids=lambda m: m.__name__)
def test_every_public_name_is_worth_its_help(module):
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if not callable(value) or not getattr(value, "__module__", "").startswith("neuart_jax"):
            continue
        text = inspect.getdoc(value) or ""
        assert text.splitlines()[0].endswith("."), name
        assert pydoc.render_doc(value)
        if not inspect.isfunction(value):
            fields = getattr(value, "_fields", None) or [
                field.name for field in getattr(value, "__dataclass_fields__", {}).values()
            ]
            if fields and name not in ("Config",):
                assert all(f"  {field}: " in text for field in fields), name
            continue
        parameters = [p for p in inspect.signature(value).parameters if p not in ("self", "cls")]
        for parameter in parameters:
            assert f"{parameter}: " in text, (name, parameter)


def test_what_writes_folders_is_loaded_when_it_is_asked_for():
    code = (
        "import sys, neuart_jax; assert 'neuart_jax.runs.driver' not in sys.modules;"
        "assert {'transfer', 'stylize'} <= set(dir(neuart_jax)); print(neuart_jax.__version__);"
        "neuart_jax.transfer; assert 'neuart_jax.runs.driver' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == neuart_jax.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        neuart_jax.nothing  # noqa: B018


@functools.cache
def objective():
    return make_objective(CONTENT, STYLE, CONFIG, network=NETWORK)


def test_the_bare_objective_is_what_a_run_reports():
    result = stylize(CONTENT, STYLE, CONFIG, network=NETWORK)
    total, terms = objective()(jnp.asarray(result.image))
    assert_allclose(total, result.losses["total"], rtol=1e-5)
    assert terms.keys() == result.losses.keys()
    for name, value in result.losses.items():
        assert_allclose(terms[name], value, rtol=1e-4, atol=1e-7)


def test_the_bare_objective_by_its_formulas():
    """Features are twice the pixels; relative errors of pixels and of their Gram matrix."""
    image = smooth_image(24, 20, seed=9).astype(np.float64)
    pixels = CONTENT.astype(np.float64)
    content = np.sum((image - pixels) ** 2) / np.sum(pixels**2)
    gram, target = (
        np.einsum("hwi,hwj->ij", x, x) / (x.shape[0] * x.shape[1])
        for x in (image, STYLE.astype(np.float64))
    )
    style = np.sum((gram - target) ** 2) / np.sum(target**2)
    total, terms = objective()(jnp.asarray(image, jnp.float32))
    assert_allclose([terms["content"], terms["style"]], [content, style], rtol=1e-4)
    assert_allclose(total, content + CONFIG.losses.style_weight * style, rtol=1e-4)


def test_the_bare_objective_can_be_differentiated_mapped_and_given_other_data():
    loss = lambda image: objective()(image)[0]  # noqa: E731
    image = jnp.asarray(smooth_image(24, 20, seed=9))
    direction = jnp.asarray(np.random.default_rng(0).normal(size=image.shape), jnp.float32)
    gradient = jax.grad(loss)(image)
    _, slope = jax.jvp(loss, (image,), (direction,))
    assert_allclose(slope, jnp.vdot(gradient, direction), rtol=1e-4)
    hessian_times = jax.jvp(jax.grad(loss), (image,), (direction,))[1]
    step = 1e-2
    difference = (jax.grad(loss)(image + step * direction) - gradient) / step
    assert_allclose(hessian_times, difference, atol=0.1 * float(jnp.abs(difference).max()))
    assert_allclose(jax.vmap(loss)(jnp.stack([image, 0 * image])), [loss(image), loss(0 * image)])
    # Four style weights in one call.
    bound = objective()
    weights = jnp.asarray([0.0, 1.0, 2.0, 3.0])

    def total(weight):
        targets = bound.data.targets
        changed = targets._replace(weights={**targets.weights, "style": weight})
        return bound.apply(bound.data._replace(targets=changed), image)[0]

    totals = jax.vmap(total)(weights)
    _, terms = bound(image)
    assert_allclose(totals, terms["content"] + weights * terms["style"], rtol=1e-5)


def test_scipy_and_a_color_of_three_numbers_minimize_it():
    bound = objective()

    def loss(color):
        return bound(jnp.broadcast_to(color.reshape(1, 1, 3), CONTENT.shape))[0]

    value = jax.jit(jax.value_and_grad(loss))
    found = scipy.optimize.minimize(
        lambda c: tuple(np.asarray(x, np.float64) for x in value(jnp.asarray(c, jnp.float32))),
        np.full(3, 0.5),
        jac=True,
        method="L-BFGS-B",
    )
    start, end = value(jnp.full(3, 0.5)), value(jnp.asarray(found.x, jnp.float32))
    assert end[0] < start[0]
    assert np.abs(end[1]).max() < 1e-3 * np.abs(start[1]).max()


@pytest.mark.parametrize(
    "transform",
    [
        optax.lion(0.02),
        optax.adam(optax.linear_schedule(0.0, 0.05, 3)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    ],
    ids=["lion", "adam", "sgd"],
)
def test_any_optax_transformation_moves_the_pixels(transform):
    result = stylize(CONTENT, STYLE, CONFIG, network=NETWORK, optimizer=transform)
    image = jnp.asarray(CONTENT)
    state = transform.init(image)
    loss = lambda image: objective()(image)[0]  # noqa: E731
    expected = [loss(image)]
    for _ in range(4):
        step, state = transform.update(jax.grad(loss)(image), state, image)
        image = jnp.clip(optax.apply_updates(image, step), 0, 1)
        expected.append(loss(image))
    assert_allclose(result.step_losses, expected, rtol=1e-4)
    [one] = stylize_batch([CONTENT], [STYLE], CONFIG, network=NETWORK, optimizer=transform)
    assert_allclose(one.step_losses, expected, rtol=1e-4)


def test_the_same_transformation_again_compiles_nothing(monkeypatch):
    transform, traces = optax.lion(0.02), []

    def feature_fn(params, image):
        traces.append(1)
        return {"pixels": image}

    network = FeatureNetwork(feature_fn, None)
    stylize(CONTENT, STYLE, CONFIG, network=network, optimizer=transform)
    count = len(traces)
    stylize(CONTENT, STYLE, CONFIG.replace(steps=6), network=network, optimizer=transform)
    assert len(traces) == count


def darkness(weight=1.0, loss_fn=None, layers=()):
    return Term(
        name="darkness",
        weight=weight,
        make_target=lambda inputs: jnp.float32(0.0),
        loss_fn=loss_fn or (lambda image, features, target: jnp.mean(image)),
        layers=layers,
    )


def test_a_terms_weight_is_data():
    traces = []

    def loss_fn(image, features, target):
        traces.append(1)
        return jnp.mean(image)

    term = darkness(loss_fn=loss_fn)
    stylize(CONTENT, STYLE, CONFIG, network=NETWORK, extra_terms=[term])
    count = len(traces)
    # Also one that is no float of Python's.
    heavy = dataclasses.replace(term, weight=jnp.float32(50))
    result = stylize(CONTENT, STYLE, CONFIG, network=NETWORK, extra_terms=[heavy])
    losses = result.losses
    assert len(traces) <= count + 1  # Looked at, not compiled.
    others = losses["content"] + CONFIG.losses.style_weight * losses["style"]
    assert_allclose(losses["total"], others + 50 * losses["darkness"], rtol=1e-4)


@pytest.mark.parametrize(
    ("term", "sentence"),
    [
        (darkness(weight=float("nan")), "'darkness' has the weight nan; expected a finite"),
        (darkness(weight="3"), "'darkness' has the weight '3'; expected a finite"),
        ("darkness", "str came among the extra terms; expected a Term"),
        (
            darkness(loss_fn=lambda image, features, target: image),
            r"'darkness' returns float32\[24, 20, 3\]; expected one floating-point number",
        ),
        (
            darkness(loss_fn=lambda image, features, target: jnp.mean(features["pixel"])),
            "'darkness' reads the layer 'pixel'; expected a layer that it names",
        ),
    ],
)
def test_a_term_that_does_not_fit_is_one_sentence(term, sentence):
    with pytest.raises(InputError, match=sentence):
        stylize(CONTENT, STYLE, CONFIG, network=NETWORK, extra_terms=[term])


def test_what_is_no_network_and_no_optimizer_is_one_sentence():
    with pytest.raises(InputError, match="Dense came as the network; expected a Network, or"):
        stylize(CONTENT, STYLE, CONFIG, network=nn.Dense(3))
    with pytest.raises(InputError, match="str came as the optimizer; expected an Optax"):
        stylize(CONTENT, STYLE, CONFIG, network=NETWORK, optimizer="adam")


def test_a_transformation_that_evaluates_the_objective_itself_is_one_sentence():
    with pytest.raises(InputError, match="the optimizer needs more than .*value_fn"):
        stylize(CONTENT, STYLE, CONFIG, network=NETWORK, optimizer=optax.lbfgs())


def test_numbers_of_an_optimizer_of_ones_own_keep_their_type():
    plain = optimizers.make_adam(0.05)

    def propose(now, opt_state, numbers):
        assert (numbers[0].dtype, numbers[1].dtype) == (jnp.int8, jnp.float32)
        return plain.propose(now, opt_state, plain.numbers._replace(learning_rate=numbers[1]))

    own = plain._replace(propose=propose, numbers=(np.int8(3), 0.05))
    found = stylize(CONTENT, STYLE, CONFIG, network=NETWORK, optimizer=own)
    expected = stylize(CONTENT, STYLE, CONFIG, network=NETWORK, optimizer=plain)
    # Its decays are constants of the program here, and rounded otherwise.
    assert_allclose(found.step_losses, expected.step_losses, rtol=1e-4)


class Filters(nn.Module):
    @nn.compact
    def __call__(self, image):
        features = nn.Conv(4, (3, 3), name="conv")(image[None])[0]
        return {"pixels": image, "conv": nn.relu(features)}


def test_a_linen_module_is_a_network():
    module, mean, std = Filters(), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    variables = module.init(jax.random.key(0), jnp.asarray(CONTENT))
    network = FeatureNetwork.from_linen(module, variables, mean=mean, std=std)
    found = network.feature_fn(network.params, jnp.asarray(CONTENT))
    expected = module.apply(variables, jnp.asarray((CONTENT - np.array(mean)) / std, jnp.float32))
    assert_allclose(found["conv"], expected["conv"], atol=1e-5)
    result = stylize(CONTENT, STYLE, CONFIG.replace(style_layers="conv"), network=network)
    assert result.losses["style"] < result.history[0]["style"]


def test_a_parametrization_is_optimized_instead_of_pixels():
    """Three numbers, one for each channel: the mean's optimum is found in closed form."""
    parametrization = neuart_jax.Parametrization(
        init=lambda content: {"shift": jnp.zeros(3), "content": 0 * jnp.asarray(content)},
        render=lambda p: jnp.asarray(CONTENT) + p["shift"][None, None] + 0 * p["content"],
    )
    target = jnp.array([0.1, -0.05, 0.2])
    term = Term(
        name="colors",
        weight=1.0,
        make_target=lambda inputs: jnp.mean(inputs.content_image, axis=(0, 1)) + target,
        loss_fn=lambda image, features, wanted: jnp.sum(
            (jnp.mean(image, axis=(0, 1)) - wanted) ** 2
        ),
    )
    config = CONFIG.replace(content_weight=1e-9, style_weight=0, steps=200, scales=2)
    seen = []
    result = stylize(
        CONTENT,
        STYLE,
        config,
        network=NETWORK,
        extra_terms=[term],
        optimizer=optax.sgd(0.3),
        parametrization=parametrization,
        callback=lambda progress: seen.append((progress.size, progress.image())),
    )
    assert_allclose(result.image, np.clip(CONTENT + np.asarray(target), 0, 1), atol=1e-4)
    assert result.sizes == (CONTENT.shape[:2],)
    assert_allclose(result.parameters["shift"], target, atol=1e-4)
    size, image = seen[-1]
    assert size == CONTENT.shape[:2] and image.shape == CONTENT.shape
    assert_allclose(seen[0][1], CONTENT, atol=1e-6)
    with pytest.raises(InputError, match="a parametrization came without an optimizer"):
        stylize(CONTENT, STYLE, config, network=NETWORK, parametrization=parametrization)
    flat = parametrization._replace(render=lambda p: jnp.zeros((2, 3)))
    with pytest.raises(InputError, match=r"renders \(2, 3\) for a content of \(24, 20, 3\)"):
        stylize(
            *(CONTENT, STYLE, config),
            network=NETWORK,
            parametrization=flat,
            optimizer=optax.sgd(0.1),
        )


def brightness(features, weights):
    """Return the mean feature of a region's positions."""
    weights = jnp.ones(features.shape[:2]) if weights is None else weights
    return jnp.sum(features * weights[..., None], axis=(0, 1)) / jnp.sum(weights)


BRIGHTNESS = losses.StyleLoss(
    brightness, lambda f, w, target: jnp.sum((brightness(f, w) - target) ** 2)
)


def test_a_style_statistic_of_ones_own_has_masks_layers_and_mix():
    left = np.zeros((*CONTENT.shape[:2], 3), np.float32)
    left[:, :10] = [1, 0, 0]
    style_mask = np.zeros((*STYLE.shape[:2], 3), np.float32)
    style_mask[:9] = [1, 0, 0]
    masks = neuart_jax.Masks(content=left, styles=[style_mask])
    term = neuart_jax.StyleTerm(
        name="bright", weight=2.0, layers={"pixels": 3.0}, formula=BRIGHTNESS
    )
    config = CONFIG.replace(style_weight=0)
    objective = make_objective(
        CONTENT, STYLE, config, network=NETWORK, extra_terms=[term], masks=masks
    )
    total, terms = objective(jnp.asarray(CONTENT))
    expected = 0.0
    for mine, theirs in ((np.s_[:, :10], np.s_[:9]), (np.s_[:, 10:], np.s_[9:])):
        covered = CONTENT[mine].size / CONTENT.size
        difference = 2 * CONTENT[mine].mean((0, 1)) - 2 * STYLE[theirs].mean((0, 1))
        expected += 3 * covered * np.sum(difference**2)
    assert_allclose(terms["bright"], expected, rtol=1e-4)
    assert_allclose(total, 2 * expected + terms["content"], rtol=1e-4)


def test_every_layer_can_have_a_formula_of_its_own():
    term = neuart_jax.StyleTerm(
        name="deep", weight=1.0, layers=[("pixels", 0.5)], formula="relative_histogram"
    )
    _, terms = make_objective(CONTENT, STYLE, CONFIG, network=NETWORK, extra_terms=[term])(
        jnp.asarray(CONTENT)
    )
    other = CONFIG.replace(style_loss="relative_histogram")
    _, alone = make_objective(CONTENT, STYLE, other, network=NETWORK)(jnp.asarray(CONTENT))
    assert_allclose(terms["deep"], 0.5 * alone["style"], rtol=1e-5)
    assert terms["style"] != alone["style"]
    with pytest.raises(InputError, match="style formula 'gramm' is not known"):
        neuart_jax.StyleTerm(name="a", weight=1, layers={"pixels": 1}, formula="gramm")


@pytest.fixture
def compiled():
    names = []

    def listen(event, duration_secs, fun_name="", **_):
        if event.endswith("/backend_compile_duration"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return names


@pytest.mark.slow
def test_a_sweep_of_coefficients_is_one_batch_with_a_configuration_each(compiled):
    weights = (0.5, 1.0, 20.0)
    configs = [CONFIG.replace(style_weight=weight) for weight in weights]
    swept = stylize_batch(CONTENT, STYLE, configs, network=NETWORK)
    for config, result in zip(configs, swept, strict=True):
        alone = stylize(CONTENT, STYLE, config, network=NETWORK)
        assert_allclose(result.image, alone.image, atol=1e-5)
    assert np.max(np.abs(swept[0].image - swept[2].image)) > 1e-3
    for given in (([CONTENT] * 2, [STYLE] * 3, CONFIG), ([], [], CONFIG), (CONTENT, STYLE, CONFIG)):
        with pytest.raises(InputError, match="there are .*;"):
            stylize_batch(*given, network=NETWORK)
    stacked = stylize_batch(np.stack([CONTENT] * 2), STYLE, CONFIG, network=NETWORK)
    assert len(stacked) == 2


def test_the_same_transformation_and_the_mere_order_of_layers_compile_nothing(compiled):
    def two(params, image):
        return {"a": params * image, "b": image[::2]}

    network, optimizer = FeatureNetwork(two, jnp.float32(1.0)), optax.adam(1e-2)
    config = CONFIG.replace(content_layers="a", style_layers="a:1,b:2")
    run = functools.partial(stylize, CONTENT, STYLE, network=network, optimizer=optimizer)
    first = run(config)
    compiled.clear()
    again = run(config.replace(style_layers="b:2,a:1"))
    assert not [name for name in compiled if "chunk" in name or "init" in name]
    assert_allclose(again.image, first.image, atol=1e-6)


def test_an_image_asked_for_too_late_is_a_sentence():
    kept = []
    stylize(CONTENT, STYLE, CONFIG.replace(report_every=1), network=NETWORK, callback=kept.append)
    with pytest.raises(InputError, match="the image of an earlier report was requested"):
        kept[1].image()


def test_parts_of_ones_own_leave_a_folder_with_a_record(tmp_path, caplog):
    for name, image in (("content.png", CONTENT), ("style.png", STYLE)):
        neuart_jax.save_image(tmp_path / name, image)
    config = CONFIG.replace(
        content=str(tmp_path / "content.png"), style=str(tmp_path / "style.png"), overwrite=True
    )
    term = Term(
        name="mine",
        weight=0.5,
        make_target=lambda inputs: (),
        loss_fn=lambda image, features, target: jnp.mean(image**2),
    )

    def run(name, **parts):
        there = config.replace(output=str(tmp_path / name))
        return neuart_jax.transfer(there, network=NETWORK, extra_terms=[term], **parts)

    done = run("labelled", label="darker 1", optimizer=optax.adam(1e-2))
    record = neuart_jax.read_record(tmp_path / "labelled/config.json")
    assert record.own == "darker 1 (mine 0.5)" and record.outcome["losses"]["mine"] > 0
    assert record.weights["name"] == "own"
    with caplog.at_level("INFO"):
        run("labelled", label="darker 1", optimizer=optax.adam(1e-2))
    assert done.result.status.message
    # Without a label nobody can tell whether it is the same.
    run("unnamed")
    first = neuart_jax.read_record(tmp_path / "unnamed/config.json").own
    run("unnamed")
    second = neuart_jax.read_record(tmp_path / "unnamed/config.json").own
    assert first.startswith("unnamed ") and first != second
    differences = record._replace(own="darker 2").unlike(record)
    assert differences == ["custom parts: darker 1 (mine 0.5) there, darker 2 here"]


def test_a_cut_run_goes_on_only_under_its_label(tmp_path, caplog):
    for name, image in (("content.png", CONTENT), ("style.png", STYLE)):
        neuart_jax.save_image(tmp_path / name, image)
    config = CONFIG.replace(
        content=str(tmp_path / "content.png"),
        style=str(tmp_path / "style.png"),
        **{"steps": 6, "report_every": 1, "checkpoint_seconds": 1e-9},
    )
    term = Term(
        name="mine",
        weight=0.5,
        make_target=lambda inputs: (),
        loss_fn=lambda image, features, target: jnp.mean(image**2),
    )

    class Cut(Exception):
        pass

    def cut(progress):
        if progress.num_steps == 4:
            raise Cut

    def run(folder, label, callback=None, term=term):
        return neuart_jax.transfer(
            config.replace(output=str(tmp_path / folder)),
            network=NETWORK,
            extra_terms=[term],
            label=label,
            callback=callback,
        ).result

    for label in ("a name", ""):
        with pytest.raises(Cut):
            run(label or "none", label, cut)
        caplog.clear()
        with caplog.at_level("INFO"):
            if label:
                with pytest.raises(
                    InputError, match=r"a name \(mine 0.5\) there, a name \(mine 5\)"
                ):
                    run(label, label, term=dataclasses.replace(term, weight=5.0))
            assert run(label or "none", label).num_steps == 6
        assert ("Resuming after step" in caplog.text) == bool(label)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layers": {}, "formula": "relative"}, "has no layers"),
        ({"layers": {"a": np.nan}, "formula": "relative"}, "layer 'a' has the weight nan"),
        ({"layers": [3], "formula": "relative"}, "layers are written as"),
        ({"layers": {"a": 1}, "formula": brightness}, "a function came as the formula"),
    ],
)
def test_a_style_term_that_does_not_fit_is_one_sentence(given, said):
    with pytest.raises(InputError, match=said):
        neuart_jax.StyleTerm(name="s", weight=1.0, **given)


def test_what_does_not_fit_is_told_before_anything_is_compiled(compiled):
    vector = losses.StyleLoss(brightness, lambda f, w, target: brightness(f, w) - target)
    config = Config().replace(
        **{"model": "vgg19", "weights": "random", "content_layers": "relu1_1"},
        **{"style_layers": "relu1_1", "steps": 1, "scales": 1},
    )
    run = functools.partial(stylize, CONTENT, STYLE, config)
    deep = neuart_jax.StyleTerm(name="deep", weight=1, layers={"relu9_1": 1}, formula="relative")
    alias = dataclasses.replace(deep, layers={"block2_conv1": 1})
    plain = Term(name="t", weight=1, make_target=None, loss_fn=None, layers="relu2_1")
    for terms, said in (
        ([deep], "the loss term 'deep' reads the layer 'relu9_1'; .*did you mean 'relu"),
        ([alias], "reads the layer 'block2_conv1'; .*did you mean '(relu|conv)2_1'"),
        ([plain], "has a text as its layers"),
        (deep, "StyleTerm came as the extra terms"),
        ([dataclasses.replace(deep, name="")], "a loss term has the name ''"),
    ):
        with pytest.raises(InputError, match=said):
            run(extra_terms=terms)
    with pytest.raises(InputError, match="function came as the parametrization"):
        run(parametrization=lambda p: p, optimizer=optax.sgd(0.1))
    whole = neuart_jax.Parametrization(lambda c: jnp.int32(1), lambda p: CONTENT + 0.0 * p)
    with pytest.raises(InputError, match="the parametrization has arrays of float32, int32"):
        run(parametrization=whole, optimizer=optax.sgd(0.1))
    assert not [name for name in compiled if "chunk" in name]
    term = neuart_jax.StyleTerm(name="v", weight=1, layers={"pixels": 1}, formula=vector)
    with pytest.raises(InputError, match=r"the loss term 'v' returns float32\[3\]"):
        stylize(CONTENT, STYLE, CONFIG, network=NETWORK, extra_terms=[term])
