"""How windows cover a picture, and whether receptive fields are what networks really see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from neuart_jax.config.errors import InputError
from neuart_jax.models import resnet50, vgg
from neuart_jax.models.receptive_field import PIXELS, Reach
from neuart_jax.objective.windows import WHOLE, find_margins, open_window, plan_tiles

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stride", [1, 2, 8, 16])
@pytest.mark.parametrize("halo", [0, 1, 7, 40, 83])
def test_plans_keep_their_promises(stride, halo):
    rng = np.random.default_rng(stride + halo)
    margin = -(-halo // stride) * stride
    smallest = margin + halo + 2 * stride - 1
    for _ in range(200):
        length, window = int(rng.integers(1, 900)), smallest + int(rng.integers(0, 300))
        tiling = plan_tiles(length, 1, halo=halo, stride=stride, window=window)
        size, spans = tiling.window_height, tiling.rows
        assert (tiling.height, tiling.width, tiling.window_width) == (length, 1, 1)
        assert tiling.is_whole == (length <= window)
        assert size <= window
        if tiling.is_whole:
            assert spans == ((0, 0, length),)
            continue
        assert (length - size) % stride == 0
        assert spans[-1].start + size == length
        # The cores follow each other and leave nothing out.
        assert [s.core_start for s in spans] == [0, *(s.core_end for s in spans[:-1])]
        assert spans[-1].core_end == length
        for span in spans:
            assert span.start % stride == span.core_start % stride == 0
            assert span.start >= 0
            assert span.start + size <= length
            assert span.core_start < span.core_end
            assert span.start == 0 or span.core_start - span.start >= halo
            is_last = span.core_end == length
            assert is_last or span.start + size - span.core_end >= halo
        # The largest window of all would need as many.
        largest = window - (window - length) % stride
        step = (largest - halo) // stride * stride - margin
        assert len(spans) == 1 + -(-(length - largest) // step)


def test_windows_are_no_larger_than_as_many_need():
    tiling = plan_tiles(1100, 1000, halo=80, stride=16, window=1024)
    assert tiling.window_width == 1000
    assert len(tiling.columns) == 1
    assert len(tiling.rows) == 2
    assert tiling.window_height < 700


def test_a_window_that_is_nothing_but_halo_is_refused():
    with pytest.raises(InputError) as caught:
        plan_tiles(500, 500, halo=83, stride=16, window=209)
    assert str(caught.value) == (
        "a window of 209 pixels is too small for these layers; expected at least 210, as they "
        "see 83 pixels around every position; use a larger window, or shallower layers."
    )
    assert len(plan_tiles(500, 209, halo=83, stride=16, window=210).rows) > 2


def test_reaches_are_those_of_hand_calculation():
    assert PIXELS.slide(3, margin=1) == Reach(1, 1, 1)
    assert PIXELS.slide(3, margin=1).slide(2, stride=2) == Reach(2, 1, 2)
    assert PIXELS.pad(3) == Reach(1, 3, -3)
    # relu5_1 sees 156 pixels: two blocks of 2 and two of 4 convolutions, four poolings, and one.
    reach = vgg.layer_reaches("vgg19")["relu5_1"]
    assert reach.before + 1 + reach.after == 5 + 1 + 8 + 2 + 32 + 4 + 64 + 8 + 32
    assert find_margins({"relu5_1": reach}) == (reach.before, 16)


def layer_names(module):
    is_vgg = isinstance(module, vgg.VGG)
    return vgg.layer_names(module.model) if is_vgg else resnet50.layer_names()


MODULES = {
    "vgg19": (vgg.VGG(), "relu5_4", 420),
    "vgg16": (vgg.VGG("vgg16"), "relu5_3", 420),
    "vgg19 average": (vgg.VGG(pooling="average"), "relu5_1", 330),
    "resnet50": (resnet50.ResNet50(), "conv4_block2_out", 410),
    "resnet50 3x3": (resnet50.ResNet50(stride_on="3x3"), "conv4_block2_out", 410),
    "resnet50 average": (resnet50.ResNet50(pooling="average"), "conv4_block2_out", 410),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_pixel_changes_what_its_reach_says_and_nothing_else(name, monkeypatch):
    """With positive kernels nothing cancels: what a pixel gets to is what isn't 0."""
    for model, rows in vgg.BLOCKS.items():
        monkeypatch.setitem(vgg.BLOCKS, model, tuple((1, count) for _, count in rows))
    stages = tuple((1, count) for _, count in resnet50.STAGES)
    monkeypatch.setattr(resnet50, "STAGES", stages)
    module, deepest, side = MODULES[name]
    reaches = module.layer_reaches()

    def fill(path, shape):
        if len(shape.shape) == 4:
            return jnp.full(shape.shape, 1 / shape.shape[2])
        return jnp.full(shape.shape, float(path[-1].key in ("scale", "var")))

    everything = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((64, 64, 3))))
    variables = jax.tree_util.tree_map_with_path(fill, everything)
    order = layer_names(module)
    assert set(reaches) == set(order)
    layers = order[: order.index(deepest) + 1]
    apply = jax.jit(lambda image: module.apply(variables, image, layers=layers))
    seen_before = set()
    for pixel in (side // 2, side // 2 + 13, side // 2 + 23):
        image = np.zeros((side, 24, 3), np.float32)
        image[pixel, 12] = 1
        for layer, features in apply(image).items():
            reach = reaches[layer]
            first = -(-(pixel - reach.after) // reach.stride)
            last = (pixel + reach.before) // reach.stride
            assert 0 < first
            assert last < features.shape[0] - 1
            changed = np.flatnonzero(np.any(np.asarray(features) != 0, axis=(1, 2)))
            assert_array_equal(changed, np.arange(first, last + 1), layer)
            seen_before.add(layer)
    assert seen_before == set(layers)


@pytest.mark.parametrize(
    ("module", "window", "shape"),
    [
        (vgg.VGG(), 96, (181, 160)),
        (resnet50.ResNet50(), 130, (160, 199)),
        (resnet50.ResNet50(pooling="average"), 130, (181, 175)),
    ],
)
def test_cores_share_out_every_layer(module, window, shape):
    names = layer_names(module)
    deepest = "pool3" if isinstance(module, vgg.VGG) else "conv3_block2_out"
    layers = names[: names.index(deepest) + 1]
    reaches = {name: module.layer_reaches()[name] for name in layers}
    halo, stride = find_margins(reaches)
    tiling = plan_tiles(*shape, halo=halo, stride=stride, window=window)
    assert min(len(tiling.rows), len(tiling.columns)) > 1

    def shapes(height, width):
        image = jnp.zeros((height, width, 3))
        run = lambda: module.init_with_output(jax.random.key(0), image, layers=layers)[0]  # noqa: E731
        return {n: x.shape for n, x in jax.eval_shape(run).items()}

    whole = {n: np.zeros(s[:2]) for n, s in shapes(*shape).items()}
    parts = shapes(tiling.window_height, tiling.window_width)
    for row in tiling.rows:
        for column in tiling.columns:
            seen = open_window(tiling, (row, column), parts, reaches)
            for name, core in seen.cores.items():
                top, left = seen.starts[name]
                height, width = core.shape
                # Nothing sticks out.
                part = whole[name][top : top + height, left : left + width]
                part += np.asarray(core)
                ours = jnp.arange(whole[name].size).reshape(*whole[name].shape, 1)
                cut = np.asarray(seen.cut(name, ours))[..., 0]
                assert_array_equal(cut[0, 0], ours[top, left, 0])
    for name, counts in whole.items():
        assert_array_equal(counts, 1, name)


def test_the_whole_is_a_window_without_a_core():
    array = jnp.arange(24.0).reshape(2, 3, 4)
    assert WHOLE.core("any") is None
    assert_array_equal(WHOLE.cut("any", array), array)
    assert_array_equal(WHOLE.paste("any", array, 2 * array), 2 * array)
