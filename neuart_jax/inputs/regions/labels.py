"""Painted masks: from colors to labels, one soft membership per label and pixel.

A label is a solid color of a mask. Real masks have few of them and thousands of colors: edges are
anti-aliased, shades differ by a level or two, JPEG leaves noise. So colors are compared with
tolerances, and pixels between two labels belong to both in part.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageColor
from scipy import ndimage

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest

Float32 = npt.NDArray[np.float32]
Uint8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

PLAIN_COLORS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "gray": (128, 128, 128),
}
"""The colors that masks are painted with: the corners of the RGB cube, and gray. CSS calls another
color green, (0, 128, 0)."""

SHADE = 8
"""Levels of 255 by which pixels of one solid area may differ: JPEG's noise at quality 75."""

TOLERANCE = 32
"""Levels of 255 within which two colors are one label, in one mask or in two."""

SMALLEST_SHARE = 0.001
"""Of a mask's pixels, below which a color is no label. The eyes of a portrait are 0.002 of it."""

LARGEST_UNKNOWN = 0.05
"""Of a mask's pixels, above which colors that no two labels explain are no accident."""

MOST_LABELS = 32
"""A mask with more solid colors is no mask."""

_HARDLY_FARTHER = 1.5
"""Pixels: an edge is as near to both its sides, give or take a diagonal."""

_SQUARE = np.ones((3, 3), bool)


def parse_color(text: str) -> Uint8:
    """Read a color: uint8[3].

    Args:
      text: a corner of the RGB cube by its plain name ("green" is #00ff00), "gray" or "grey"
        (128), a gray level ("128" or "gray 128"), "#804020", or another name of CSS.

    Raises:
      InputError: it is none of them.
    """
    name = text.strip().lower().replace("grey", "gray")
    level = re.fullmatch(r"(?:gray\s+)?(\d{1,3})", name)
    if level and int(level[1]) <= 255:
        return np.full(3, int(level[1]), np.uint8)
    if name in PLAIN_COLORS:
        return np.array(PLAIN_COLORS[name], np.uint8)
    if name in ImageColor.colormap or re.fullmatch("#(?:[0-9a-f]{3}|[0-9a-f]{6})", name):
        return np.array(ImageColor.getrgb(name), np.uint8)
    raise InputError(
        f"{text!r} is no color",
        expected="a name such as red, a gray level from 0 to 255, or a color such as #804020",
        remedy=f"did you mean {nearest(name, [*PLAIN_COLORS, *ImageColor.colormap])}",
    )


def color_name(color: npt.ArrayLike) -> str:
    """Write a color, uint8[3], so that `parse_color` reads it: "red", "gray 64" or "#804020"."""
    red, green, blue = (int(level) for level in np.asarray(color))
    for name, plain in PLAIN_COLORS.items():
        if plain == (red, green, blue):
            return name
    return f"gray {red}" if red == green == blue else f"#{red:02x}{green:02x}{blue:02x}"


