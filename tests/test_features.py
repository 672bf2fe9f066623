"""Features in every precision, against float32 and against what the compiler is asked for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from neuart_jax import Config, InputError
from neuart_jax.engine.binding import load_run_network
from neuart_jax.engine.plan import make_plan
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.inputs.pair import make_pair
from neuart_jax.losses.moments import gram_matrix
from neuart_jax.models.features import make_feature_fn, resolve_precision
from neuart_jax.objective.build import make_terms, run_layers
from neuart_jax.objective.term import make_objective, make_targets

LAYERS = {
    "vgg19": {"content_layers": "relu2_1", "style_layers": "relu1_1"},
    "resnet50": {"content_layers": "conv2_block1_out", "style_layers": "conv1_relu"},
}


@pytest.fixture(scope="module", params=list(LAYERS))
def run(request, content_image, style_image):
    config = Config().replace(model=request.param, weights="random", **LAYERS[request.param])
    config = resolve_config(config)
    return config, load_run_network([make_plan(make_pair(config, content_image, style_image))])


def evaluate(run, precision, content_image, style_image):
    """Return features of the style, and loss, terms and gradient at the content."""
    config, network = run
    terms = make_terms(config.losses)
    feature_fn = make_feature_fn(network.module, run_layers(config.losses), precision=precision)
    apply = jax.jit(feature_fn)
    content, style = jnp.asarray(content_image), jnp.asarray(style_image)
    features = apply(network.params, style)
    targets = make_targets(
        terms,
        content_image=content,
        style_images=(style,),
        content_features=apply(network.params, content),
        style_features=(features,),
    )
    objective = make_objective(feature_fn, terms)
    start = 0.7 * content + 0.1  # Not at the content's own minimum.
    value_and_grad = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, losses), gradient = value_and_grad(start, network.params, targets)
    return features, loss, losses, gradient, targets


@pytest.mark.slow
def test_bfloat16_is_near_float32(run, content_image, style_image):
    """bfloat16 has 8 significant bits: 0.4 % per rounding; a dozen roundings follow each other."""
    features, loss, losses, gradient, targets = evaluate(
        run, "bfloat16", content_image, style_image
    )
    exact, exact_loss, exact_losses, exact_gradient, _ = evaluate(
        run, "float32", content_image, style_image
    )
    for name, values in features.items():
        assert values.dtype == jnp.bfloat16
        difference = np.asarray(values, np.float32) - exact[name]
        assert 0 < np.linalg.norm(difference) < 0.02 * np.linalg.norm(exact[name])
        assert gram_matrix(values, divisor="positions").dtype == jnp.float32
    assert loss.dtype == gradient.dtype == jnp.float32
    assert_allclose(loss, exact_loss, rtol=0.02)
    for name, value in losses.items():
        assert value.dtype == jnp.float32
        assert_allclose(value, exact_losses[name], rtol=0.05)
    error = np.linalg.norm(gradient - exact_gradient) / np.linalg.norm(exact_gradient)
    assert 0 < error < 0.05
    target = targets.values["style"]
    kept = jax.tree.leaves((target.values, target.temperatures))
    assert {array.dtype for array in kept} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "tensorfloat32"])
def test_every_product_is_asked_for_in_the_precision(run, content_image, precision):
    """Forward and backward: the gradient is traced apart."""
    config, network = run
    feature_fn = make_feature_fn(network.module, run_layers(config.losses), precision=precision)

    def total(image, params):
        return sum(jnp.sum(jnp.square(f)) for f in feature_fn(params, image).values())

    program = jax.jit(jax.grad(total)).lower(jnp.asarray(content_image), network.params).as_text()
    convolutions = re.findall(r"stablehlo\.convolution\(.*", program)
    assert len(convolutions) > 4
    wanted = {"float32": "HIGHEST", "tensorfloat32": "DEFAULT"}[precision]
    for line in convolutions:
        asked = re.findall(r"precision<?\s*(HIGHEST|DEFAULT)", line)
        assert set(asked or ["DEFAULT"]) == {wanted}, line


def test_the_gradient_is_that_of_the_network(run, content_image):
    config, network = run
    layers = run_layers(config.losses)

    def total(features):
        return sum(jnp.sum(jnp.square(f)) for f in features.values())

    def plain(params, image):
        normalized = (image - params.mean.reshape(1, 1, 3)) / params.std.reshape(1, 1, 3)
        return total(network.module.apply(params.variables, normalized, layers=layers))

    feature_fn = make_feature_fn(network.module, layers, precision="float32")
    image = jnp.asarray(content_image)
    ours = jax.jit(jax.grad(lambda p, i: total(feature_fn(p, i)), argnums=(0, 1)))(
        network.params, image
    )
    theirs = jax.jit(jax.grad(plain, argnums=(0, 1)))(network.params, image)
    jax.tree.map(
        lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(b)))),
        ours,
        theirs,
    )


@pytest.mark.parametrize(
    "platform, expected",
    [("cpu", "float32"), ("gpu", "tensorfloat32"), ("tpu", "tensorfloat32")],
)
def test_auto_is_resolved_by_platform_and_recorded(monkeypatch, platform, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert resolve_precision("auto") == expected
    assert resolve_precision("bfloat16") == "bfloat16"
    resolved = resolve_config(Config())
    assert resolved.to_dict()["compute"]["precision"] == expected


def test_winograd_in_bfloat16_is_refused():
    config = Config().replace(convolution="winograd", precision="bfloat16")
    with pytest.raises(InputError, match="--convolution=winograd came with --precision=bfloat16"):
        resolve_config(config)
