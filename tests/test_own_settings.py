"""What empty settings mean, by model and kind of weights, and that nothing else is touched."""

import dataclasses
import re

import pytest
from standins import FIRST_LAYER, write_converted

from neuart_jax.config.config import (
    FIELDS,
    Config,
    describe_first_settings,
    describe_settings,
    get_setting,
)
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import known, parse_layer_weights
from neuart_jax.config.own_settings import OWN_SETTINGS
from neuart_jax.engine.resolution import resolve_config, settle_config
from neuart_jax.models import MODELS
from neuart_jax.models.params.catalog import FLAVORS

KINDS = ("trained", "fitted", "random")
WEIGHTS = {"trained": "imagenet", "fitted": "fitted", "random": "random"}
NETWORKS = [(model, kind) for model in MODELS for kind in KINDS]
EMPTY = ("", (), None)
NAMES = sorted(OWN_SETTINGS["vgg19"]["trained"])
OTHERS = {
    "content_layers": "conv1_1",
    "style_layers": {"conv1_1": 3.0},
    "style_loss": "sum",
    "smoothing": "softmax",
    "temperature": 7.0,
    "content_weight": 0.0,
    "tv_weight": 0.0,
    "range_weight": 0.0,
    "pooling": "average",
    "steps": 3,
    "coarse_steps": 4,
    "carry_state": False,
}
"""Of each name a value that can be told from what is filled in; zero is a value, too."""


def flat(config):
    return {name: get_setting(config, name) for name in FIELDS}


def test_every_model_says_the_same_names_for_every_kind_of_weights():
    assert set(OWN_SETTINGS) == set(MODELS)
    for model in MODELS:
        assert set(OWN_SETTINGS[model]) == set(KINDS)
    assert {frozenset(own) for kinds in OWN_SETTINGS.values() for own in kinds.values()} == {
        frozenset(NAMES)
    }


def test_what_is_filled_in_is_empty_by_default_and_only_that():
    """Other settings that may be empty mean nothing by it, or are settled or found elsewhere."""
    defaults = flat(Config())
    assert {name for name in NAMES if defaults[name] in EMPTY} == set(NAMES)
    by_size, by_clip = {"scales"}, {"end", "frame_rate"}
    empty = {name for name, value in defaults.items() if value is None}
    assert empty <= {*NAMES, *by_size, *by_clip}
    network_and_losses = {name for name in FIELDS if FIELDS[name].section in ("network", "losses")}
    assert {name for name in network_and_losses if defaults[name] in EMPTY} == {
        *(set(NAMES) & network_and_losses),
        "model",
        "preprocessing",
        "normalize_weights",
        "feature_units",
        "style_blend",
    }