def read_labels(
    mask: npt.ArrayLike, *, name: str, colors: Sequence[str] = ()
) -> tuple[Uint8, Float32]:
    """Find a mask's labels and how much of each pixel belongs to each of them.

    Pixels of a solid area belong to its label. Any other pixel, of color p, is taken for a mixture
    of two labels a and b that have solid areas near it, whose membership in b is

      t = clip((p - a) . (b - a) / |b - a|^2, 0, 1),

    the share of the pixel that b covers where the edge was drawn by area, and linear along a ramp.
    Which two is decided by place and not by color alone: halfway between black and white lies
    gray, which may be a label that is nowhere near.

    Args:
      mask: float32[height, width, 3], sRGB in [0, 1].
      name: of the mask, for sentences about it: "the content's mask".
      colors: the labels, as `parse_color` reads them; else the mask's solid colors. Colors that
        are near each other are kept apart, so gray levels 0, 1, 2 can be labels if named.

    Returns:
      The labels' colors, uint8[labels, 3], in the order of `colors` or else largest first, and the
      memberships, float32[height, width, labels], which sum to 1 at every pixel. A label of
      `colors` that isn't in the mask has a membership of 0 everywhere.

    Raises:
      InputError: no labels can be found, or the mask isn't painted with them.
    """
    levels = np.asarray(mask, np.float32) * 255
    named = _parse_colors(colors)
    shades = _find_shades(levels)
    if len(named):
        palette, reach = named.astype(np.float32), _reach(named)
    else:
        _check_shades(shades, levels, name)
        palette, reach = _merge(shades), float(TOLERANCE)
    owners = _owners(shades, palette, reach)
    areas, seeds = zip(
        *(
            _find_areas(levels, [color, *shades[owners == label]], reach)
            for label, color in enumerate(palette)
        ),
        strict=True,
    )
    present = [label for label, seed in enumerate(seeds) if seed.any()]
    if not present:
        raise InputError(
            f"{name} has none of the colors {', '.join(colors)}",
            expected="a mask painted with them",
            remedy="name the colors it has, or leave --regions out to have them found",
        )
    memberships = np.stack(areas, axis=-1).astype(np.float32)
    between = np.asarray(~memberships.any(axis=-1))
    if between.any():
        # Where a color was named and something near it was painted, that is what edges lead to.
        ends = np.array([[*shades[owners == label], palette[label]][0] for label in present])
        places = np.array([seeds[label] for label in present])
        mixed, residuals = _unmix(levels, ends, places, between)
        gaps = _distance(levels[between], ends)
        thin = (residuals > 2 * TOLERANCE) & (gaps.min(axis=-1) <= min(SHADE, reach))
        if thin.any():
            places[gaps[thin].argmin(axis=-1), *(index[thin] for index in np.nonzero(between))] = 1
            mixed, residuals = _unmix(levels, ends, places, between)
        share = (residuals > 2 * TOLERANCE).sum() / between.size
        if share > LARGEST_UNKNOWN:
            known = ", ".join(color_name(_round(palette[label])) for label in present)
            unknown = [color_name(_snap(color)) for color in shades[owners < 0]]
            raise InputError(
                f"{100 * share:.0f} % of {name} is neither of the colors {known}, nor between two",
                expected="a mask painted with a few solid colors, all of them named if any is",
                remedy=f"name {unknown[0]} in --regions, or repaint it"
                if unknown
                else "paint one; a photograph is none",
            )
        rows = np.zeros((len(mixed), len(palette)), np.float32)
        rows[:, present] = mixed
        memberships[between] = rows
    if len(named):
        return named, memberships
    order = np.argsort(-memberships.sum(axis=(0, 1), dtype=np.float64), kind="stable")
    return np.array([_snap(color) for color in palette[order]]), memberships[..., order]


def _parse_colors(colors: Sequence[str]) -> Uint8:
    parsed = np.array([parse_color(text) for text in colors], np.uint8).reshape(-1, 3)
    for (i, one), (j, other) in itertools.combinations(enumerate(parsed), 2):
        if (one == other).all():
            raise InputError(
                f"--regions names {colors[i]} and {colors[j]}, the same color",
                expected="every region once",
                remedy="leave one of them out",
            )
    return parsed


def _reach(named: Uint8) -> float:
    """How far a pixel may be from a named color, so that no other can claim it too."""
    gaps = [
        np.abs(one.astype(int) - other).max() for one, other in itertools.combinations(named, 2)
    ]
    return min(TOLERANCE, min(gaps, default=2 * TOLERANCE) / 2 - 0.25)


def _distance(colors: npt.NDArray[Any], others: Any) -> Float32:
    """Largest difference of any channel: [..., 3] and n of [3] -> float32[..., n]."""
    # numpy's max over an axis of 3 takes several times as long.
    channels = np.moveaxis(colors, -1, 0)
    gaps = [
        functools.reduce(np.maximum, [np.abs(c - o) for c, o in zip(channels, other, strict=True)])
        for other in others
    ]
    return np.stack(gaps, axis=-1)


