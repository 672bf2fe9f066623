"""Which part of the content takes which part of the styles, and memberships at other sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.transform
from skimage.color import rgb2lab

from neuart_jax.config.errors import InputError
from neuart_jax.inputs.regions import matching
from neuart_jax.inputs.regions.labels import parse_color
from neuart_jax.inputs.regions.matching import match_regions, split_regions
from neuart_jax.inputs.regions.memberships import (
    Regions,
    check_regions,
    find_areas,
    memberships_at,
    resize_memberships,
)

HEIGHT, WIDTH = 40, 60


def stripes(*names, height=HEIGHT, width=WIDTH):
    """Paint vertical stripes of equal width."""
    colors = np.array([parse_color(name) for name in names], np.float32) / 255
    index = np.arange(width) * len(names) // width
    return np.tile(colors[index], (height, 1, 1))


def plain(*names, **options):
    """Paint a picture in which every stripe has some texture."""
    rng = np.random.default_rng(0)
    picture = stripes(*names, **options)
    return np.clip(picture + 0.02 * rng.standard_normal(picture.shape), 0, 1).astype(np.float32)


def random_memberships(height, width, regions, *, seed=0):
    values = np.random.default_rng(seed).random((height, width, regions)) ** 3
    return (values / values.sum(axis=-1, keepdims=True)).astype(np.float32)


def match(content_mask, style_masks, *, content_image=None, style_images=None, **options):
    """Match masks of pictures that play no part, and check what always holds."""
    if content_image is None:
        content_image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    if style_images is None:
        style_images = [np.zeros((HEIGHT, WIDTH, 3), np.float32) for _ in style_masks]
    regions = match_regions(
        content_mask,
        style_masks,
        content_image=content_image,
        style_images=style_images,
        **options,
    )
    check(regions, content_image, style_images)
    return regions


def check(regions, content_image, style_images):
    assert regions.content.shape == (*content_image.shape[:2], len(regions.names))
    np.testing.assert_allclose(regions.content.sum(axis=-1), 1, atol=1e-6)
    assert regions.content.any(axis=(0, 1)).all()
    for style, image in zip(regions.styles, style_images, strict=True):
        assert style.shape == (*image.shape[:2], len(regions.names))
        assert style.min() >= 0 and style.sum(axis=-1).max() <= 1 + 1e-6
    assert np.any([style.any(axis=(0, 1)) for style in regions.styles], axis=0).all()
    for array in (regions.content, *regions.styles):
        assert array.dtype == np.float32


# With masks for the styles


def test_regions_of_one_color_are_paired():
    regions = match(stripes("red", "red", "blue"), [stripes("blue", "red")])
    assert regions.names == ("red", "blue") and not regions.notes
    np.testing.assert_array_equal(find_areas(regions.content), [1600, 800])
    assert regions.content[0, 0].tolist() == [1, 0]
    assert regions.styles[0][0, 0].tolist() == [0, 1]


def test_style_of_a_region_comes_from_all_that_have_it():
    masks = [stripes("red", "blue"), stripes("blue"), stripes("red", "red", "blue")]
    regions = match(stripes("red", "red", "blue"), masks)
    areas = [find_areas(style).tolist() for style in regions.styles]
    assert areas == [[1200, 1200], [0, 2400], [1600, 800]]


def test_colors_that_are_nearly_the_same_are_the_same():
    regions = match(
        stripes("#f01008", "#f01008", "#0000ff"),
        [stripes("#0a00f5", "#ff0000"), stripes("#f80c00")],
    )
    assert len(regions.names) == 2 and not regions.notes
    assert regions.styles[0][0, 0].tolist() == [0, 1]
    assert regions.styles[1][0, 0].tolist() == [1, 0]


def test_labels_of_one_mask_are_never_joined():
    """100 is as near to 120 as to 80, which is the content's larger region."""
    regions = match(stripes("80", "80", "120"), [stripes("100", "135")])
    assert len(regions.names) == 2 and not regions.notes
    assert regions.styles[0][0, 0].tolist() == regions.content[0, 0].tolist() == [1, 0]
    assert regions.styles[0][0, -1].tolist() == regions.content[0, -1].tolist() == [0, 1]


def test_two_labels_near_one_of_a_style():
    regions = match(stripes("80", "80", "120"), [stripes("100")])
    assert regions.names == ("gray 100",)
    assert len(regions.notes) == 1 and "region gray 120 is in no style mask" in regions.notes[0]


