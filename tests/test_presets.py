"""Every recipe against its source: the loss as its text writes it, its numbers, its flags."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from neuart_jax.config.config import FIELDS, Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.presets import PRESETS, apply_preset, describe_presets, find_preset
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.objective.build import make_terms
from neuart_jax.objective.term import make_objective, make_targets

RELU = tuple(f"relu{block}_1" for block in range(1, 6))
STAGES = ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")


def half_square(f, p):
    return 0.5 * np.sum((f - p) ** 2)


def square(f, p):
    return np.sum((f - p) ** 2)


def mean_square(f, p):
    return np.sum((f - p) ** 2) / f.size


def gram(f):
    positions = f.reshape(-1, f.shape[-1])
    return positions.T @ positions


def sizes(f):
    """Return N channels and M positions."""
    return f.shape[2], f.shape[0] * f.shape[1]


def gatys_style(f, s):
    n, m = sizes(f)
    return np.sum((gram(f) - gram(s)) ** 2) / (4 * n**2 * m**2)


def steps_of(image):
    return image[1:] - image[:-1], image[:, 1:] - image[:, :-1]


def neuart(f, p, s, image, *, content, style, beta):
    parts = [gatys_style(f[name], s[0][name]) / len(style) for name in style]
    return {"content": square(f[content], p[content]), "style": beta * sum(parts)}


def capstone_style(f, s):
    return sum(
        np.sum((gram(f[name]) / sizes(f[name])[1] - gram(s[name]) / sizes(s[name])[1]) ** 2)
        for name in ("relu1_1", "relu3_1", "relu5_1")
    )


def capstone(f, p, s, image):
    content = 10_000 * half_square(f["relu5_2"], p["relu5_2"])
    return {"content": content, "style": 0.1 * capstone_style(f, s[0])}


def capstone_two_styles(f, p, s, image):
    return {
        "content": 10_000 * half_square(f["relu5_2"], p["relu5_2"]),
        "style1": 0.1 * capstone_style(f, s[0]),
        "style2": 0.1 * capstone_style(f, s[1]),
    }


def transfer_learning(f, p, s, image):
    n, m = sizes(f["relu4_2"])
    content = np.sum((p["relu4_2"] - f["relu4_2"]) ** 2) / (4 * m * n)
    style = 0.0
    for name in RELU:
        n, m = sizes(f[name])
        style += 0.2 * np.sum((gram(s[0][name]) - gram(f[name])) ** 2) / (4 * n**2 * m**2)
    return {"content": 10 * content, "style": 40 * style}


def slides(f, p, s, image):
    style = sum(0.5 * np.sum((gram(f[name]) - gram(s[0][name])) ** 2) for name in RELU)
    return {"content": half_square(f["relu5_2"], p["relu5_2"]), "style": 1e-9 * style}


def gatys2015(f, p, s, image, *, ratio):
    style = sum(gatys_style(f[name], s[0][name]) / 5 for name in RELU)
    return {"content": half_square(f["relu4_2"], p["relu4_2"]), "style": style / ratio}


def gatys2017(f, p, s, image):
    style = 0.0
    for name, channels in zip(RELU, (64, 128, 256, 512, 512), strict=True):
        m = sizes(f[name])[1]
        style += 1e3 / channels**2 * mean_square(gram(f[name]) / m, gram(s[0][name]) / m)
    return {"content": mean_square(f["relu4_2"], p["relu4_2"]), "style": style}


def neural_style(f, p, s, image):
    style = 0.0
    for name in RELU:
        n, m = sizes(f[name])
        style += mean_square(gram(f[name]) / (n * m), gram(s[0][name]) / (n * m))
    down, right = steps_of(256 * image)
    return {
        "content": 5 * mean_square(f["relu4_2"], p["relu4_2"]),
        "style": 100 * style,
        "tv": 1e-3 * 0.5 * (np.sum(down**2) + np.sum(right**2)),
    }


def crowsonkb(f, p, s, image):
    style = 0.0
    for name, weight in zip(RELU, (256, 64, 16, 4, 1), strict=True):
        (mean, covariance), (target_mean, target_covariance) = (
            (x.reshape(-1, x.shape[-1]).mean(0), np.cov(x.reshape(-1, x.shape[-1]).T, bias=True))
            for x in (f[name], s[0][name])
        )
        ridge = 1e-4 * np.eye(len(mean))
        covariance, target_covariance = covariance + ridge, target_covariance + ridge
        root = scipy.linalg.sqrtm(target_covariance)
        cross = scipy.linalg.sqrtm(root @ covariance @ root).real
        distance = np.mean((mean - target_mean) ** 2)
        distance += np.mean(np.diag(covariance + target_covariance - 2 * cross))
        style += weight / 341 * distance
    # Over five points, not its nine.
    down, right = steps_of(image)
    return {
        "content": 0.015 * mean_square(f["relu4_2"], p["relu4_2"]),
        "style": style,
        "tv": 2 * (np.mean(down**2) + np.mean(right**2)),
    }


def gordicaleksa(f, p, s, image):
    style = 0.0
    for name in RELU:
        n, m = sizes(f[name])
        style += np.sum((gram(f[name]) / (n * m) - gram(s[0][name]) / (n * m)) ** 2) / 5
    down, right = steps_of(255 * image)
    return {
        "content": 1e5 * mean_square(f["conv4_2"], p["conv4_2"]),
        "style": 3e4 * style,
        "tv": np.sum(np.abs(down)) + np.sum(np.abs(right)),
    }


LITERAL = {
    "neuart-vgg19": lambda *a: neuart(*a, content="relu5_2", style=RELU, beta=1e3),
    "neuart-resnet50": lambda *a: neuart(*a, content="conv4_block6_out", style=STAGES, beta=1e6),
    "capstone": capstone,
    "capstone-two-styles": capstone_two_styles,
    "transfer-learning": transfer_learning,
    "slides": slides,
    "gatys2015": lambda *a: gatys2015(*a, ratio=1e-3),
    "gatys2015-strong": lambda *a: gatys2015(*a, ratio=1e-4),
    "gatys2017": gatys2017,
    "neural-style": neural_style,
    "photoreal": neural_style,
    "crowsonkb": crowsonkb,
    "gordicaleksa": gordicaleksa,
}
"""(features F, the content's P, the list of styles' S, image) -> the summands of its source."""


def random_features(layers, *, seed):
    """Features of [4, 5] positions, as after a ReLU, with another number of channels each.

    Their mean variance is 1, so that crowsonkb's ridge is the same number in both scales.
    """
    rng = np.random.default_rng(seed)
    features = {}
    for index, name in enumerate(layers):
        values = np.maximum(rng.normal(size=(4, 5, 3 + index)) + 0.3, 0)
        features[name] = values / np.sqrt(np.mean(values.var(axis=(0, 1))))
    return features


@pytest.mark.parametrize("name", PRESETS)
def test_the_loss_is_its_sources(name):
    losses = resolve_config(apply_preset(name)).losses
    num_styles = PRESETS[name].num_styles
    layers = dict.fromkeys(layer for layer, _ in (*losses.content_layers, *losses.style_layers))
    own, content, *styles = (random_features(layers, seed=s) for s in range(2 + num_styles))
    image = np.random.default_rng(9).random((6, 7, 3))
    expected = LITERAL[name](own, content, styles, image)

    def on_device(features):
        return {layer: jnp.asarray(values, jnp.float32) for layer, values in features.items()}

    terms = make_terms(losses, num_styles=num_styles)
    targets = make_targets(
        terms,
        content_image=jnp.zeros((6, 7, 3)),
        style_images=(jnp.zeros((6, 7, 3)),) * num_styles,
        content_features=on_device(content),
        style_features=tuple(on_device(style) for style in styles),
    )
    objective = make_objective(lambda params, image: params, terms)
    total, found = objective(jnp.asarray(image, jnp.float32), on_device(own), targets)
    assert set(found) == {"total", *expected}
    for part, value in expected.items():
        assert_allclose(targets.weights[part] * found[part], value, rtol=2e-5, err_msg=part)
    assert_allclose(total, sum(expected.values()), rtol=2e-5)


def test_there_is_a_literal_loss_for_every_recipe():
    assert set(LITERAL) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_is_valid_data(name):
    preset = find_preset(name)
    assert set(preset.settings) <= set(FIELDS)
    assert preset.source
    assert preset.reading.endswith(".")
    config = resolve_config(apply_preset(name))
    assert config.losses.content_layers
    assert config.losses.style_layers
    assert config.losses.smoothing == "none"
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    # What differs from the defaults is what the recipe says, and nothing else.
    changed = apply_preset(name)
    for field in set(FIELDS) - set(preset.settings):
        section = FIELDS[field].section
        assert getattr(getattr(changed, section), field) == getattr(
            getattr(Config(), section), field
        )


BYTES = 1 / 255
"""A source's pixel, where white is 255, in ours."""