def _find_shades(levels: Float32) -> Float32:
    """Find the colors of solid areas: float32[shades, 3] in levels, largest first.

    A shade is a peak of the histogram of all pixels whose neighbors are like them. On edges
    neighbors differ. Along a wide ramp they don't, but a ramp goes on: what has a sixth as
    many pixels in each of the next two shells of bins is no peak. (At a ramp's end 3 bins are
    inside and 1 in each shell; they may hold 2 columns of pixels each and those 1.)
    """
    spread = ndimage.maximum_filter(levels, (3, 3, 1)) - ndimage.minimum_filter(levels, (3, 3, 1))
    solid = levels[_distance(spread, np.zeros((1, 3)))[..., 0] <= 2 * SHADE]
    bins = _bin(solid)
    counts = _count(bins)
    counts_of_all = _count(_bin(levels.reshape(-1, 3)))
    smallest = counts_of_all.sum() * SMALLEST_SHARE
    within = [
        np.rint(ndimage.uniform_filter(counts, side, mode="constant") * side**3)
        for side in (3, 5, 7)
    ]
    inner, gap = within[0], np.minimum(within[1] - within[0], within[2] - within[1])
    is_peak = (inner > 6 * gap) & (inner >= max(1, smallest / 4))
    # Bins beside a lone full one have its sum too; the full one itself is meant.
    heights = is_peak * (inner + counts / (counts.sum() + 1))
    found: list[tuple[float, Float32]] = []
    while heights.any() and len(found) <= MOST_LABELS:
        center = np.unravel_index(np.argmax(heights), heights.shape)
        heights[tuple(slice(max(0, index - 2), index + 3) for index in center)] = 0
        box = tuple(slice(max(0, index - 1), index + 2) for index in center)
        if (size := counts_of_all[box].sum()) >= smallest:
            inside = _distance(bins, [center])[:, 0] <= 1
            found.append((size, np.median(solid[inside], axis=0)))
    found.sort(key=lambda entry: -entry[0])
    return np.array([color for _, color in found], np.float32).reshape(-1, 3)


def _bin(levels: Float32) -> npt.NDArray[np.int64]:
    return np.rint(levels).astype(np.int64) // SHADE


