import json
import math

import numpy as np
import pytest

from neuart_jax.config.config import (
    FIELDS,
    SECTIONS,
    Config,
    describe_first_settings,
    describe_settings,
    parse_setting,
)
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest, parse_layer_weights

CHANGED = Config().replace(
    content="a.png",
    style=["a,b.png", "c.png"],
    style_blend="3,0.5",
    save_at=(200, 400),
    temperature=4,
    content_weight=0,
    size=777,
    enlarge=True,
    weights="fitted",
    content_layers="relu4_2:0.5,relu5_2:1.5",
    style_layers={"relu1_1": 3.0},
    tv_weight=0.0,
    optimizer="adam",
    learning_rate=1 / 3,
    seed=5,
    save_every=10,
)


def test_json_round_trip_keeps_every_field():
    text = json.dumps(CHANGED.to_dict())
    assert Config.from_dict(json.loads(text)) == CHANGED
    assert Config.from_dict({}) == Config()


def test_every_field_is_in_the_json_and_in_the_help():
    sections = Config().to_dict()
    help_text = "\n".join([*describe_first_settings(), describe_settings()])
    for name, field in FIELDS.items():
        assert name in sections[field.section]
        # Once, under what matters first or in its section.
        assert f"\n{help_text}\n".count(f"\n  --{name}\n") + help_text.count(f"--[no]{name}\n") == 1
        assert field.metadata["help"]


def test_numbers_of_numpy_are_numbers():
    config = Config().replace(size=np.int64(99), tv_weight=np.float32(0.5))
    assert (config.images.size, config.losses.tv_weight) == (99, 0.5)
    json.dumps(config.to_dict())


def test_names_are_unique_over_sections():
    assert len(FIELDS) == sum(len(values) for values in Config().to_dict().values())
    assert set(SECTIONS) == set(Config().to_dict())