NUMBERS = {
    "neuart-vgg19": {"pooling": "max", "init": "noise", "optimizer": "adam", "model": ""},
    "neuart-resnet50": {
        "model": "resnet50",
        "init": "noise",
        "optimizer": "adam",
        "learning_rate": 20 * BYTES,
    },
    "capstone": {
        "size": 512,
        "steps": 1000,
        "report_every": 100,
        "print_losses": True,
        "optimizer": "adam",
        "init": "content",
    },
    "capstone-two-styles": {"size": 512, "steps": 1000, "style_mix": "separate"},
    "transfer-learning": {
        "weights": "imagenet-matconvnet",
        "init": "blend",
        "noise_ratio": 0.6,
        "noise": "uniform",
        "noise_scale": 20 * BYTES,
        "optimizer": "adam",
        "learning_rate": 2.0 * BYTES,
        "steps": 200,
        "report_every": 20,
        "save_every": 20,
        "print_losses": True,
    },
    "slides": {"init": "blend", "save_at": (200, 400, 600, 800, 1400, 3200), "steps": 3200},
    "gatys2015": {"pooling": "average", "init": "noise"},
    "gatys2015-strong": {"pooling": "average", "init": "noise"},
    "gatys2017": {
        "pooling": "max",
        "size": 1024,
        "scales": 2,
        "coarse_steps": 500,
        "steps": 200,
        "init": "content",
        "optimizer": "lbfgs_fixed",
        "learning_rate": 1.0,
    },
    "neural-style": {
        "size": 512,
        "pooling": "max",
        "init": "noise",
        "noise": "gaussian",
        "noise_scale": 0.001 / 256,
        "optimizer": "lbfgs_fixed",
        "learning_rate": 1.0,
        "history": 100,
        "steps": 1000,
        "report_every": 50,
        "save_every": 100,
        "style_mix": "blended",
        "stop_patience": 0,
    },
    "photoreal": {"noise_scale": 1e-4 / 256, "steps": 1000},
    "crowsonkb": {
        "weights": "imagenet-timm",
        "size": 512,
        "pooling": "max",
        "optimizer": "adam",
        "learning_rate": 0.02,
        "beta1": 0.9,
        "beta2": 0.99,
        "schedule": "constant",
        "steps": 500,
        "coarse_steps": 500,
        "init": "content",
        "style_mix": "blended",
    },
    "gordicaleksa": {
        "pooling": "max",
        "init": "content",
        "optimizer": "lbfgs",
        "steps": 1000,
        "preprocessing": "torch255",
        "weights": "imagenet-timm",
    },
}
"""What the sources state besides their losses, in our units."""


