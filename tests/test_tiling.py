"""The objective and its targets window by window, against those of the whole picture."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import smooth_image
from loops import make_run_fn
from numpy.testing import assert_allclose

from neuart_jax.config.config import FIELDS
from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import LossConfig, OptimizerConfig
from neuart_jax.engine.kernel_transforms import transform_kernels
from neuart_jax.engine.step import StopRule, make_evaluate_fn
from neuart_jax.losses.elementwise import CONTENT_FORMULAS
from neuart_jax.losses.style import MOMENT_LOSSES, SORTING_LOSSES
from neuart_jax.models import NetworkParams, resnet50, vgg
from neuart_jax.models.features import make_feature_fn
from neuart_jax.models.receptive_field import PIXELS
from neuart_jax.objective.build import make_terms, realism_term, total_variation_term
from neuart_jax.objective.content import content_term
from neuart_jax.objective.smoothing import Smoothing, sum_elements
from neuart_jax.objective.style import style_term
from neuart_jax.objective.term import Additive, Term, layers_of, make_objective, make_targets
from neuart_jax.objective.tiled import make_tiled_objective, make_tiled_targets
from neuart_jax.objective.windows import find_margins, plan_tiles
from neuart_jax.optimizers.build import make_optimizer

pytestmark = pytest.mark.slow


@pytest.fixture
def thin_networks(monkeypatch):
    """Give the networks a sixteenth of their channels, and ResNet50 one block per stage."""
    blocks = {
        model: tuple((channels // 16, count) for channels, count in rows)
        for model, rows in vgg.BLOCKS.items()
    }
    monkeypatch.setattr(vgg, "BLOCKS", blocks)
    monkeypatch.setattr(resnet50, "STAGES", tuple((width // 16, 1) for width, _ in resnet50.STAGES))
    resnet50.layer_reaches.cache_clear()
    yield
    resnet50.layer_reaches.cache_clear()


FINE = PIXELS.slide(3, margin=1)
TOY_REACHES = {"fine": FINE, "coarse": FINE.slide(2, stride=2).slide(3, margin=1)}


def toy_features(kernels, image):
    """Two layers of an own network: zero-padded convolutions with a VALID pooling between them."""

    def convolve(inputs, kernel):
        return jax.lax.conv_general_dilated(
            inputs[None],
            kernel,
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]

    fine = jax.nn.relu(convolve(image - 0.4, kernels[0]))
    height, width, channels = fine.shape
    even = fine[: height // 2 * 2, : width // 2 * 2]
    pooled = even.reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))
    return {"fine": fine, "coarse": jax.nn.relu(convolve(pooled, kernels[1]) + 0.2)}


def toy_kernels(dtype=jnp.float64):
    rng = np.random.default_rng(7)
    return [jnp.asarray(rng.normal(size=(3, 3, *c)), dtype) for c in ((3, 4), (4, 5))]


def pictures(dtype, *, content=(37, 46), styles=((41, 30),)):
    image, here = (smooth_image(*content, seed=seed) for seed in (1, 2))
    there = [smooth_image(*shape, seed=seed) ** 2 for seed, shape in enumerate(styles, 3)]
    return tuple(jnp.asarray(x, dtype) for x in (image, here, *there))


def draw_memberships(shapes, num_regions, seed):
    rng = np.random.default_rng(seed)
    drawn = {n: rng.random((*s.shape[:2], num_regions)) ** 3 for n, s in shapes.items()}
    return {n: jnp.asarray(x / x.sum(-1, keepdims=True)) for n, x in drawn.items()}


def worst_difference(ours, expected):
    """Return the largest relative difference, in the maximum norm of each array."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected)

    def difference(x, y):
        x, y = (np.asarray(array, np.float64) for array in (x, y))
        return np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 1e-30)

    return max(jax.tree.leaves(jax.tree.map(difference, ours, expected)))