def test_replace_leaves_the_rest_alone():
    config = CHANGED.replace(seed=6)
    assert config.run.seed == 6
    assert config.images == CHANGED.images
    assert CHANGED.run.seed == 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("relu1_1:0.5,relu2_1:2", (("relu1_1", 0.5), ("relu2_1", 2.0))),
        (" relu1_1 : 1e-3 ", (("relu1_1", 1e-3),)),
        ("relu1_1,relu2_1,", (("relu1_1", 0.5), ("relu2_1", 0.5))),
        (["relu1_1", "a", "b", "c"], tuple((n, 0.25) for n in ("relu1_1", "a", "b", "c"))),
        ({"relu1_1": 2}, (("relu1_1", 2.0),)),
        ([("relu1_1", 2)], (("relu1_1", 2.0),)),
        ("", ()),
    ],
)
def test_layer_weights(value, expected):
    assert parse_layer_weights(value) == expected


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("a:1,b", "layers b carry no weight and others do; expected a weight for every layer"),
        ("a,a", "layer 'a' comes 2 times; expected every layer once"),
        ("a:-1", "layer 'a' has the weight '-1'; expected a finite number of at least 0"),
        ("a:nan", "layer 'a' has the weight 'nan'"),
        ("a:inf", "layer 'a' has the weight 'inf'"),
        ("a:x", "layer 'a' has the weight 'x'"),
        ("a:", "layer 'a' has the weight ''"),
        ({"a": True}, "layer 'a' has the weight True"),
        (5, "layers are written as 5"),
        ([5], "layers are written as"),
        ([("a", 1, 2)], "layers are written as"),
    ],
)
def test_bad_layer_weights(value, sentence):
    with pytest.raises(InputError) as caught:
        parse_layer_weights(value)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("size", -1, "size=-1; expected a whole number of at least 0"),
        ("size", 1.5, "size=1.5; expected a whole number"),
        ("size", "big", "size='big'; expected a whole number"),
        ("size", math.inf, "size=inf; expected a whole number"),
        ("steps", 10**400, "steps=1000"),
        ("size", True, "size=True; expected a whole number"),
        ("steps", 0, "steps=0; expected a whole number of at least 1"),
        ("tv_weight", math.nan, "tv_weight=nan; expected a finite number of at least 0"),
        ("style_weight", -2.0, "style_weight=-2.0; expected a finite number of at least 0"),
        ("learning_rate", -0.1, "learning_rate=-0.1; expected a finite number of at least 0"),
        (
            "noise_ratio",
            1.5,
            "noise_ratio=1.5; expected a finite number of at least 0 and at most 1",
        ),
        ("seed", 2**40, "seed=1099511627776; expected a whole number of at least 0 and at most"),
        ("enlarge", "yes", "enlarge='yes'; expected true or false"),
        ("content", 5, "content=5; expected a text"),
        ("optimizer", "lbgfs", "optimizer='lbgfs' is not known; expected one of lbfgs"),
        ("pooling", "avg", "pooling='avg' is not known; expected one of average, max"),
        ("temperature", 0, "temperature=0; expected a finite number of at least 1e-06; see --help"),
        ("content_weight", math.inf, "content_weight=inf; expected a finite number of at least 0"),
        ("content_weight", False, "content_weight=False; expected a finite number of at least 0"),
        ("content_loss", "", "content_loss='' is not known"),
        ("content_loss", None, "content_loss=None; expected a text"),
        ("style_weight", None, "style_weight=None; expected a finite number of at least 0"),
        ("style_weight", "", "style_weight=''; expected a finite number of at least 0"),
        ("style_loss", "relativ", "style_loss='relativ' is not known; expected one of relative"),
        ("tv_weight", -1, "tv_weight=-1; expected a finite number of at least 0; see --help"),
        ("range_weight", math.nan, "range_weight=nan; expected a finite number of at least 0"),
        ("scales", 9, "scales=9; expected a whole number of at least 1 and at most 8"),
        ("scales", 1.5, "scales=1.5; expected a whole number"),
        ("coarse_steps", 0, "coarse_steps=0; expected a whole number of at least 1"),
        (
            "steps",
            "x",
            "steps='x'; expected a whole number of at least 1 and at most 10000000; see --help",
        ),
        ("style", 5, "style=5; expected a text, or a list of texts that aren't empty"),
        ("style", ["a.png", 5], "style=['a.png', 5]; expected a text, or a list"),
        ("style", ["a.png", ""], "style=['a.png', '']; expected a text, or a list"),
        ("style", None, "style=None; expected a text, or a list"),
        ("style", {"a.png": 1}, "style={'a.png': 1}; expected a text, or a list"),
        ("style_blend", "3;1", "style_blend='3;1'; expected finite numbers of at least 0 with"),
        ("style_blend", "3,-1", "style_blend='3,-1'; expected finite numbers"),
        ("style_blend", "nan", "style_blend='nan'; expected finite numbers"),
        ("style_blend", [math.inf], "style_blend=[inf]; expected finite numbers"),
        ("style_blend", [10**400], "style_blend=[1000"),
        ("style_blend", None, "style_blend=None; expected finite numbers"),
        ("style_blend", True, "style_blend=True; expected finite numbers"),
        ("style_blend", [True], "style_blend=[True]; expected finite numbers"),
        ("style_blend", [[1]], "style_blend=[[1]]; expected finite numbers"),
        ("save_at", "1.5", "save_at='1.5'; expected whole numbers of at least 0 with commas"),
        ("save_at", [200, 0.5], "save_at=[200, 0.5]; expected whole numbers"),
        ("save_at", "-200", "save_at='-200'; expected whole numbers"),
    ],
)
def test_bad_values(name, value, sentence):
    with pytest.raises(InputError) as caught:
        Config().replace(**{name: value})
    assert str(caught.value).startswith(sentence)


