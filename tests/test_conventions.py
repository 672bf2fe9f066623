"""Torchvision's VGGs in the units of Oxford's: every feature 150 times as large, no more."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax.config.presets import PRESETS
from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import CanonicalParams, flatten, nest
from neuart_jax.models.params.catalog import CAFFE, FITTED
from neuart_jax.models.params.conventions import CAFFE_OVER_TORCH, TORCH, put_into_caffe_units

LAYERS = ("conv1_1", "relu1_1", "relu1_2", "pool1", "conv2_1", "relu2_2", "pool2", "relu3_1")


def random_weights(model, *, normalization=TORCH, layers=LAYERS):
    """Draw kernels, and biases that matter."""
    module = MODELS[model].make_module()
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), np.zeros((32, 32, 3), np.float32), layers=layers)
    )
    rng = np.random.default_rng(0)
    variables = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])) if path.endswith("kernel") else 0.3)
        for path, leaf in flatten(shapes).items()
    }
    return CanonicalParams(variables, normalization, "")


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
@pytest.mark.parametrize(
    "options",
    [{"pooling": "max", "padding": "zero"}, {"pooling": "average", "padding": "reflect"}],
)
def test_every_layer_becomes_as_large(model, options):
    weights = random_weights(model)
    scaled = put_into_caffe_units(weights, model=model)
    module = MODELS[model].make_module(**options)
    image = np.random.default_rng(1).normal(size=(16, 20, 3)).astype(np.float32)
    apply = jax.jit(lambda variables: module.apply(variables, image, layers=LAYERS))
    before, after = (apply(nest(each.variables)) for each in (weights, scaled))
    assert set(after) == set(LAYERS)
    for name, features in before.items():
        most = CAFFE_OVER_TORCH * np.max(np.abs(features))
        assert most > 0
        expected = CAFFE_OVER_TORCH * np.asarray(features)
        assert_allclose(after[name], expected, rtol=1e-5, atol=1e-5 * most, err_msg=name)


def test_the_first_kernel_and_all_biases_are_scaled_and_nothing_else():
    weights = random_weights("vgg19")
    before = {path: array.copy() for path, array in weights.variables.items()}
    scaled = put_into_caffe_units(weights, model="vgg19")
    for path, array in scaled.variables.items():
        factor = 150 if path == "params/conv1_1/kernel" or path.endswith("/bias") else 1
        assert_allclose(array, factor * before[path], rtol=1e-6)
        assert array.dtype == np.float32
        # What is given stays as it is.
        assert_array_equal(weights.variables[path], before[path])
    assert list(scaled.variables) == list(weights.variables)
    assert scaled._replace(variables={}) == weights._replace(variables={})


@pytest.mark.parametrize(
    ("model", "normalization"), [("vgg19", CAFFE), ("vgg16", FITTED), ("resnet50", TORCH)]
)
def test_other_weights_are_left_as_they_are(model, normalization):
    layers = LAYERS if model != "resnet50" else ("conv1_relu",)
    weights = random_weights(model, normalization=normalization, layers=layers)
    assert put_into_caffe_units(weights, model=model) is weights


def test_recipes_ask_for_it_by_a_setting():
    asking = {name for name, preset in PRESETS.items() if "feature_units" in preset.settings}
    assert {PRESETS[name].settings["feature_units"] for name in asking} == {"caffe"}
    assert {"gatys2015", "neural-style", "slides"} <= asking