def both_ways(feature_fn, params, reaches, terms, images, *, window, num_regions=0):
    """Return ((targets, evaluation, losses) in windows, the same of the whole picture).

    The targets' weights make every term as large as the others, for none to be overlooked.
    """
    image, content, *styles = images
    styles = tuple(styles)
    halo, stride = find_margins({n: reaches[n] for n in layers_of(terms, "layers")})
    tilings = [
        plan_tiles(*x.shape[:2], halo=halo, stride=stride, window=window) for x in images[1:]
    ]
    assert min(len(tilings[0].rows), len(tilings[0].columns)) > 1
    places, style_places = {}, ()
    if num_regions:
        drawn = [
            draw_memberships(jax.eval_shape(feature_fn, params, x), num_regions, seed)
            for seed, x in enumerate(images[1:])
        ]
        places, style_places = drawn[0], tuple(drawn[1:])

    @jax.jit
    def whole(params, image, content, styles, places, style_places):
        targets = make_targets(
            terms,
            content_image=content,
            style_images=styles,
            content_features=feature_fn(params, content),
            style_features=tuple(feature_fn(params, style) for style in styles),
            content_memberships=places,
            style_memberships=style_places,
        )
        objective = make_objective(feature_fn, terms)
        _, losses = objective(image, params, targets)
        targets = targets._replace(weights={t.name: 1 / losses[t.name] for t in terms})
        return targets, *make_evaluate_fn(objective)(image, params, targets)

    @jax.jit
    def tiled(params, image, content, styles, places, style_places, weights):
        targets = make_tiled_targets(
            terms,
            feature_fn,
            params,
            content_image=content,
            style_images=styles,
            content_tiling=tilings[0],
            style_tilings=tuple(tilings[1:]),
            reaches=reaches,
            content_memberships=places,
            style_memberships=style_places,
        )._replace(weights=weights)
        evaluate = make_evaluate_fn(make_tiled_objective(feature_fn, terms, tilings[0], reaches))
        return targets, *evaluate(image, params, targets)

    given = params, image, content, styles, places, style_places
    expected = whole(*given)
    return tiled(*given, expected[0].weights), expected


TOY = LossConfig(
    content_layers="fine:0.5,coarse:2",
    style_layers="fine:2,coarse:0.5",
    content_weight=3,
    style_weight=7,
    tv_weight=0.5,
)


SMOOTHINGS = ("none", "softmax", "centered_softmax")


def toy_targets(terms, kernels, content, style):
    return make_targets(
        terms,
        content_image=content,
        style_images=(style,),
        content_features=toy_features(kernels, content),
        style_features=(toy_features(kernels, style),),
    )


def check_toy(terms, *, num_styles=1, num_regions=0, most=1e-10):
    ours, expected = both_ways(
        toy_features,
        toy_kernels(),
        TOY_REACHES,
        terms,
        pictures(jnp.float64, styles=((41, 30), (30, 57))[:num_styles]),
        window=24,
        num_regions=num_regions,
    )
    assert worst_difference(ours, expected) < most
    assert all(float(value) > 1e-6 for value in expected[2].values())


@pytest.mark.parametrize("kind", SMOOTHINGS)
def test_all_formulas_are_the_same_in_windows(kind, float64):
    smoothing = Smoothing(kind, 0.7)
    layers = (("fine", 2.0), ("coarse", 0.5))
    common = {"weight": 1.0, "layer_weights": layers, "smoothing": smoothing}
    # One of each kind, where the smoothing is what is looked at.
    some = {"quarter_mean", "half_sum", "relative_wasserstein"}
    contents, styles = (
        [name for name in table if kind == "none" or name in some]
        for table in (CONTENT_FORMULAS, MOMENT_LOSSES)
    )
    terms = (
        *(
            dataclasses.replace(content_term(formula=name, **common), name=f"content {name}")
            for name in contents
        ),
        *(style_term(formula=name, name=name, **common) for name in styles),
        total_variation_term(weight=1.0),
        realism_term(weight=1.0),
    )
    check_toy(terms)


def test_every_style_loss_that_does_not_sort_is_there():
    choices = set(FIELDS["style_loss"].metadata["choices"])
    assert set(MOMENT_LOSSES) == choices - SORTING_LOSSES