def test_a_weight_too_large_for_a_float_is_refused():
    with pytest.raises(InputError, match=r"layer 'a' has the weight 1000.*; expected a finite"):
        Config.from_dict(json.loads('{"losses": {"style_layers": {"a": 1' + 400 * "0" + "}}}"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("style", "a,b.png", ("a,b.png",)),  # As one flag, or as records had it once.
        ("style", "", ()),
        ("style", [], ()),
        ("style", ("a.png", "b.png"), ("a.png", "b.png")),
        ("style_blend", "3,1", (3.0, 1.0)),
        ("style_blend", " 3 , 1e-3 ,", (3.0, 0.001)),
        ("style_blend", "", ()),
        ("style_blend", 2, (2.0,)),
        ("style_blend", [np.float32(0.5), 1], (0.5, 1.0)),
        ("save_at", "200,4e2", (200, 400)),
        ("save_at", 7, (7,)),
        ("save_at", [], ()),
        ("content_weight", "", None),
        ("content_weight", None, None),
        ("content_weight", 0, 0.0),
        ("temperature", "", None),
        ("steps", "", None),
        ("steps", None, None),
        ("steps", "40", 40),
        ("scales", "2e0", 2),
        ("coarse_steps", "", None),
        ("tv_weight", "", None),
        ("range_weight", None, None),
        ("style_loss", "", ""),
        ("style_loss", None, ""),
        ("pooling", "", ""),
        ("model", "", ""),
        ("smoothing", "", ""),
        ("smoothing", None, ""),
        ("preprocessing", "", ""),
        ("normalize_weights", "", ""),
        ("content_layers", "", ()),
    ],
)
def test_values_that_are_lists_or_empty(name, value, expected):
    config = Config().replace(**{name: parse_setting(name, value)})
    found = getattr(getattr(config, FIELDS[name].section), name)
    assert found == expected
    if isinstance(found, tuple):
        assert [type(item) for item in found] == [type(item) for item in expected]
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_json_has_plain_lists_and_null():
    sections = CHANGED.to_dict()
    assert sections["images"]["style"] == ["a,b.png", "c.png"]
    assert sections["losses"]["style_blend"] == [3.0, 0.5]
    assert sections["output"]["save_at"] == [200, 400]
    assert sections["losses"]["style_layers"] == {"relu1_1": 3.0}
    assert Config().to_dict()["losses"]["content_weight"] is None


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(InputError, match="'style_wieght' is not a setting.*'style_weight'"):
        Config().replace(style_wieght=1.0)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "x.json holds list where settings should be"),
        ({"lossess": {}}, "x.json has 'lossess' where a section should be.*'losses'"),
        ({"run": 5}, "x.json has 'run' where a section should be"),
        ({"run": {"stepps": 5}}, "'stepps' is not a setting.*'steps'"),
        ({"run": {"steps": [5]}}, r"steps=\[5\]; expected a whole number"),
        ({"losses": {"style_layers": 7}}, "layers are written as 7"),
    ],
)
def test_bad_documents(document, sentence):
    with pytest.raises(InputError, match=sentence):
        Config.from_dict(document, source="x.json")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("size", "512", 512),
        ("steps", "1e3", 1000),
        ("size", "1.5", 1.5),
        ("size", "big", "big"),
        ("tv_weight", "1e-3", 1e-3),
        ("content", "5", "5"),
        ("style_layers", "a:1", "a:1"),
        ("content_weight", "5", 5.0),
        ("content_weight", "", ""),
        ("size", "", ""),
        ("style_blend", "3,1", "3,1"),
        ("style", ["a.png"], ["a.png"]),
        ("print_losses", True, True),
    ],
)
def test_settings_as_text(name, text, expected):
    value = parse_setting(name, text)
    assert (value, type(value)) == (expected, type(expected))


def test_nearest():
    assert nearest("relu42", ["relu4_2", "conv1_1"], count=1) == "'relu4_2'"
    assert nearest("zzz", ["one", "two"]) == "'one' or 'two'"
    assert nearest("x", []) == "nothing"
