"""Only what is white in a mask is painted, and gray pictures stay gray."""

import json

import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax import Config, FeatureNetwork, stylize, stylize_batch, transfer
from neuart_jax.config.errors import InputError
from neuart_jax.config.presets import PRESETS, apply_preset
from neuart_jax.inputs.canvas import Canvas, limit_regions, read_paint_mask
from neuart_jax.inputs.pair import Masks, make_pair
from neuart_jax.inputs.regions.memberships import Regions
from neuart_jax.io.images import load_image, save_image
from neuart_jax.runs.batch import run_batch
from neuart_jax.runs.manifest import read_manifest

TINY = {
    "weights": "random",
    "optimizer": "adam",
    "content_layers": "relu1_1",
    "style_layers": "relu1_1",
    "scales": 1,
    "steps": 6,
    "report_every": 2,
}


def features(params, image):
    return {"pixels": image, "coarse": image.reshape(*(s // 2 for s in image.shape[:2]), -1)}


NETWORK = FeatureNetwork(features, None)
QUICK = TINY | {
    "content_layers": "pixels",
    "style_layers": "pixels,coarse",
    "tv_weight": 0.0,
    "content_weight": 0.01,
}
PHOTO, PAINTING = smooth_image(40, 48, seed=1), smooth_image(44, 36, seed=2)


def white_right(height=40, width=48, *, soft=4):
    """White from the middle on, with a ramp of some pixels before it."""
    ramp = np.clip((np.arange(width) - width // 2 + soft) / max(soft, 1), 0, 1)
    return np.repeat(np.tile(ramp, (height, 1))[..., None], 3, axis=-1).astype(np.float32)


MASK = white_right()
BLACK = np.zeros((40, 48), bool)
BLACK[:, :20] = True


@pytest.fixture
def files(tmp_path):
    save_image(tmp_path / "photo.png", PHOTO)
    save_image(tmp_path / "painting.png", PAINTING)
    save_image(tmp_path / "mask.png", MASK)
    return tmp_path


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"init": "noise"},
        {"init": "style", "optimizer": "adam", "average": 0.9},
        {"color": "luminance", "optimizer": "lbfgs"},
        {"color": "keep", "affine_radius": 2},
        {"size_step": 16, "auto_masks": 2},
    ],
    ids=str,
)
def test_outside_it_is_the_photograph_exactly(settings):
    seen = []
    config = Config().replace(**QUICK | settings)
    result = stylize(
        PHOTO,
        PAINTING,
        config,
        masks=Masks(paint=MASK),
        network=NETWORK,
        callback=lambda progress: seen.append(progress.image()),
    )
    for image in (result.image, *seen):
        assert_array_equal(image[BLACK], PHOTO[BLACK])
    assert np.abs(result.image[:, 24:] - PHOTO[:, 24:]).mean() > 0.003
    assert result.losses["total"] < result.history[0]["total"]


@pytest.mark.slow
def test_over_several_scales(monkeypatch):
    monkeypatch.setattr("neuart_jax.engine.scales.SMALLEST_SIDE", 8)
    config = Config().replace(**QUICK | {"scales": 2, "coarse_steps": 4}, init="noise")
    result = stylize(PHOTO, PAINTING, config, masks=Masks(paint=MASK), network=NETWORK)
    assert result.history[0]["height"] == 20
    assert_array_equal(result.image[BLACK], PHOTO[BLACK])
    assert np.abs(result.image[:, 24:] - PHOTO[:, 24:]).mean() > 0.01


@pytest.mark.slow
def test_a_white_mask_changes_nothing():
    config = Config().replace(**QUICK)
    plain = stylize(PHOTO, PAINTING, config, network=NETWORK)
    masked = stylize(
        PHOTO, PAINTING, config, masks=Masks(paint=np.ones_like(PHOTO)), network=NETWORK
    )
    assert_allclose(masked.step_losses, plain.step_losses, rtol=1e-4)
    assert_allclose(masked.image, plain.image, atol=0.02)


@pytest.mark.slow
def test_the_style_is_that_of_what_is_painted():
    """Statistics are those of the painted part, as if it were the picture."""
    config = Config().replace(**QUICK | {"steps": 40, "content_weight": 0, "tv_weight": 0})
    masked = stylize(
        PHOTO, PAINTING, config, masks=Masks(paint=white_right(soft=0)), network=NETWORK
    )
    painted = masked.image[:, 24:].mean(axis=(0, 1))
    assert_allclose(painted, PAINTING.mean(axis=(0, 1)), atol=0.05)
    assert np.abs(PHOTO[:, 24:].mean(axis=(0, 1)) - PAINTING.mean(axis=(0, 1))).max() > 0.05


def test_regions_that_are_not_painted_are_left_out():
    halves = white_right(soft=0)
    result = stylize(
        PHOTO,
        [PAINTING, 1 - PAINTING],
        Config().replace(**QUICK, regions="black,white"),
        masks=Masks(halves, paint=halves),
        network=NETWORK,
    )
    assert_array_equal(result.image[:, :24], PHOTO[:, :24])
    assert np.all(np.isfinite(result.step_losses))

    content = np.stack([1 - halves[..., 0], halves[..., 0]], axis=-1)
    regions = Regions(("black", "white"), content, (np.ones((9, 9, 2), np.float32),))
    left, whole = limit_regions(regions, halves[..., 0], [(9, 9, 3)])
    assert left.names == ("white",)
    assert_array_equal(left.content[..., 0], halves[..., 0])


@pytest.mark.slow
def test_a_batch_of_pairs_with_masks_of_their_own():
    masks = [Masks(paint=MASK), Masks(paint=MASK[:, ::-1])]
    config = Config().replace(**QUICK)
    together = stylize_batch([PHOTO] * 2, [PAINTING] * 2, config, masks=masks, network=NETWORK)
    assert_array_equal(together[0].image[BLACK], PHOTO[BLACK])
    assert_array_equal(together[1].image[BLACK[:, ::-1]], PHOTO[BLACK[:, ::-1]])
    assert np.abs(together[1].image[BLACK] - PHOTO[BLACK]).mean() > 0.01


def pixels(path):
    return np.rint(load_image(path).image * 255).astype(int)


@pytest.mark.slow
def test_in_windows():
    config = Config().replace(**TINY | {"steps": 2}, window=24)
    result = stylize(PHOTO, PAINTING, config, masks=Masks(paint=MASK))
    assert_array_equal(result.image[BLACK], PHOTO[BLACK])
    assert np.abs(result.image[:, 24:] - PHOTO[:, 24:]).mean() > 0.01


@pytest.mark.slow
def test_files_and_resuming(files):
    settings = {"content": str(files / "photo.png"), "style": str(files / "painting.png")}
    config = Config().replace(**TINY | {"steps": 8}, **settings, checkpoint_seconds=1e-6)
    config = config.replace(paint_mask=str(files / "mask.png"), save_every=4)
    transfer(config.replace(output=str(files / "whole")))
    cut = config.replace(output=str(files / "cut"))
    transfer(cut, callback=lambda progress: progress.num_steps == 4)
    assert_array_equal(pixels(files / "cut/result.png")[BLACK], pixels(files / "photo.png")[BLACK])
    transfer(cut)
    for name in ("result.png", "frames/000004.png"):
        painted = pixels(files / "cut" / name)
        assert_array_equal(painted, pixels(files / "whole" / name))
        assert_array_equal(painted[BLACK], pixels(files / "photo.png")[BLACK])
    record = json.loads((files / "cut/config.json").read_text())
    assert record["config"]["regions"]["paint_mask"] == str((files / "mask.png").resolve())
    assert "paint_mask" in record["inputs"]
    with pytest.raises(InputError, match="already holds a result"):
        transfer(cut.replace(paint_mask=""))


@pytest.mark.slow
def test_a_table_of_pairs(files):
    (files / "t.csv").write_text(
        "content,style,paint_mask,output\n"
        "photo.png,painting.png,mask.png,masked\nphoto.png,painting.png,,plain\n"
    )
    manifest = read_manifest(Config().replace(**TINY), str(files / "t.csv"))
    assert run_batch(manifest, files / "all").failed == 0
    photo = pixels(files / "photo.png")
    assert_array_equal(pixels(files / "all/masked/result.png")[BLACK], photo[BLACK])
    assert np.any(pixels(files / "all/plain/result.png")[BLACK] != photo[BLACK])
    # Without its mask it is another picture.
    (files / "t.csv").write_text("content,style,output\nphoto.png,painting.png,masked\n")
    manifest = read_manifest(Config().replace(**TINY), str(files / "t.csv"))
    with pytest.raises(InputError, match="rows .* can't be used"):
        run_batch(manifest, files / "all")


def test_masks_of_other_sizes_are_scaled_and_of_other_shapes_refused():
    large = white_right(80, 96, soft=8)
    paint = make_pair(Config().replace(**QUICK), PHOTO, PAINTING, masks=Masks(paint=large)).paint
    assert_allclose(paint, read_paint_mask(MASK), atol=0.15)
    for mask, said in (
        (MASK[:, :30], "the paint mask has 30 x 40 pixels, its image 48 x 40"),
        (0 * MASK, "the paint mask is black all over"),
    ):
        with pytest.raises(InputError, match=said):
            stylize(
                PHOTO, PAINTING, Config().replace(**QUICK), masks=Masks(paint=mask), network=NETWORK
            )


def test_noise_of_a_jpeg_is_black_or_white():
    levels = np.float32([0, 6, 128, 250, 255]) / 255
    mask = read_paint_mask(np.repeat(levels[None, :, None], 3, axis=-1))
    assert_allclose(mask, [[0, 0, 0.5, 1, 1]], atol=0.01)


def test_a_transparent_mask_is_not_painted_where_nothing_is(files):
    save_image(files / "layer.png", np.ones_like(PHOTO), alpha=MASK[..., 0])
    config = Config().replace(
        **TINY,
        content=str(files / "photo.png"),
        style=str(files / "painting.png"),
        paint_mask=str(files / "layer.png"),
        output=str(files / "out"),
    )
    transfer(config)
    assert_array_equal(pixels(files / "out/result.png")[BLACK], pixels(files / "photo.png")[BLACK])


def test_composition_is_exact():
    rng = np.random.default_rng(0)
    image, photo = rng.random((2, 9, 9, 3), np.float32)
    mask = (np.arange(81).reshape(9, 9, 1) % 2).astype(np.float32)
    seen = Canvas(mask, photo).compose(image)
    assert_array_equal(seen, np.where(mask > 0, image, photo))


GRAY_PHOTO, GRAY_PAINTING = (
    np.repeat(picture.mean(axis=-1, keepdims=True), 3, axis=-1) for picture in (PHOTO, PAINTING)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"init": "content"},
        {"init": "noise", "tv_weight": 0},
        {"init": "blend", "noise_center": "imagenet"},
        {"init": "noise", "optimizer": "adam", "noise": "uniform"},
        {"init": "noise", "color": "match"},
    ],
    ids=str,
)
def test_gray_pairs_stay_gray(settings):
    config = Config().replace(**QUICK | settings)
    image = stylize(GRAY_PHOTO, GRAY_PAINTING, config, network=NETWORK).image
    assert np.ptp(image, axis=-1).max() <= 2 / 255
    # One color is enough to let all in.
    colored = stylize(GRAY_PHOTO, PAINTING, config, network=NETWORK).image
    assert np.ptp(colored, axis=-1).max() > 2 / 255 or settings.get("color") == "match"


@pytest.mark.parametrize("preset", PRESETS)
def test_gray_pairs_are_gray_runs_in_every_recipe(preset):
    pair = make_pair(apply_preset(preset, Config()), GRAY_PHOTO, GRAY_PAINTING)
    assert pair.gray
    assert not make_pair(
        apply_preset(preset, Config()).replace(color="style"), PHOTO, PAINTING
    ).gray


@pytest.mark.slow
def test_a_colored_start_becomes_gray(files):
    save_image(files / "gray.png", GRAY_PHOTO)
    save_image(files / "gray_painting.png", GRAY_PAINTING)
    config = Config().replace(
        **TINY,
        content=str(files / "gray.png"),
        style=str(files / "gray_painting.png"),
        init=str(files / "photo.png"),
        output=str(files / "out"),
    )
    transfer(config)
    assert np.ptp(pixels(files / "out/result.png"), axis=-1).max() <= 1