@pytest.mark.parametrize(
    ("mix", "formula", "kind"),
    [
        ("blended", "half_sum", "centered_softmax"),
        ("separate", "relative_wasserstein", "none"),
    ],
)
def test_regions_of_several_styles_are_the_same_in_windows(mix, formula, kind, float64):
    config = dataclasses.replace(
        TOY,
        style_loss=formula,
        smoothing=kind,
        style_mix=mix,
        style_blend=(3, 1),
        stylization=0.6,
        balance=True,
    )
    presence = ((True, True), (False, True), (True, False))
    terms = make_terms(config, num_styles=2, presence=presence)
    check_toy(terms, num_styles=2, num_regions=3)


CASES = {
    "vgg19": (
        vgg.VGG,
        {"content_layers": "relu3_1", "style_layers": "relu1_1,pool1,conv2_2,relu3_1"},
    ),
    "resnet50": (
        resnet50.ResNet50,
        {
            "content_layers": "conv2_block1_out",
            "style_layers": "conv1_pad,conv1_relu,conv3_block1_out",
        },
    ),
}


def random_network(module, layers, *, dtype=jnp.float32):
    rng = np.random.default_rng(0)

    def draw(path, shape):
        if len(shape.shape) == 4:
            scale = np.sqrt(2 / np.prod(shape.shape[:3]))
            return jnp.asarray(rng.normal(size=shape.shape) * scale, dtype)
        return jnp.full(shape.shape, float(path[-1].key in ("scale", "var")), dtype)

    def shapes():
        return module.init(jax.random.key(0), jnp.zeros((32, 32, 3)), layers=layers)

    variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(shapes))
    return NetworkParams(variables, jnp.full(3, 0.4, dtype), jnp.full(3, 0.2, dtype))


@pytest.mark.parametrize(
    ("model", "pooling", "padding", "kind", "dtype"),
    [
        ("vgg19", "average", "reflect", "none", jnp.float32),
        ("vgg19", "max", "zero", "none", jnp.float64),
        ("resnet50", "max", "zero", "none", jnp.float64),
        ("resnet50", "average", "reflect", "none", jnp.float32),
    ],
)
def test_networks_see_the_same_in_windows(model, pooling, padding, kind, dtype, thin_networks):
    make_module, layers = CASES[model]
    module = make_module(pooling=pooling, padding=padding)
    config = LossConfig(content_weight=3, smoothing=kind, temperature=4.0, **layers)
    terms = make_terms(config)
    names = layers_of(terms, "layers")
    # Where all sides of a layer are short, sums over it are rounded as in a plain loop.
    side = 125 if dtype == jnp.float32 else 77
    with jax.enable_x64(dtype == jnp.float64):
        ours, expected = both_ways(
            make_feature_fn(module, names, precision="float32"),
            random_network(module, names, dtype=dtype),
            module.layer_reaches(),
            terms,
            pictures(dtype, content=(side, side + 8), styles=((49, 62),)),
            window=3 * side // 4,
        )
    most = 1e-10 if dtype == jnp.float64 else 1e-5
    assert worst_difference(ours[1:], expected[1:]) < most
    for term, target in ours[0].values.items():
        if term != "tv":
            assert worst_difference(target.values, expected[0].values[term].values) < most


def test_transformed_kernels_serve_windows(monkeypatch):
    blocks = ((32, 2), (32, 2), *vgg.BLOCKS["vgg19"][2:])
    monkeypatch.setitem(vgg.BLOCKS, "vgg19", blocks)
    module = vgg.VGG(padding="reflect", pooling="average")
    terms = make_terms(LossConfig(content_layers="relu2_2", style_layers="relu1_2,relu2_2"))
    names = layers_of(terms, "layers")
    params = transform_kernels(module, random_network(module, names), names, size=(40, 40))
    assert params.variables["winograd"]
    ours, expected = both_ways(
        make_feature_fn(module, names, precision="float32"),
        params,
        module.layer_reaches(),
        terms,
        pictures(jnp.float32),
        window=26,
    )
    # Their own error is ten times that of convolutions.
    assert worst_difference(ours[1:], expected[1:]) < 1e-4


