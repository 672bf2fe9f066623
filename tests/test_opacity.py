"""Transparent styles: what isn't there has no part in them."""

import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax import Config, stylize, transfer
from neuart_jax.config.errors import InputError
from neuart_jax.inputs.pair import Masks, make_pair
from neuart_jax.inputs.regions.opacity import spread_opaque, take_opaque
from neuart_jax.io.images import load_image, save_image

pytestmark = pytest.mark.slow

TINY = {
    "weights": "random",
    "optimizer": "adam",
    "content_layers": "relu1_1",
    "style_layers": "relu1_1",
    "scales": 1,
    "steps": 12,
    "tv_weight": 0,
    "size": 48,
}


def on_a_transparent_canvas(painting):
    height, width, _ = painting.shape
    image = np.ones((2 * height, 2 * width, 3), np.float32)
    alpha = np.zeros((2 * height, 2 * width), np.float32)
    place = slice(height // 2, height // 2 + height), slice(width // 2, width // 2 + width)
    image[place], alpha[place] = painting, 1
    return image, alpha


@pytest.fixture
def files(tmp_path):
    painting = 0.4 * smooth_image(48, 40, seed=2)
    save_image(tmp_path / "photo.png", smooth_image(40, 48, seed=1))
    save_image(tmp_path / "painting.png", painting)
    image, alpha = on_a_transparent_canvas(painting)
    save_image(tmp_path / "cutout.png", image, alpha=alpha)
    return tmp_path


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"color": "match"},
        {"color": "luminance"},
        {"style_loss": "sliced_wasserstein"},
        {"smoothing": "softmax"},
        {"window": 32, "size": 96, "enlarge": True},
    ],
    ids=str,
)
def test_a_transparent_margin_changes_nothing(files, settings):
    """It is left out before the picture is scaled, so that the strokes are as large, too."""
    means = []
    for name in ("painting.png", "cutout.png"):
        config = Config().replace(
            **TINY | settings,
            content=str(files / "photo.png"),
            style=str(files / name),
            output=str(files / f"from {name[:-4]}"),
        )
        means.append(transfer(config).result.image.mean(axis=(0, 1)))
    assert_allclose(means[1], means[0], atol=3 / 255)


@pytest.mark.parametrize("color", ["style", "match", "histogram", "luminance"])
def test_what_is_inside_counts_as_much_as_it_is_opaque(color):
    """Holes that no trimming leaves out, filled with white where the file has nothing."""
    painting, photo = 0.4 * smooth_image(48, 40, seed=2), smooth_image(40, 48, seed=1)
    alpha = np.ones((48, 40), np.float32)
    alpha[8:40, 8:32] = 0
    holed = painting * alpha[..., None] + 1 - alpha[..., None]
    config = Config().replace(**TINY, color=color)
    whole, plain, masked = (
        stylize(photo, style, config, masks=masks).image.mean(axis=(0, 1))
        for style, masks in (
            (painting, Masks()),
            (holed, Masks()),
            (holed, Masks(opacities=[alpha])),
        )
    )
    assert_allclose(masked, whole, atol=0.04)
    assert np.abs(masked - whole).max() < np.abs(plain - whole).max() / 3 or color != "style"


def test_several_styles_with_their_own_opacities():
    photo, dark, light = (smooth_image(40, 48, seed=seed) for seed in (1, 2, 3))
    alpha = np.zeros((40, 48), np.float32)
    alpha[:, :16] = 1
    config = Config().replace(**TINY)
    pair = make_pair(config, photo, [0.3 * dark, light], masks=Masks(opacities=[None, alpha]))
    assert pair.presence == ((True, True),)
    assert_array_equal(pair.regions.styles[0], 1)
    assert_array_equal(pair.regions.styles[1][..., 0], alpha)
    assert set(
        stylize(photo, [0.3 * dark, light], config, masks=Masks(opacities=[None, alpha])).losses
    ) >= {"style1", "style2"}


def test_regions_and_opacity_multiply():
    halves = np.zeros((40, 48, 3), np.float32)
    halves[:, 24:] = 1
    alpha = np.ones((40, 48), np.float32)
    alpha[:20] = 0
    photo, style = smooth_image(40, 48, seed=1), smooth_image(40, 48, seed=2)
    pair = make_pair(
        Config().replace(**TINY), photo, style, masks=Masks(halves, [halves], opacities=[alpha])
    )
    assert pair.regions.styles[0].sum() == pytest.approx(20 * 48)
    assert pair.regions.content.sum() == pytest.approx(40 * 48)


def test_colors_are_taken_out_of_white_and_spread():
    own = np.full((1, 4, 3), [0.2, 0.4, 0.8], np.float32)
    opacity = np.float32([[1, 0.75, 0.25, 0]])
    over_white = own * opacity[..., None] + 1 - opacity[..., None]
    assert_allclose(take_opaque(over_white, opacity), own[0, :2, None], atol=1e-6)
    assert_allclose(spread_opaque(take_opaque(over_white, opacity), opacity), own, atol=1e-6)


def test_a_style_that_cannot_be_seen_is_told(files):
    save_image(files / "nothing.png", np.ones((48, 40, 3)), alpha=np.zeros((48, 40)))
    config = Config().replace(
        **TINY, content=str(files / "photo.png"), style=str(files / "nothing.png")
    )
    with pytest.raises(InputError, match="the style image is transparent all over"):
        transfer(config)


def test_only_transparent_borders_are_trimmed(files):
    painting = load_image(files / "painting.png")
    trimmed = load_image(files / "cutout.png", trim=True)
    assert_array_equal(trimmed.image, painting.image)
    assert load_image(files / "cutout.png").image.shape == (96, 80, 3)