def _count(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Make a histogram of colors: float64[32, 32, 32]."""
    side = 256 // SHADE
    codes = np.ravel_multi_index(tuple(bins.T), (side, side, side))
    return np.bincount(codes, minlength=side**3).reshape(side, side, side).astype(np.float64)


def _check_shades(shades: Float32, levels: Float32, name: str) -> None:
    if not len(shades):
        raise InputError(
            f"{name} has no solid areas",
            expected="labels painted in solid colors, or the names of a gradient's two ends",
            remedy="name the labels: --regions=black,white",
        )
    if len(shades) > MOST_LABELS:
        raise InputError(
            f"{name} has more than {MOST_LABELS} solid colors",
            expected="a mask painted with a few, each at least a thousandth of it",
            remedy="name those that matter: --regions=black,white",
        )
    if len(shades) == 1 and levels.max() < TOLERANCE:
        grays, counts = np.unique(np.rint(levels), return_counts=True)
        common = grays[counts >= 3 * SMALLEST_SHARE * counts.sum()]
        flat = ndimage.maximum_filter(levels, (3, 3, 1)) == ndimage.minimum_filter(
            levels, (3, 3, 1)
        )
        if 1 < len(common) == len(grays) and flat.mean() > 0.5:
            listed = ",".join(f"{gray:.0f}" for gray in common)
            raise InputError(
                f"{name} is black all over, but for the gray levels {listed}",
                expected=f"labels that differ by more than {TOLERANCE} of 255 levels",
                remedy=f"paint it with bright colors, or name the levels: --regions={listed}",
            )


def _merge(shades: Float32) -> Float32:
    """Take the largest shades that aren't near a larger one."""
    palette: list[Float32] = []
    for color in shades:
        if not palette or _distance(color, palette).min() > TOLERANCE:
            palette.append(color)
    return np.array(palette, np.float32)


def _owners(shades: Float32, palette: Float32, reach: float) -> npt.NDArray[np.int64]:
    """Return each shade's label, or -1: int64[shades]."""
    if not len(shades):
        return np.zeros(0, np.int64)
    distances = _distance(shades, palette)
    return np.where(distances.min(axis=1) <= reach, distances.argmin(axis=1), -1)


def _find_areas(levels: Float32, shades: Sequence[Float32], reach: float) -> tuple[Mask, Mask]:
    """Find where a label is painted, and what counts as its place when others look for it.

    Args:
      levels: float32[height, width, 3].
      shades: the label's color, and the shades of it that were found.
      reach: how far from the color its place may be.

    Returns:
      bool[height, width] twice; the two differ only for a named color that is approached, as by a
      ramp that ends a bit short of it, and never painted.
    """
    area = _keep_wide(_distance(levels, shades).min(axis=-1) <= min(SHADE, reach))
    if area.any():
        return area, area
    return area, _keep_wide(_distance(levels, shades[:1])[..., 0] <= reach)


def _keep_wide(near: Mask) -> Mask:
    """Keep connected parts that are 3 pixels wide somewhere: an edge's chance colors aren't."""
    parts, num_parts = ndimage.label(near, _SQUARE)
    wide = np.zeros(num_parts + 1, np.bool_)
    wide[parts[ndimage.binary_erosion(near, _SQUARE, border_value=1)]] = True
    wide[0] = False
    return wide[parts]


def _unmix(levels: Float32, ends: Float32, places: Mask, where: Mask) -> tuple[Float32, Float32]:
    """Split pixels into two labels each.

    The two are those whose places are nearest, or one that is hardly farther and fits better.
    Where they don't fit at all the pixel is the nearest label's.

    Args:
      levels: float32[height, width, 3].
      ends: the labels' colors, float32[labels, 3].
      places: of each label, bool[labels, height, width].
      where: pixels to split, bool[height, width].

    Returns:
      Memberships, float32[pixels, labels], and how far colors are from the mixture,
      float32[pixels].
    """
    colors = levels[where]
    distances = np.array([ndimage.distance_transform_edt(~place)[where] for place in places])
    first = distances.argmin(axis=0)
    nearest_alone = (np.arange(len(places)) == first[:, None]).astype(np.float32)
    residuals = np.linalg.norm(colors - ends[first], axis=-1)
    if len(places) == 1:
        return nearest_alone, residuals
    near = distances <= np.partition(distances, 1, axis=0)[1] + _HARDLY_FARTHER
    memberships, residuals = nearest_alone.copy(), np.full_like(residuals, np.inf)
    for a, b in itertools.combinations(range(len(places)), 2):
        at = np.flatnonzero(near[a] & near[b])
        axis = ends[b] - ends[a]
        t = np.clip((colors[at] - ends[a]) @ axis / (axis @ axis), 0, 1)
        residual = np.linalg.norm(colors[at] - ends[a] - t[:, None] * axis, axis=-1)
        better = residual < residuals[at]
        at, t = at[better], t[better]
        residuals[at] = residual[better]
        memberships[at] = 0
        memberships[at, a], memberships[at, b] = 1 - t, t
    strange = residuals > 2 * TOLERANCE
    memberships[strange] = nearest_alone[strange]
    return memberships, residuals


def _round(color: Float32) -> Uint8:
    return np.rint(np.clip(color, 0, 255)).astype(np.uint8)


def _snap(color: Float32) -> Uint8:
    """Round to the plain color that was probably meant, or else to whole levels."""
    plain = np.array(list(PLAIN_COLORS.values()), np.uint8)
    distances = _distance(color, plain.astype(np.float32))
    return plain[distances.argmin()] if distances.min() < SHADE else _round(color)