def test_the_gradient_of_any_mixture_of_terms_is_right(float64):
    """The weights of the terms may be chosen after the values are known."""
    terms = make_terms(TOY)
    kernels, (image, content, style) = toy_kernels(), pictures(jnp.float64)
    targets = jax.jit(functools.partial(toy_targets, terms))(kernels, content, style)
    tiling = plan_tiles(37, 46, halo=5, stride=2, window=24)
    tiled = make_tiled_objective(toy_features, terms, tiling, TOY_REACHES)

    def mixed(objective):
        def loss(image):
            total, found = objective(image, kernels, targets)
            return jnp.log(total) + 3 * found["style"] ** 2 - found["tv"]

        return jax.jit(jax.grad(loss))(image)

    assert worst_difference(mixed(tiled), mixed(make_objective(toy_features, terms))) < 1e-10


def test_pairs_can_be_mapped_over(float64):
    terms = make_terms(TOY)
    tiling = plan_tiles(37, 46, halo=5, stride=2, window=24)
    kernels = toy_kernels()

    image, content, style = (
        jnp.stack([picture, picture[::-1] ** 2]) for picture in pictures(jnp.float64)
    )
    find_targets = jax.vmap(functools.partial(toy_targets, terms), (None, 0, 0))
    targets = jax.jit(find_targets)(kernels, content, style)
    found = [
        jax.jit(jax.vmap(make_evaluate_fn(objective), (0, None, 0)))(image, kernels, targets)
        for objective in (
            make_tiled_objective(toy_features, terms, tiling, TOY_REACHES),
            make_objective(toy_features, terms),
        )
    ]
    assert worst_difference(*found) < 1e-10


def test_the_loop_runs_in_windows():
    terms = make_terms(TOY)
    kernels, (_, content, style) = toy_kernels(jnp.float32), pictures(jnp.float32)
    targets = jax.jit(functools.partial(toy_targets, terms))(kernels, content, style)
    tiling = plan_tiles(37, 46, halo=5, stride=2, window=24)
    optimizer = make_optimizer(OptimizerConfig(optimizer="adam"), num_steps=4)
    results = [
        make_run_fn(objective, optimizer, StopRule(4))(content, kernels, targets)
        for objective in (
            make_tiled_objective(toy_features, terms, tiling, TOY_REACHES),
            make_objective(toy_features, terms),
        )
    ]
    ours, expected = results
    assert ours.num_steps == expected.num_steps == 4
    assert ours.step_losses[-1] < ours.step_losses[0]
    assert_allclose(ours.step_losses, expected.step_losses, rtol=1e-3)
    assert_allclose(ours.image, expected.image, atol=1e-2)


@pytest.mark.parametrize(("value", "smoothing"), [(0.0, "none"), (0.0, "centered_softmax")])
def test_flat_pictures_have_finite_gradients(value, smoothing):
    terms = make_terms(
        dataclasses.replace(TOY, smoothing=smoothing, style_loss="relative_wasserstein")
    )
    flat = jnp.full((20, 20, 3), value)
    kernels = toy_kernels(jnp.float32)
    targets = jax.jit(functools.partial(toy_targets, terms))(kernels, flat, flat)
    tiling = plan_tiles(20, 20, halo=5, stride=2, window=17)
    objective = make_tiled_objective(toy_features, terms, tiling, TOY_REACHES)
    evaluation, _ = jax.jit(make_evaluate_fn(objective))(flat + 0.1, kernels, targets)
    assert np.isfinite(evaluation.loss)
    assert np.all(np.isfinite(evaluation.gradient))


def test_small_differences_survive_single_precision():
    """At a high temperature, where smoothed features are all nearly 1."""
    config = dataclasses.replace(TOY, smoothing="centered_softmax", temperature=300.0, tv_weight=0)
    terms = make_terms(config)
    tiling = plan_tiles(37, 46, halo=5, stride=2, window=24)

    def evaluate(dtype, objective):
        @jax.jit
        def run(kernels, image, content, style):
            targets = toy_targets(terms, kernels, content, style)
            return make_evaluate_fn(objective)(image, kernels, targets)

        with jax.enable_x64(dtype == jnp.float64):
            return run(toy_kernels(dtype), *pictures(dtype))

    tiled = make_tiled_objective(toy_features, terms, tiling, TOY_REACHES)
    ours = evaluate(jnp.float32, tiled)
    expected = evaluate(jnp.float64, make_objective(toy_features, terms))
    # The softmax of the whole layer less its mean, in float32, misses the gradient by 4e-4.
    assert worst_difference(ours, expected) < 2e-5


