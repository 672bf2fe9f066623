"""What is done to pictures before a run and after it, and what nonsense is told."""

import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax import Config, FeatureNetwork, InputError, stylize, stylize_batch
from neuart_jax.inputs.color import luminance, match_covariance, match_histogram, match_luminance
from neuart_jax.inputs.pair import Masks, finish, make_pair
from neuart_jax.inputs.regions.memberships import Regions

CONTENT = smooth_image(40, 60, seed=1)
STYLE = smooth_image(30, 24, seed=2)


def halves(height, width, *, colors=((1, 0, 0), (0, 0, 1))):
    """Paint a mask: the left half in one color, the right one in another."""
    mask = np.zeros((height, width, 3), np.float32)
    mask[:, : width // 2], mask[:, width // 2 :] = colors
    return mask


def features(params, image):
    return {"pixels": image, "coarse": image.reshape(*(s // 2 for s in image.shape[:2]), -1)}


CONFIG = Config().replace(
    content_layers="pixels",
    style_layers="pixels,coarse",
    content_weight=0.01,
    tv_weight=0.0,
    scales=1,
    steps=12,
    report_every=4,
)
NETWORK = FeatureNetwork(features, None)


def test_by_default_pictures_go_in_and_come_out_as_they_are():
    pair = make_pair(Config(), CONTENT, STYLE)
    assert_array_equal(pair.content, CONTENT)
    assert_array_equal(pair.styles[0], STYLE)
    assert pair.regions is None
    assert (pair.presence, pair.notes) == ((), ())
    assert_array_equal(finish(pair, CONTENT), CONTENT)


@pytest.mark.parametrize(
    ("color", "seen", "style"),
    [
        ("keep", CONTENT, STYLE),
        ("match", CONTENT, match_covariance(STYLE, CONTENT)),
        ("histogram", CONTENT, match_histogram(STYLE, CONTENT)),
        ("luminance", luminance(CONTENT), match_luminance(STYLE, CONTENT)),
    ],
)
def test_colors_before_the_run(color, seen, style):
    pair = make_pair(Config().replace(color=color), CONTENT, [STYLE, STYLE])
    assert_array_equal(pair.content, seen)
    assert_array_equal(pair.styles[1], style)
    assert_array_equal(pair.original, CONTENT)


def chroma(image):
    return np.asarray(image) - luminance(image)


@pytest.mark.slow
@pytest.mark.parametrize("color", ["keep", "luminance"])
def test_the_contents_colors_are_put_back_on_result_and_frames(color):
    content = 0.35 + 0.3 * CONTENT
    frames = []
    config = CONFIG.replace(color=color)
    result = stylize(
        content,
        0.35 + 0.3 * STYLE,
        config,
        network=NETWORK,
        callback=lambda progress: frames.append(progress.image()),
    )
    for picture in (result.image, *frames):
        assert_allclose(chroma(picture), chroma(content), atol=1e-5)
    assert np.max(np.abs(luminance(result.image) - luminance(content))) > 1e-3
    assert_allclose(frames[0], content, atol=1e-5)


@pytest.mark.slow
def test_only_light_and_dark_are_painted_with_luminance():
    """The network never sees a color, whatever the start."""
    seen = []

    def look(params, image):
        import jax

        jax.debug.callback(lambda i: seen.append(np.ptp(i, axis=-1).max()), image)
        return features(params, image)

    for init in ("content", "noise", "style"):
        config = CONFIG.replace(color="luminance", init=init, steps=3)
        stylize(CONTENT, STYLE, config, network=FeatureNetwork(look, None))
    assert len(seen) > 10
    assert max(seen) < 1e-5


def test_a_small_style_is_repeated_mirrored_until_it_covers_the_content():
    pair = make_pair(Config().replace(style_tile=True), CONTENT, STYLE)
    tiled = np.asarray(pair.styles[0])
    assert tiled.shape == CONTENT.shape
    assert_array_equal(tiled[:30, :24], STYLE)
    assert_array_equal(tiled[:30, 24:48], STYLE[:, ::-1])
    assert_array_equal(tiled[30:40, :24], STYLE[:-11:-1])
    larger = smooth_image(50, 70, seed=3)
    assert_array_equal(
        make_pair(Config().replace(style_tile=True), CONTENT, larger).styles[0], larger
    )


def test_masks_are_tiled_with_their_styles():
    masks = Masks(halves(40, 60), [halves(30, 24)])
    regions = make_pair(Config().replace(style_tile=True), CONTENT, STYLE, masks=masks).regions
    assert regions.styles[0].shape[:2] == (40, 60)
    red = regions.names.index("red")
    assert regions.styles[0][5, 2, red] == 1
    assert regions.styles[0][5, 46, red] == 1  # Mirrored.
    assert regions.styles[0][5, 20, red] == 0


@pytest.mark.slow
def test_each_region_gets_the_colors_of_its_own_style():
    """Means of the pixels are all that this network compares, region by region."""
    dark, light = np.full((2, 20, 20, 3), 0.5, np.float32)
    dark[..., 0], light[..., 2] = 0.2, 0.9
    content = np.full((40, 60, 3), 0.5, np.float32)
    config = CONFIG.replace(regions=("red", "blue"), style_layers="pixels", steps=40)
    result = stylize(content, [dark, light], config, masks=Masks(halves(40, 60)), network=NETWORK)
    assert_allclose(result.image[:, :29].mean((0, 1)), dark[0, 0], atol=0.03)
    assert_allclose(result.image[:, 31:].mean((0, 1)), light[0, 0], atol=0.03)
    assert set(result.losses) == {"total", "content", "style"}


@pytest.mark.slow
def test_a_batch_with_masks_equals_its_single_runs():
    contents = [CONTENT, smooth_image(40, 60, seed=7)]
    masks = [
        Masks(halves(40, 60), [halves(30, 24)]),
        Masks(halves(40, 60)[:, ::-1], [halves(30, 24)]),
    ]
    together = stylize_batch(contents, [STYLE, STYLE], CONFIG, masks=masks, network=NETWORK)
    for one, content, mask in zip(together, contents, masks, strict=True):
        alone = stylize(content, STYLE, CONFIG, masks=mask, network=NETWORK)
        assert_allclose(one.step_losses, alone.step_losses, rtol=1e-3)
    assert np.max(np.abs(together[0].image - together[1].image)) > 0.01


def test_regions_found_without_masks_cover_the_picture():
    pair = make_pair(Config().replace(auto_masks=2), CONTENT, STYLE)
    assert 1 <= len(pair.regions.names) <= 2
    assert_allclose(pair.regions.content.sum(-1), 1, atol=1e-5)
    result = stylize(CONTENT, STYLE, CONFIG.replace(auto_masks=2), network=NETWORK)
    assert result.step_losses[-1] < result.step_losses[0]


@pytest.mark.parametrize(
    ("settings", "masks", "sentence"),
    [
        ({"auto_masks": 2}, Masks(halves(40, 60)), "auto_masks=2 came with masks"),
        ({"regions": ("red",)}, Masks(), "regions=red came without a mask"),
        ({}, Masks(halves(40, 90)), "90 x 40 pixels, its image 60 x 40"),
        ({}, Masks(None, [halves(30, 24)]), "mask"),
        ({}, Masks(halves(40, 60), [halves(30, 24)] * 2), "2"),
    ],
)
def test_masks_that_make_no_sense_are_one_sentence(settings, masks, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        make_pair(Config().replace(**settings), CONTENT, STYLE, masks=masks)
    assert str(refusal.value).count("; ") >= 2


def test_a_few_pixels_are_no_part_of_a_region():
    parts = np.zeros((2, 30, 24, 2), np.float32)
    parts[0, :15, :, 0] = parts[0, 15:, :, 1] = parts[1, ..., 1] = 1
    parts[1, 3, 3:6] = (1, 0)  # 3 pixels of 360
    pair = make_pair(Config(), CONTENT, [STYLE, STYLE])
    regions = Regions(("red", "blue"), np.ones((40, 60, 2), np.float32) / 2, tuple(parts))
    assert pair._replace(regions=regions).presence == ((True, False), (True, True))
    parts[1, 3, 3:9] = (1, 0)
    assert pair._replace(regions=regions).presence == ((True, True), (True, True))


def test_pairs_with_other_regions_are_no_batch():
    with pytest.raises(InputError, match="pair 2 is unlike pair 1 in its regions"):
        stylize_batch(
            [CONTENT] * 2,
            [STYLE] * 2,
            CONFIG,
            masks=[Masks(halves(40, 60), [halves(30, 24)]), Masks()],
            network=NETWORK,
        )
    with pytest.raises(InputError, match="there are 2 content images, 2 style images, 1 masks"):
        stylize_batch([CONTENT] * 2, [STYLE] * 2, CONFIG, masks=[Masks()], network=NETWORK)


def test_affine_smoothing_is_done_last():
    pair = make_pair(Config(), CONTENT, STYLE)
    noisy = np.clip(CONTENT + np.random.default_rng(0).normal(0, 0.05, CONTENT.shape), 0, 1)
    smoothed = finish(pair._replace(config=Config().replace(affine_radius=4)), noisy)
    assert np.std(smoothed - CONTENT) < 0.5 * np.std(noisy - CONTENT)