def test_orphan_takes_the_style_whose_colors_are_nearest():
    """The content is dull and the style vivid, so colors are measured in their own pictures."""
    content_mask = stripes("red", "red", "red", "blue", "blue", "yellow")
    style_mask = stripes("red", "blue")
    pictures = {
        "content_image": plain("#707050", *["#707050"] * 2, *["#707090"] * 2, "#6c6c82"),
        "style_images": [plain("#ffa000", "#0000ff")],
    }
    regions = match(content_mask, [style_mask], **pictures)
    assert regions.names == ("red", "blue")
    assert regions.notes == (
        "The content's region yellow is in no style mask; it takes the style of blue, whose colors "
        "are nearest.",
    )
    np.testing.assert_array_equal(find_areas(regions.content), [1200, 1200])


def test_orphan_is_decided_by_standardized_lab():
    """Against the formula: (Lab - mean) / std, one std for a and b, averaged over each region."""
    content_image = plain("#203040", "#a08060", "#405020", "#d0d0c0")
    style_image = plain("#101080", "#8020a0", "#f0e060")

    def stripe_means(image, count):
        lab = rgb2lab(image)
        spread = lab.std(axis=(0, 1))
        spread[1:] = np.sqrt((spread[1] ** 2 + spread[2] ** 2) / 2)
        scaled = (lab - lab.mean(axis=(0, 1))) / spread
        return scaled.reshape(HEIGHT, count, WIDTH // count, 3).mean(axis=(0, 2))

    content, style = stripe_means(content_image, 4), stripe_means(style_image, 3)
    homes = np.linalg.norm(content[:, None] - style, axis=-1).argmin(axis=1)
    assert len(set(homes)) > 1
    names = ("red", "green", "blue")
    regions = match(
        stripes("white", "black", "cyan", "magenta"),
        [stripes(*names)],
        content_image=content_image,
        style_images=[style_image],
    )
    for stripe, home in enumerate(homes):
        found = regions.content[0, stripe * WIDTH // 4 + 3].argmax()
        assert regions.names[found] == names[home]


def test_orphan_may_take_what_only_the_style_has():
    """A lake that takes the style of a sea."""
    regions = match(
        stripes("red", "cyan"),
        [stripes("red", "blue")],
        content_image=plain("#c08060", "#304080"),
        style_images=[plain("#ffb060", "#1020c0")],
    )
    assert sorted(regions.names) == ["blue", "red"]
    assert len(regions.notes) == 1 and "region cyan" in regions.notes[0]


def test_what_only_styles_have_is_left_out():
    masks = [stripes("red", "green"), stripes("green")]
    regions = match(stripes("red"), masks)
    assert regions.names == ("red",)
    assert regions.notes == (
        "The styles' region green is not in the content; it is left out.",
        "Style image 2 has no part in any region; it is left out.",
    )
    assert find_areas(regions.styles[0]) == [1200] and not regions.styles[1].any()


def test_named_regions_keep_their_order():
    mask = stripes("red", "red", "blue")
    regions = match(mask, [mask], colors=("#0000ff", "red"))
    assert regions.names == ("#0000ff", "red")
    regions = match(stripes("red"), [mask], colors=("blue", "red"))
    assert regions.names == ("red",) and "region blue is not in the content" in regions.notes[0]
    regions = match(mask, [stripes("red")], colors=("blue", "red"))
    assert regions.names == ("red",) and "region blue is in no style mask" in regions.notes[0]


def test_gray_levels_of_an_index_mask():
    mask = stripes("0", "1", "2")
    regions = match(mask, [mask[:, ::-1]], colors=("0", "1", "2"))
    assert regions.names == ("0", "1", "2")
    np.testing.assert_array_equal(regions.content, regions.styles[0][:, ::-1])


def test_soft_memberships_of_an_orphan_are_added():
    ramp = np.clip(np.linspace(-0.5, 1.5, WIDTH), 0, 1).astype(np.float32)
    yellow = np.stack([ramp, ramp, 1 - ramp], axis=-1)  # blue to yellow
    regions = match(np.tile(yellow, (HEIGHT, 1, 1)), [stripes("blue")])
    assert regions.names == ("blue",) and regions.content.min() == pytest.approx(1)


@pytest.mark.parametrize("size", [(40, 60), (39, 60), (42, 58), (80, 120), (20, 30), (200, 301)])
def test_mask_of_nearly_its_pictures_size(size):
    height, width = size
    mask = stripes("red", "red", "blue", height=height, width=width)
    regions = match(mask, [stripes("red", "blue")])
    np.testing.assert_allclose(find_areas(regions.content), [1600, 800], atol=60)
    assert (regions.content[:, :38, 0] == 1).all() and (regions.content[:, 42:, 1] == 1).all()


def test_large_mask_is_as_good():
    """One that is reduced first gives what its memberships, reduced, give."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.random((5, 6)) > 0.5, np.ones((41, 51)))
    mask = np.where(coarse[..., None] > 0, [1.0, 0, 0], [0, 0, 1.0]).astype(np.float32)
    picture = np.zeros((41, 61, 3), np.float32)
    style = stripes("red", "blue")
    regions = match(mask, [style], content_image=picture)
    hard = np.stack([mask[..., 0], mask[..., 2]], axis=-1)
    expected = resize_memberships(hard, 41, 61)
    order = [regions.names.index(name) for name in ("red", "blue")]
    np.testing.assert_allclose(regions.content[..., order], expected, atol=0.04)


# Without masks for the styles


def test_one_style_per_region_from_dark_to_light():
    images = [np.zeros((20, 30, 3), np.float32), np.zeros((30, 20, 3), np.float32)]
    images.append(np.zeros((9, 9, 3), np.float32))
    regions = match(stripes("white", "blue", "gray"), [], style_images=images)
    assert regions.names == ("blue", "gray", "white") and not regions.notes
    for number, style in enumerate(regions.styles):
        assert style[..., number].min() == 1
        assert style.sum() == style[..., 0].size


def test_one_style_per_region_in_the_order_named():
    images = [np.zeros((20, 30, 3), np.float32)] * 2
    regions = match(stripes("red", "blue"), [], style_images=images, colors=(" red", "blue"))
    assert regions.names == ("red", "blue")
    assert regions.styles[0][0, 0].tolist() == [1, 0]
    assert regions.content[0, 0].tolist() == [1, 0]


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_styles_as_regions(count):
    images = [np.zeros((20, 30, 3), np.float32)] * count
    with pytest.raises(
        InputError,
        match=rf"mask has 2 regions \(blue, red\) and came with {count} style images?; expected "
        "one style image for every region, or masks .*; give as many styles as regions",
    ):
        match(stripes("red", "blue"), [], style_images=images)


# Bad masks


def test_style_masks_alone():
    with pytest.raises(InputError, match="style masks came without a content mask"):
        match(None, [stripes("red")])


def test_named_regions_alone():
    with pytest.raises(InputError, match="regions came without a content mask"):
        match(None, [], style_images=[], colors=("red",))


def test_fewer_style_masks_than_styles():
    images = [np.zeros((HEIGHT, WIDTH, 3), np.float32)] * 2
    with pytest.raises(InputError, match="1 style mask came with 2 style images; expected"):
        match(stripes("red"), [stripes("red")], style_images=images)


@pytest.mark.parametrize("size", [(43, 60), (60, 40), (40, 57), (80, 110)])
def test_mask_of_another_size(size):
    height, width = size
    wrong = stripes("red", height=height, width=width)
    sentence = f"has {width} x {height} pixels, its image 60 x 40; expected the same size"
    with pytest.raises(InputError, match="the content's mask " + sentence):
        match(wrong, [stripes("red")])
    with pytest.raises(InputError, match="the style's mask " + sentence):
        match(stripes("red"), [wrong])
    with pytest.raises(InputError, match="style mask 2 " + sentence):
        match(stripes("red"), [stripes("red"), wrong])


def test_named_region_that_no_mask_has():
    with pytest.raises(InputError, match="the region green is not in any mask; expected"):
        match(stripes("red"), [stripes("red", "blue")], colors=("red", "blue", "green"))
    with pytest.raises(InputError, match="the region green is not in the content's mask; expected"):
        match(stripes("red"), [], style_images=[stripes("red")] * 2, colors=("red", "green"))


@pytest.mark.parametrize("where", ["content", "style"])
def test_region_smaller_than_a_position(where):
    large, small = np.zeros((2, 20, 20, 2), np.float32)
    large[..., 0], small[..., 0] = 1, 1
    large[:4, :4], small[:4, :3] = (0, 1), (0, 1)
    both = (large, (small, 0 * small)) if where == "style" else (small, (large,))
    regions = Regions(("red", "region 2"), both[0], both[1])
    check_regions(regions, stride=3)
    with pytest.raises(
        InputError,
        match=f"region 2 covers only 12 pixels of the {where} images?; expected at least 16,",
    ):
        check_regions(regions, stride=4)
    check_regions(Regions(("red", "blue"), large, (large,)), stride=4)
    with pytest.raises(InputError, match="; use a larger --size"):
        check_regions(Regions(("red", "blue"), large, (large,)), stride=5)


def test_region_shared_by_styles_is_large_enough():
    half = np.zeros((4, 4, 1), np.float32)
    half[:2] = 1
    check_regions(Regions(("red",), half + half[::-1], (half, half)), stride=4)


# Without masks


def test_split_regions():
    content, style = plain("#203080", "#c0b0a0"), plain("#f0e0d0", "#802010", height=50, width=48)
    regions = split_regions(content, [style], count=2)
    check(regions, content, [style])
    assert regions.names == ("region 1", "region 2") and not regions.notes
    dark = regions.content[20, 10].argmax()
    assert regions.content[20, 50].argmax() == 1 - dark
    # The dark part takes the style of the dark part, wherever that is.
    assert regions.styles[0][25, 40].argmax() == dark
    assert regions.styles[0][25, 8].argmax() == 1 - dark


def test_split_region_that_no_style_has_is_merged(monkeypatch):
    content, style = plain("#000000", "#404040", "#ffffff"), plain("#000000", "#ffffff")

    def find_three(images, count, *, seed):
        assert (count, seed) == (3, 7)
        stacks = [np.zeros((HEIGHT, WIDTH, 4), np.float32) for _ in images]
        for k in range(3):
            stacks[0][:, 20 * k : 20 * k + 20, k] = 1
        stacks[1][:, :30, 0], stacks[1][:, 30:55, 2], stacks[1][:, 55:, 3] = 1, 1, 1
        return stacks

    monkeypatch.setattr(matching, "find_regions", find_three)
    regions = matching.split_regions(content, [style], count=3, seed=7)
    check(regions, content, [style])
    assert regions.names == ("region 1", "region 3")
    assert regions.notes == (
        "The content's region 2 is in no style image; it takes the style of region 1, whose "
        "colors are nearest.",
        "The styles' region 4 is not in the content; it is left out.",
    )
    np.testing.assert_array_equal(find_areas(regions.content), [1600, 800])
    np.testing.assert_array_equal(find_areas(regions.styles[0]), [1200, 1000])


# Sizes


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_whole_factors_are_average_pooling(factor):
    memberships = random_memberships(48, 64, 3)
    pooled = memberships.reshape(48 // factor, factor, 64 // factor, factor, 3).mean(axis=(1, 3))
    shape = pooled.shape[:2]
    resize = jax.jit(memberships_at, static_argnums=1)
    for found in (resize_memberships(memberships, *shape), resize(memberships, shape)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, pooled, rtol=1e-6, atol=1e-7)
    if factor == 2:
        windows = jax.lax.reduce_window(
            memberships, 0.0, jax.lax.add, (2, 2, 1), (2, 2, 1), "VALID"
        )
        np.testing.assert_allclose(memberships_at(memberships, shape), windows / 4, atol=1e-7)


@pytest.mark.parametrize("shape", [(23, 31), (7, 63), (1, 1), (47, 64), (12, 5)])
def test_other_factors_are_local_means(shape):
    memberships = random_memberships(48, 64, 3)
    expected = skimage.transform.resize_local_mean(memberships, shape, channel_axis=-1)
    for found in (resize_memberships(memberships, *shape), memberships_at(memberships, shape)):
        np.testing.assert_allclose(found, expected, atol=4e-6)


@pytest.mark.parametrize("shape", [(96, 128), (49, 65), (50, 200)])
def test_enlarging_is_linear(shape):
    memberships = random_memberships(48, 64, 2)
    expected = skimage.transform.resize(memberships, (*shape, 2), order=1, mode="edge")
    for found in (resize_memberships(memberships, *shape), memberships_at(memberships, shape)):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 64), (100, 3), (48, 64), (333, 257)])
def test_sums_stay_one(shape):
    memberships = random_memberships(48, 64, 4)
    found = resize_memberships(memberships, *shape)
    assert found.shape == (*shape, 4) and found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=2e-6)
    nothing = resize_memberships(0 * memberships, *shape)
    assert not nothing.any()  # a style that has no part
    one = resize_memberships(np.ones((1, 1, 1), np.float32), *shape)
    np.testing.assert_allclose(one, 1, atol=1e-6)


def test_areas_are_kept():
    memberships = random_memberships(48, 64, 4)
    small = resize_memberships(memberships, 7, 9)
    np.testing.assert_allclose(
        find_areas(small) / (7 * 9), find_areas(memberships) / (48 * 64), rtol=1e-5
    )


def test_memberships_at_is_pure_and_differentiable():
    memberships = jnp.asarray(random_memberships(9, 8, 2))
    batch = jnp.stack([memberships, 1 - memberships])
    mapped = jax.vmap(lambda each: memberships_at(each, (4, 4)))(batch)
    np.testing.assert_allclose(mapped[0], memberships_at(memberships, (4, 4)), atol=1e-6)
    gradient = jax.grad(lambda each: memberships_at(each, (4, 4)).sum())(memberships)
    np.testing.assert_allclose(gradient, 16 / 72, atol=1e-6)  # every pixel counts the same
