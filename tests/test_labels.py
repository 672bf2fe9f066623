"""Labels of painted masks, against the exact area that each label covers of each pixel."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageDraw
from scipy import ndimage

from neuart_jax.config.errors import InputError
from neuart_jax.inputs.regions.labels import PLAIN_COLORS, color_name, parse_color, read_labels

SIZE = 96
FINENESS = 8
"""Drawn as many times larger, so that coverage is exact to 1/64 of a pixel."""

NAMES = ("white", "red", "blue", "magenta")


def draw(*, names=NAMES, size=SIZE, shift=0.0):
    """Draw a mask with disks and a stripe: (mask, coverage of each label)."""
    canvas = Image.new("L", (size * FINENESS, size * FINENESS), 0)
    painter = ImageDraw.Draw(canvas)
    unit = size * FINENESS / 96
    box = [(v + shift) * unit for v in (10, 10, 58, 58)]
    painter.ellipse(box, fill=1)
    painter.rectangle([34 * unit, 5 * unit, 70 * unit, 50 * unit], fill=2)
    painter.polygon([(v + shift) * unit for v in (0, 70, 96, 80, 96, 92, 0, 82)], fill=3)
    index = np.asarray(canvas).reshape(size, FINENESS, size, FINENESS)
    coverage = np.stack([(index == k).mean(axis=(1, 3)) for k in range(4)], axis=-1)
    return paint(coverage, names), coverage.astype(np.float32)


def paint(coverage, names):
    """Mix colors by their coverage in 8 bits, as programs that draw masks do."""
    colors = np.array([parse_color(name) for name in names], np.float64)
    return (np.rint(coverage @ colors) / 255).astype(np.float32)


def compress(mask, quality):
    file = io.BytesIO()
    Image.fromarray(np.rint(mask * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / 255


def read(mask, **options):
    """Read labels and check what always holds."""
    colors, memberships = read_labels(mask, name="the mask", **options)
    assert colors.dtype == np.uint8 and memberships.dtype == np.float32
    assert memberships.shape == (*mask.shape[:2], len(colors))
    assert memberships.min() >= 0
    np.testing.assert_allclose(memberships.sum(axis=-1), 1, atol=1e-6)
    return [color_name(color) for color in colors], memberships


def in_order(found, memberships, names):
    assert sorted(found) == sorted(names)
    return memberships[..., [found.index(name) for name in names]]


# Colors


def test_plain_colors_are_the_corners_of_the_cube_and_gray():
    assert parse_color("green").tolist() == [0, 255, 0]  # CSS says 0, 128, 0
    for name, color in PLAIN_COLORS.items():
        if name != "green":
            assert parse_color(name).tolist() == list(ImageColor.getrgb(name))
        assert color_name(color) == name


@pytest.mark.parametrize(
    ("text", "color"),
    [
        (" Red ", (255, 0, 0)),
        ("grey", (128, 128, 128)),
        ("0", (0, 0, 0)),
        ("255", (255, 255, 255)),
        ("gray 64", (64, 64, 64)),
        ("grey 64", (64, 64, 64)),
        ("#804020", (128, 64, 32)),
        ("#ABC", (170, 187, 204)),
        ("orange", (255, 165, 0)),
    ],
)
def test_parse_color(text, color):
    assert parse_color(text).tolist() == list(color)


def test_color_name_is_read_back():
    rng = np.random.default_rng(0)
    for color in [*rng.integers(0, 256, (50, 3)), *np.repeat(np.arange(256)[:, None], 3, axis=1)]:
        np.testing.assert_array_equal(parse_color(color_name(color)), color)
    assert color_name([64, 64, 64]) == "gray 64"


@pytest.mark.parametrize(
    "text", ["rde", "256", "#12345", "", "gray 300", "-1", "0.5", "rgb(1,2,3)"]
)
def test_unknown_color(text):
    with pytest.raises(
        InputError, match="is not a color; expected a name such as red, a gray level"
    ):
        parse_color(text)


def test_unknown_color_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'magenta'"):
        parse_color("magneta")


# Memberships


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        ("black", "red", "yellow", "green"),
        ("black", "white", "blue", "gray"),
        ("60", "120", "180", "240"),
    ],
    ids=" ".join,
)
def test_edges_are_mixed_by_area(names):
    mask, coverage = draw(names=names)
    memberships = in_order(*read(mask), [color_name(parse_color(name)) for name in names])
    error = np.abs(memberships - coverage).max(axis=-1)
    # Up to 8 levels count as noise: 8/60 from one gray to the next.
    step = min(
        np.linalg.norm(parse_color(one).astype(float) - parse_color(other))
        for one in names
        for other in names
        if one != other
    )
    # Where three meet, two of them can make the same color as two others.
    pairs = ndimage.maximum_filter(coverage > 0, (7, 7, 1)).sum(axis=-1) <= 2
    assert error[pairs].max() <= 8 * np.sqrt(3) / step + 0.01
    assert error.mean() < 0.002
    np.testing.assert_allclose(memberships.mean(axis=(0, 1)), coverage.mean(axis=(0, 1)), rtol=0.01)


def test_labels_come_largest_first():
    mask, coverage = draw()
    order = np.argsort(-coverage.sum(axis=(0, 1)))
    assert read(mask)[0] == [NAMES[k] for k in order]


@pytest.mark.parametrize("quality", [None, 95, 75, 50])
def test_middle_of_two_is_not_a_third(quality):
    """Halfway between red and blue lies (128, 0, 128); halfway between black and white, gray."""
    for names in (NAMES, ("red", "black", "white", "gray")):
        mask, coverage = draw(names=names)
        if quality:
            mask = compress(mask, quality)
        memberships = in_order(*read(mask), names)
        far = np.ones((SIZE, SIZE), bool)
        far[60:] = False  # the third is in the stripe at the bottom
        assert coverage[far, 3].max() == 0
        assert memberships[far, 3].max() == 0


@pytest.mark.parametrize(("quality", "bound"), [(95, 0.01), (75, 0.015), (50, 0.02)])
def test_jpeg(quality, bound):
    mask, coverage = draw()
    memberships = in_order(*read(compress(mask, quality)), NAMES)
    assert np.abs(memberships - coverage).mean() < bound
    inside = coverage.max(axis=-1) == 1
    wrong = memberships[inside].argmax(axis=-1) != coverage[inside].argmax(axis=-1)
    assert wrong.mean() < 0.01


def test_shades_of_one_label_are_one():
    mask, coverage = draw()
    rng = np.random.default_rng(0)
    noisy = np.clip(mask + rng.integers(-3, 4, mask.shape) / 255, 0, 1).astype(np.float32)
    memberships = in_order(*read(noisy), NAMES)
    assert np.abs(memberships - coverage).mean() < 0.003


@pytest.mark.parametrize("other", ["110", "116", "124", "131"])
def test_near_shades_are_one_label(other):
    mask = np.zeros((60, 60, 3), np.float32)
    mask[:, :20] = 100 / 255
    mask[:, 20:40] = parse_color(other) / 255
    names, memberships = read(mask)
    assert len(names) == 2
    np.testing.assert_array_equal(memberships.max(axis=-1), 1)
    np.testing.assert_array_equal(memberships.sum(axis=(0, 1)), [2400, 1200])


def test_shade_of_a_large_label_is_no_label():
    mask, _ = draw()
    patched = mask.copy()
    patched[84:, :40] = (250 / 255, 235 / 255, 240 / 255)
    assert sorted(read(patched)[0]) == sorted(NAMES)


def test_blurred_edges_are_followed():
    step = np.clip((np.arange(120) - 40) / 40, 0, 1)
    mask = np.tile(np.stack([1 - step, 0 * step, step], axis=-1), (20, 1, 1)).astype(np.float32)
    memberships = in_order(*read(mask), ("red", "blue"))
    np.testing.assert_allclose(memberships[..., 1], np.tile(step, (20, 1)), atol=8 / 255)


def test_ramp_between_solid_ends_is_linear():
    ramp = np.clip(np.linspace(-0.5, 1.5, 300), 0, 1)
    mask = np.tile(ramp[:, None], (16, 1, 3)).astype(np.float32)
    memberships = in_order(*read(mask), ("black", "white"))
    np.testing.assert_allclose(memberships[..., 1], np.tile(ramp, (16, 1)), atol=8 / 255)
    inner = (ramp > 9 / 255) & (ramp < 246 / 255)
    np.testing.assert_allclose(memberships[0, inner, 1], ramp[inner], atol=1e-5)


@pytest.mark.parametrize("ends", [(0.05, 0.95), (0, 1), (0, 0.7), (0.4, 0.9)])
@pytest.mark.parametrize("width", [40, 110, 256, 700])
def test_gradient_has_no_labels(ends, width):
    ramp = np.linspace(*ends, width)
    mask = np.tile(ramp[:, None], (16, 1, 3)).astype(np.float32)
    with pytest.raises(InputError, match="the mask has no areas of a solid color"):
        read(mask)
    with pytest.raises(InputError, match="the mask has no areas of a solid color"):
        read(mask * np.array([1, 0.5, 0], np.float32) + np.array([0, 0, 0.2], np.float32))


def test_gradient_needs_names():
    ramp = np.linspace(0.05, 0.95, 256)
    mask = np.tile(ramp[:, None], (16, 1, 3)).astype(np.float32)
    with pytest.raises(InputError, match="the mask has no areas of .* --regions=black,white"):
        read(mask)
    names, memberships = read(mask, colors=("black", "white"))
    assert names == ["black", "white"]
    np.testing.assert_allclose(memberships[..., 1], mask[..., 0], atol=1e-5)


def test_thin_line_of_a_label_that_is_elsewhere():
    """One pixel wide it is no area, but no two of its neighbors make red."""
    mask = np.ones((60, 60, 3), np.float32)
    mask[:, :20] = (0, 0, 1)
    mask[:10] = (1, 0, 0)
    mask[40:42, 24:] = (1, 0, 0)
    memberships = in_order(*read(mask), ("white", "red", "blue"))
    assert memberships[40:42, 24:, 1].min() > 0.99


def test_speck_goes_to_its_surroundings():
    mask = np.ones((100, 100, 3), np.float32)
    mask[:, :50] = 0
    mask[20:22, 80:82] = (0, 1, 0)
    memberships = in_order(*read(mask), ("black", "white"))
    assert memberships[20:22, 80:82, 1].min() == 1


def test_small_label_is_found():
    mask = np.ones((100, 100, 3), np.float32)
    mask[20:24, 80:84] = (0, 1, 0)
    memberships = in_order(*read(mask), ("white", "green"))
    np.testing.assert_allclose(memberships.sum(axis=(0, 1)), [9984, 16], atol=1e-3)


def test_single_label_and_single_pixel():
    assert read(np.zeros((1, 1, 3), np.float32))[0] == ["black"]
    assert read(np.ones((1, 9, 3), np.float32))[0] == ["white"]
    names, memberships = read(np.full((30, 20, 3), 0.5, np.float32))
    assert names == ["gray"] and memberships.min() == 1


def test_named_colors_in_their_order():
    mask, coverage = draw()
    names, memberships = read(mask, colors=("magenta", "#0000ff", "red", "white"))
    assert names == ["magenta", "blue", "red", "white"]
    free = in_order(*read(mask), names)
    np.testing.assert_allclose(memberships, free, atol=0.02)


def test_edge_leads_to_the_color_that_was_painted():
    """What was named red is a bit duller; an edge goes all the way to that."""
    coverage = draw(names=NAMES)[1]
    mask = paint(coverage, ("white", "#e61414", "blue", "magenta"))
    memberships = read(mask, colors=NAMES)[1]
    pairs = ndimage.maximum_filter(coverage > 0, (7, 7, 1)).sum(axis=-1) <= 2
    assert np.abs(memberships - coverage)[pairs].max() < 0.05


def test_named_color_that_is_not_there():
    """Gray lies on the edge from black to white, and nowhere else."""
    mask, coverage = draw(names=("black", "white", "red", "blue"))
    names, memberships = read(mask, colors=("black", "white", "red", "blue", "gray"))
    assert memberships[..., 4].max() == 0
    np.testing.assert_allclose(memberships[..., :4].mean((0, 1)), coverage.mean((0, 1)), atol=1e-3)


def test_gray_levels_that_look_alike_have_to_be_named():
    mask = np.zeros((40, 60, 3), np.float32)
    mask[:, 20:] = 1 / 255
    mask[:, 45:] = 2 / 255
    with pytest.raises(InputError, match="almost entirely black, .* gray levels 0,1,2; .*=0,1,2"):
        read(mask)
    memberships = read(mask, colors=("0", "1", "2"))[1]
    np.testing.assert_array_equal(memberships.sum(axis=(0, 1)), [40 * 20, 40 * 25, 40 * 15])


def test_two_names_of_one_color():
    with pytest.raises(InputError, match="--regions names red and #ff0000, the same color"):
        read(np.ones((4, 4, 3), np.float32), colors=("red", "#ff0000"))


def test_no_named_color_is_there():
    with pytest.raises(InputError, match="the mask has none of the colors red, blue; expected"):
        read(np.ones((9, 9, 3), np.float32), colors=("red", "blue"))


def test_color_that_is_not_named():
    mask, _ = draw(names=("black", "white", "red", "green"))
    with pytest.raises(
        InputError, match="% of the mask is neither black, white, red.*name green in"
    ):
        read(mask, colors=("black", "white", "red"))


def test_photograph_is_no_mask():
    rng = np.random.default_rng(0)
    photograph = rng.random((100, 100, 3), np.float32)
    photograph[:50] = 0.2
    with pytest.raises(
        InputError, match="% of the mask is neither .* a photograph can.t be used as one"
    ):
        read(photograph)


def test_too_many_colors():
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 4)] * 3), axis=-1).reshape(8, 8, 3)
    mask = grid.repeat(8, axis=0).repeat(8, axis=1).astype(np.float32)
    with pytest.raises(InputError, match="the mask has more than 32 solid colors"):
        read(mask)


def test_same_mask_same_labels():
    mask = compress(draw()[0], 60)
    one, other = (read_labels(mask, name="the mask") for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
