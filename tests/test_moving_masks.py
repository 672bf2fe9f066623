"""Masks of a clip: colors that are settled once, and the same regions in every frame."""

import io

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from neuart_jax.config.errors import InputError
from neuart_jax.inputs.regions.labels import find_colors, parse_color
from neuart_jax.inputs.regions.memberships import MaskSamples, find_areas
from neuart_jax.inputs.regions.moving import (
    find_showing,
    join_colors,
    match_samples,
    read_regions,
    sample_mask,
)

HEIGHT, WIDTH = 48, 80


def paint_mask(*stripes, ground="black"):
    """Paint (color, first column, last column) over a ground."""
    mask = np.empty((HEIGHT, WIDTH, 3), np.float32)
    mask[:] = parse_color(ground) / np.float32(255)
    for color, begin, end in stripes:
        mask[:, begin:end] = parse_color(color) / np.float32(255)
    return mask


def as_jpeg(mask, quality=75):
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * mask).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / 255


def test_colors_of_all_frames_are_found_whatever_the_codec_made_of_them():
    masks = [
        *[as_jpeg(paint_mask(("white", 0, 30)), quality) for quality in (95, 75, 60)],
        *[as_jpeg(paint_mask())] * 4,  # Nearly black: no refusal, as in a mask of its own.
        as_jpeg(paint_mask(("red", 20, 50))),
    ]
    assert join_colors(masks) == ("black", "white", "red")


def test_a_color_of_one_frame_is_noise_if_it_is_small():
    small = paint_mask(("white", 0, 30))
    small[:8, 60:68] = (1, 0, 0)  # 1.7 % of a frame
    plain = paint_mask(("white", 0, 30))
    assert join_colors([plain] * 30 + [small]) == ("black", "white")
    # Seen twice, large, or in a short clip: it isn't.
    assert "red" in join_colors([plain] * 30 + [small] * 2)
    assert "red" in join_colors([plain] * 30 + [paint_mask(("red", 0, 20))])
    assert "red" in join_colors([plain] * 3 + [small])


def test_a_dark_frame_with_noise_has_its_label():
    rng = np.random.default_rng(0)
    noisy = paint_mask() + rng.integers(0, 3, (HEIGHT, WIDTH, 1)).astype(np.float32) / 255
    [(color, share)] = find_colors(noisy)
    assert_array_equal(color, (0, 0, 0))
    assert share == 1
    masks = noisy, paint_mask(("white", 0, 9))
    assert find_showing(masks, ["black", "white"], name="masks") == (0, 1)


def test_a_frame_with_other_colors_is_named():
    masks = [paint_mask(), paint_mask(("green", 0, 40))]
    with pytest.raises(InputError, match=r"50 % of frame 2 of masks.mp4 is neither"):
        find_showing(masks, ["black", "white"], name="masks.mp4")


def test_samples_keep_solid_colors():
    mask = paint_mask(("white", 0, 31))
    small = sample_mask(mask, 12, 20)
    assert small.shape == (12, 20, 3) and set(np.unique(small)) == {0, 1}
    assert_allclose(small.mean(), mask.mean(), atol=0.03)
    assert sample_mask(mask, 96, 160).shape == (96, 160, 3)


def settle(masks, *, colors, named=False, style_masks=(), num_styles=2):
    rng = np.random.default_rng(0)
    images = rng.random((len(masks), HEIGHT, WIDTH, 3)).astype(np.float32)
    styles = [rng.random((HEIGHT, WIDTH, 3)).astype(np.float32) for _ in range(num_styles)]
    samples = MaskSamples(np.stack(masks), images, tuple(colors), named)
    return match_samples(samples, style_masks, style_images=styles, size=(HEIGHT, WIDTH))


def test_regions_have_one_number_in_every_frame():
    masks = [paint_mask(("white", 0, 30)), paint_mask(), paint_mask(("white", 40, 80))]
    regions = settle(masks, colors=join_colors(masks))
    assert regions.names == ("black", "white")
    for mask, white in zip(masks, (30, 0, 40), strict=True):
        read = read_regions(regions, as_jpeg(mask), (HEIGHT, WIDTH), name="a frame")
        assert_allclose(read.sum(axis=-1), 1, atol=1e-6)
        assert_allclose(find_areas(read) / HEIGHT, [WIDTH - white, white], atol=0.5)
    # Half the size, as masks often are.
    read = read_regions(regions, masks[0][::2, ::2], (HEIGHT, WIDTH), name="a frame")
    assert_allclose(find_areas(read) / HEIGHT, [50, 30], atol=0.5)
    # The whole clip's regions show what any frame has.
    assert_allclose(find_areas(regions.content) / HEIGHT, [80, 70], atol=1e-4)
    named = settle(masks, colors=("white", "black"), named=True)
    assert named.names == ("white", "black")


def test_a_region_without_a_style_takes_anothers_in_every_frame():
    masks = [paint_mask(("white", 0, 30)), paint_mask(("red", 60, 80))]
    style_mask = paint_mask(("white", 0, 40), ("blue", 70, 80))
    regions = settle(masks, colors=join_colors(masks), style_masks=[style_mask], num_styles=1)
    assert set(regions.names) == {"black", "white"}  # Only the style has blue.
    assert len(regions.notes) == 2
    read = read_regions(regions, masks[1], (HEIGHT, WIDTH), name="a frame")
    assert_allclose(read.sum(axis=-1), 1, atol=1e-6)
    owner = read[0, 70].argmax()
    assert f"takes the style of {regions.names[owner]}" in regions.notes[0]


def test_a_mask_of_another_shape_is_refused():
    masks = [paint_mask(("white", 0, 30))]
    regions = settle(masks, colors=join_colors(masks))
    with pytest.raises(InputError, match="frame 7 has 40 x 48 pixels, its image 80 x 48"):
        read_regions(regions, masks[0][:, :40], (HEIGHT, WIDTH), name="frame 7")