@pytest.mark.parametrize(("model", "kind"), NETWORKS)
def test_what_is_filled_in_is_what_the_table_says(model, kind):
    given = Config().replace(model=model, weights=WEIGHTS[kind])
    resolved, own = resolve_config(given), OWN_SETTINGS[model][kind]
    expected = {name: own[name] for name in NAMES}
    for layers in ("content_layers", "style_layers"):
        expected[layers] = parse_layer_weights(own[layers])
    assert {name: get_setting(resolved, name) for name in NAMES} == expected
    before, after = flat(given), flat(resolved)
    changed = {name for name in FIELDS if before[name] != after[name]}
    assert changed == {*NAMES, "precision"}
    # Said once, it is said for good.
    assert resolve_config(resolved) == resolved
    assert all(get_setting(resolved, name) not in EMPTY for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_stays_and_the_rest_is_filled_in(name, kind):
    plain = Config().replace(model="vgg19", weights=WEIGHTS[kind])
    given = plain.replace(**{name: OTHERS[name]})
    resolved = resolve_config(given)
    assert get_setting(resolved, name) == get_setting(given, name)
    assert flat(resolved) | {name: None} == flat(resolve_config(plain)) | {name: None}


def test_there_is_another_value_of_every_name():
    assert sorted(OTHERS) == NAMES
    for kind in KINDS:
        own = resolve_config(Config().replace(model="resnet50", weights=WEIGHTS[kind]))
        others = Config().replace(**OTHERS)
        differ = {name for name in NAMES if get_setting(own, name) != get_setting(others, name)}
        assert set(NAMES) - differ <= {"range_weight", "pooling", "carry_state"}


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
def test_trained_vggs_paint_by_shallow_distributions_and_fitted_ones_by_gatys(model):
    trained, fitted, drawn = (
        resolve_config(Config().replace(model=model, weights=WEIGHTS[kind])) for kind in KINDS
    )
    assert trained.losses.style_loss == "principal_wasserstein"
    assert trained.network.pooling == "max"
    weights = [weight for _, weight in trained.losses.style_layers]
    assert sum(weights) == pytest.approx(1)
    # Shallow layers decide how clean a picture is.
    assert sum(weights[:3]) > 0.85
    assert trained.losses.range_weight == 300
    assert fitted.losses == drawn.losses
    assert fitted.run == drawn.run
    assert fitted.losses.style_loss == "relative"
    assert dict(fitted.losses.style_layers) == {f"relu{b}_1": 0.2 for b in range(1, 6)}
    assert fitted.losses.content_layers == trained.losses.content_layers == (("relu4_2", 1.0),)
    assert (fitted.network.pooling, fitted.losses.range_weight) == ("average", 0)
    assert (fitted.run.coarse_steps, fitted.run.steps) == (15, 40)
    assert (trained.run.coarse_steps, trained.run.steps) == (40, 25)


def test_both_vggs_have_the_same_settings():
    for kind in KINDS:
        first, second = (
            resolve_config(Config().replace(model=model, weights=WEIGHTS[kind]))
            for model in ("vgg16", "vgg19")
        )
        assert first.replace(model="vgg19") == second


def test_only_a_resnet50_that_was_not_trained_is_smoothed():
    found = {
        (model, kind): OWN_SETTINGS[model][kind]["smoothing"]
        for model, kind in NETWORKS
        if OWN_SETTINGS[model][kind]["smoothing"] != "none"
    }
    assert found == dict.fromkeys(
        [("resnet50", "fitted"), ("resnet50", "random")], "centered_softmax"
    )


@pytest.mark.parametrize("weights", [*FLAVORS, "somewhere/mine.safetensors"])
def test_published_weights_and_files_are_trained(weights):
    resolved = resolve_config(Config().replace(model="vgg16", weights=weights))
    expected = resolve_config(Config().replace(model="vgg16", weights="imagenet"))
    assert resolved.replace(weights="imagenet") == expected


def test_what_is_still_open_is_taken_for_vgg19s_trained_weights():
    expected = resolve_config(Config().replace(model="vgg19", weights="imagenet"))
    for settings in ({}, {"model": "vgg19"}, {"weights": "imagenet"}):
        resolved = resolve_config(Config().replace(**settings))
        assert resolved.replace(weights="imagenet") == expected
    # The weights themselves stay open.
    assert resolve_config(Config()).network.weights == "auto"


@pytest.mark.parametrize("model", MODELS)
def test_a_model_alone_that_is_open_is_the_one_that_the_weights_are_of(model, tmp_path):
    path = write_converted(tmp_path / "mine.safetensors", model)
    layer = FIRST_LAYER[model]
    given = Config().replace(weights=str(path), content_layers=layer, style_layers=layer)
    resolved = resolve_config(given)
    assert resolved == resolve_config(given.replace(model=model))
    assert resolve_config(settle_config(given)) == resolved


@pytest.mark.parametrize(
    ("weights", "model"),
    [
        ("imagenet", "vgg19"),
        ("imagenet-lpips", "vgg16"),
        ("imagenet-torchvision-v2", "resnet50"),
        ("fitted", "vgg19"),
    ],
)
def test_names_of_weights_name_a_model(weights, model):
    assert resolve_config(Config().replace(weights=weights)).network.model == model


@pytest.mark.parametrize("model", ["", "vgg16", "resnet50"])
def test_what_is_settled_without_a_network_is_fitted(model, tmp_path):
    config = Config().replace(model=model, weights_dir=str(tmp_path), offline=True)
    settled = settle_config(config)
    assert settled == config.replace(model=model or "vgg19", weights="fitted")
    assert settle_config(settled) == settled
    own = OWN_SETTINGS[model or "vgg19"]["fitted"]
    assert resolve_config(settled).losses.content_weight == own["content_weight"]


def test_a_network_of_ones_own_gets_fitted_ones_settings_but_no_layers_of_its_own_are_checked():
    config = Config().replace(content_layers="mine", style_layers="other:2")
    resolved = resolve_config(config, check_names=False)
    assert resolved.losses.content_layers == (("mine", 1.0),)
    expected = resolve_config(Config().replace(model="vgg19", weights="fitted"))
    layers = {"content_layers": (), "style_layers": ()}
    assert dataclasses.replace(resolved.losses, **layers) == dataclasses.replace(
        expected.losses, **layers
    )
    assert resolved.run == expected.run


def test_a_setting_that_is_not_resolved_is_an_error_in_the_program():
    with pytest.raises(AssertionError, match="the configuration is not resolved"):
        known(Config().run.steps)
    assert known(resolve_config(Config()).run.steps) == 25
    assert known(0) == 0


def test_an_unknown_model_is_refused_before_its_settings_are_looked_up():
    with pytest.raises(InputError, match="model 'vgg17' is not known"):
        resolve_config(Config().replace(model="vgg17"))


def test_the_help_ends_with_what_empty_settings_mean():
    _, _, end = describe_settings().partition("Defaults [by weights], for each model and kind")
    lines = end.splitlines()[1:]
    headings = [line for line in lines if not line.startswith("   ")]
    # Each network once, those of equal settings together.
    named = [name for line in headings for name in line.strip().split(", ")]
    assert sorted(named) == sorted(f"{model} {kind}" for model, kind in NETWORKS)
    assert "  vgg16 trained, vgg19 trained" in headings
    paragraphs: dict[str, str] = {}
    for line in lines:
        if line in headings:
            heading = line
        else:
            paragraphs[heading] = f"{paragraphs.get(heading, '')} {line.strip()}"
    for heading, text in paragraphs.items():
        for network in heading.strip().split(", "):
            model, kind = network.split()
            for name, value in OWN_SETTINGS[model][kind].items():
                assert f" {name}={value}" in text
    # ... and each of these settings sends people there.
    flags = re.split(
        r"\n  --(?:\[no\])?", "\n".join([*describe_first_settings(), describe_settings()])
    )
    sent = {
        flag.partition("\n")[0] for flag in flags if "[by weights]" in flag.partition("Defaults")[0]
    }
    assert sent == set(NAMES)