def test_memory_is_that_of_a_window():
    module = vgg.VGG(padding="reflect")
    terms = make_terms(LossConfig(content_layers="relu2_1", style_layers="relu1_1,relu2_1"))
    names = layers_of(terms, "layers")
    reaches = {name: module.layer_reaches()[name] for name in names}
    feature_fn = make_feature_fn(module, names)
    params = random_network(module, names)
    halo, stride = find_margins(reaches)

    def bytes_needed(height, *, in_windows):
        image = jax.ShapeDtypeStruct((height, 96, 3), jnp.float32)
        features = jax.eval_shape(feature_fn, params, image)
        targets = jax.eval_shape(
            lambda image, features: make_targets(
                terms,
                content_image=image,
                style_images=(image,),
                content_features=features,
                style_features=(features,),
            ),
            image,
            features,
        )
        objective = make_objective(feature_fn, terms)
        if in_windows:
            tiling = plan_tiles(height, 96, halo=halo, stride=stride, window=96)
            objective = make_tiled_objective(feature_fn, terms, tiling, reaches)
        compiled = jax.jit(make_evaluate_fn(objective)).lower(image, params, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    tiled, whole = (
        [bytes_needed(height, in_windows=in_windows) for height in (192, 1024)]
        for in_windows in (True, False)
    )
    # A picture more or less is left, for the total variation.
    assert tiled[1] - tiled[0] < 0.03 * (whole[1] - whole[0])
    assert tiled[1] < 0.3 * whole[1]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("style", {"style_loss": "histogram"}),
        ("style", {"style_loss": "relative_sliced_wasserstein"}),
    ],
)
def test_what_sorts_is_refused(name, settings):
    terms = make_terms(dataclasses.replace(TOY, **settings))
    tiling = plan_tiles(37, 46, halo=5, stride=2, window=24)
    with pytest.raises(InputError) as caught:
        make_tiled_objective(toy_features, terms, tiling, TOY_REACHES)
    assert str(caught.value) == (
        f"the loss term {name!r} needs all features of a layer at once; expected terms that "
        "depend on sums over windows only; choose a style loss that doesn't sort, such as relative "
        "or wasserstein, or paint without windows."
    )


def test_a_term_of_ones_own_over_sums_is_written_once(float64):
    additive = Additive(
        sums=lambda features, target, window: sum_elements(
            jnp.square(features["coarse"]), window.core("coarse")
        ),
        loss=lambda sums, target: jnp.square(sums[0] / sums[1] - target),
    )
    term = Term(
        name="energy",
        weight=1.0,
        make_target=lambda inputs: jnp.asarray(0.3),
        loss_fn=additive.loss_fn,
        layers=("coarse",),
        additive=additive,
    )
    check_toy((term,))
    image, *_ = pictures(jnp.float64)
    features = toy_features(toy_kernels(), image)
    expected = (np.mean(np.square(features["coarse"])) - 0.3) ** 2
    assert term.loss_fn(image, features, 0.3) == pytest.approx(expected, rel=1e-10)


def test_terms_of_ones_own_that_read_layers_are_refused():
    term = Term(
        name="own",
        weight=1.0,
        make_target=lambda inputs: (),
        loss_fn=lambda image, features, target: jnp.sum(features["fine"]),
        layers=("fine",),
    )
    tiling = plan_tiles(37, 46, halo=5, stride=2, window=24)
    with pytest.raises(InputError, match="the loss term 'own' needs all features"):
        make_tiled_objective(toy_features, (term,), tiling, TOY_REACHES)
    with pytest.raises(InputError, match="the loss term 'own' needs all features"):
        make_tiled_targets(
            (term,),
            toy_features,
            toy_kernels(jnp.float32),
            content_image=jnp.zeros((37, 46, 3)),
            style_images=(),
            content_tiling=tiling,
            style_tilings=(),
            reaches=TOY_REACHES,
        )