@pytest.mark.parametrize("name", PRESETS)
def test_the_other_numbers_are_the_sources(name):
    config = apply_preset(name)
    for field, expected in NUMBERS[name].items():
        found = getattr(getattr(config, FIELDS[field].section), field)
        if isinstance(expected, float):
            assert found == pytest.approx(expected, rel=1e-12), field
        else:
            assert found == expected, field


def test_a_height_of_400_pixels_is_533_wide():
    assert PRESETS["gordicaleksa"].settings["size"] == math.ceil(400 * 4 / 3 - 0.5)


def test_recipes_of_one_size_have_one():
    scales = {name: apply_preset(name).run.scales for name in PRESETS}
    assert {name: n for name, n in scales.items() if n > 1} == {"gatys2017": 2, "crowsonkb": 3}


@pytest.mark.parametrize("name", PRESETS)
def test_what_suits_a_kind_of_weights_changes_no_recipe(name):
    """A recipe says all that empty settings would leave to the weights, but for what plays no part.

    With one size there are no steps below it, and without smoothing no temperature.
    """
    found = []
    for weights in ("imagenet", "imagenet-lpips", "fitted", "random"):
        config = resolve_config(apply_preset(name, weights=weights))
        if config.run.scales == 1:
            config = config.replace(coarse_steps=1)
        if config.losses.smoothing == "none":
            config = config.replace(temperature=1)
        # VGG16's own weights are taken with VGG16.
        found.append(config.replace(weights="auto", model=""))
    assert all(config == found[0] for config in found)


def test_recipes_with_absolute_coefficients_are_in_caffes_units_or_name_their_weights():
    units = {name: apply_preset(name).network for name in PRESETS}
    assert {name for name, network in units.items() if network.feature_units != "caffe"} == {
        # Batch normalization sets the scale of its features.
        "neuart-resnet50",
        # These want the very weights that their authors had.
        "crowsonkb",
        "gordicaleksa",
    }


def test_recipes_are_vgg19s_unless_they_say_otherwise():
    models = {name: resolve_config(apply_preset(name)).network.model for name in PRESETS}
    assert models.pop("neuart-resnet50") == "resnet50"
    assert set(models.values()) == {"vgg19"}


def test_the_lbfgs_of_others_treats_all_frequencies_alike():
    optimizers = {name: apply_preset(name).optimizer for name in PRESETS}
    quasi = {name for name, config in optimizers.items() if config.optimizer != "adam"}
    assert {"neural-style", "gordicaleksa", "gatys2015", "gatys2017", "photoreal"} <= quasi
    assert not any(optimizers[name].precondition for name in quasi)


def test_what_is_given_besides_wins():
    config = apply_preset("transfer-learning", Config().replace(seed=7, steps=3), noise_ratio=0.1)
    assert (config.run.noise_ratio, config.run.seed, config.run.steps) == (0.1, 7, 200)


def test_an_unknown_recipe_is_one_sentence():
    with pytest.raises(InputError) as caught:
        apply_preset("gatys2016")
    assert str(caught.value) == (
        f"--preset=gatys2016 is not known; expected one of {', '.join(PRESETS)}; did you mean "
        "'gatys2017', 'gatys2015' or 'gatys2015-strong'."
    )


def test_a_recipe_for_two_styles_wants_two():
    with pytest.raises(InputError) as caught:
        apply_preset("capstone-two-styles", style="a.png")
    assert str(caught.value) == (
        "--preset=capstone-two-styles got 1 style image; expected 2 of them; repeat the flag, "
        "--style=FILE --style=FILE, or choose another preset."
    )
    apply_preset("capstone-two-styles", style=["a.png", "b.png"])
    apply_preset("capstone-two-styles", Config().replace(style=["a.png", "b.png", "c.png"]))
    apply_preset("capstone", style=["a.png", "b.png"])


def test_the_help_names_every_recipe_with_its_source():
    text = describe_presets()
    for name, preset in PRESETS.items():
        assert f"\n  {name}\n" in text
        assert preset.source.split(",")[0] in text
