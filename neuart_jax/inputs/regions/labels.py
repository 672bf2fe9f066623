"""Read painted masks: colors become labels, with a soft mask per label.

A label is a solid color of a mask. Real masks have a few solid colors but thousands of others:
edges are anti-aliased, shades differ by a level or two, JPEG adds noise. So colors are compared
with tolerances, and pixels between two labels belong partly to both.
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
"""Colors that masks are usually painted with: the corners of the RGB cube, and gray. (The green of
CSS is another color, (0, 128, 0).)"""

SHADE = 8
"""Levels of 255 by which pixels of one solid area may differ: JPEG noise at quality 75."""

TOLERANCE = 32
"""Levels of 255 within which two colors are one label, in the same mask or in two masks."""

SMALLEST_SHARE = 0.001
"""Least share of a mask's pixels for a color to be a label. A portrait's eyes have 0.002."""

LARGEST_UNKNOWN = 0.05
"""Largest share of a mask's pixels whose colors may be no mixture of two labels."""

MOST_LABELS = 32
"""Largest number of solid colors in a mask."""

_HARDLY_FARTHER = 1.5
"""Pixels: an edge pixel is about equally near to both sides, up to a diagonal."""

_SQUARE = np.ones((3, 3), bool)


def parse_color(text: str) -> Uint8:
    """Parse a color to uint8[3].

    Args:
      text: a corner of the RGB cube by its plain name ("green" is #00ff00), "gray" or "grey"
        (128), a gray level ("128" or "gray 128"), "#804020", or another CSS name.

    Raises:
      InputError: the text is none of these.
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
        f"{text!r} is not a color",
        expected="a name such as red, a gray level from 0 to 255, or a color such as #804020",
        remedy=f"did you mean {nearest(name, [*PLAIN_COLORS, *ImageColor.colormap])}",
    )


def color_name(color: npt.ArrayLike) -> str:
    """Format a color, uint8[3], as `parse_color` reads it: "red", "gray 64" or "#804020"."""
    red, green, blue = (int(level) for level in np.asarray(color))
    for name, plain in PLAIN_COLORS.items():
        if plain == (red, green, blue):
            return name
    return f"gray {red}" if red == green == blue else f"#{red:02x}{green:02x}{blue:02x}"


def find_colors(mask: npt.ArrayLike) -> list[tuple[Uint8, float]]:
    """Find the solid colors of a mask, without deciding whether all of it consists of them.

    Args:
      mask: float32[height, width, 3], sRGB in [0, 1].

    Returns:
      Colors, uint8[3], with the shares of the pixels that are within `TOLERANCE` of them, largest
      first.
    """
    levels = np.asarray(mask, np.float32) * 255
    palette = _merge(_find_shades(levels))
    if not len(palette):
        return []
    gaps = _distance(levels, palette).reshape(-1, len(palette))
    nearest_colors = gaps.argmin(axis=-1)[gaps.min(axis=-1) <= TOLERANCE]
    shares = np.bincount(nearest_colors, minlength=len(palette)) / len(gaps)
    order = np.argsort(-shares, kind="stable")
    return [(_snap(palette[k]), float(shares[k])) for k in order]


def read_labels(
    mask: npt.ArrayLike, *, name: str, colors: Sequence[str] = ()
) -> tuple[Uint8, Float32]:
    """Find a mask's labels and the soft mask of each.

    Pixels of a solid area belong to its label. Any other pixel, of color p, is treated as a mixture
    of two labels a and b with solid areas nearby, and its membership in b is

      t = clip((p - a) . (b - a) / |b - a|^2, 0, 1),

    the share of the pixel covered by b if the edge was anti-aliased by area, and linear along a
    ramp. The two labels are chosen by position, not by color alone: gray lies halfway between black
    and white but may be a label that is nowhere near.

    Args:
      mask: float32[height, width, 3], sRGB in [0, 1].
      name: name of the mask in messages, such as "the content's mask".
      colors: the labels, in the notation of `parse_color`; empty takes the mask's solid colors.
        Named colors may be close together, so gray levels 0, 1, 2 can be labels.

    Returns:
      The labels' colors, uint8[labels, 3], in the order of `colors` or else largest first, and the
      soft masks, float32[height, width, labels], which sum to 1 at every pixel. The soft mask of a
      label of `colors` that isn't in the mask is 0 everywhere.

    Raises:
      InputError: no labels can be found, or the mask has too many other colors.
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
            expected="a mask painted with these colors",
            remedy="name the mask's colors, or leave --regions out to have them found",
        )
    memberships = np.stack(areas, axis=-1).astype(np.float32)
    between = np.asarray(~memberships.any(axis=-1))
    if between.any():
        # If a shade close to a named color was painted, edges blend to the shade.
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
                f"{100 * share:.0f} % of {name} is neither {known} nor a mixture of these",
                expected="a few solid colors, all of them in --regions if that is given",
                remedy=f"name {unknown[0]} in --regions, or repaint the mask"
                if unknown
                else "paint a mask; a photograph can't be used as one",
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
                remedy="leave one of the two out",
            )
    return parsed


def _reach(named: Uint8) -> float:
    """Return the largest distance from a named color at which no other color is as near."""
    gaps = [
        np.abs(one.astype(int) - other).max() for one, other in itertools.combinations(named, 2)
    ]
    return min(TOLERANCE, min(gaps, default=2 * TOLERANCE) / 2 - 0.25)


def _distance(colors: npt.NDArray[Any], others: Any) -> Float32:
    """Return the largest difference of any channel: [..., 3] and n of [3] -> float32[..., n]."""
    # numpy's max over an axis of length 3 takes several times as long.
    channels = np.moveaxis(colors, -1, 0)
    gaps = [
        functools.reduce(np.maximum, [np.abs(c - o) for c, o in zip(channels, other, strict=True)])
        for other in others
    ]
    return np.stack(gaps, axis=-1)


def _find_shades(levels: Float32) -> Float32:
    """Find the colors of solid areas: float32[shades, 3] in levels, largest first.

    A shade is a peak in the histogram of all pixels that are similar to their neighbors. On edges
    neighbors differ. Along a wide ramp they don't, but a ramp extends over many bins: a bin is no
    peak if each of the next two shells of bins has a sixth as many pixels. (At a ramp's end, 3 bins
    are inside and 1 in each shell; those may hold 2 columns of pixels each, these 1.)
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
    # The neighbors of a single full bin have the same sum; prefer the full bin itself.
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
    """Compute the histogram of colors, float64[32, 32, 32]."""
    side = 256 // SHADE
    codes = np.ravel_multi_index(tuple(bins.T), (side, side, side))
    return np.bincount(codes, minlength=side**3).reshape(side, side, side).astype(np.float64)


def _check_shades(shades: Float32, levels: Float32, name: str) -> None:
    if not len(shades):
        raise InputError(
            f"{name} has no areas of a solid color",
            expected="regions in solid colors, or --regions with the two ends of a gradient",
            remedy="repaint the mask, or add --regions=black,white",
        )
    if len(shades) > MOST_LABELS:
        raise InputError(
            f"{name} has more than {MOST_LABELS} solid colors",
            expected="a mask painted with a few colors, each on at least a thousandth of it",
            remedy="name the colors that matter: --regions=black,white",
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
                f"{name} is almost entirely black, with only the gray levels {listed}",
                expected=f"colors that differ by more than {TOLERANCE} of 255 levels",
                remedy=f"paint the mask in bright colors, or name the levels: --regions={listed}",
            )


def _merge(shades: Float32) -> Float32:
    """Keep the shades that aren't near a larger one."""
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
    """Find the area of a label, and its seed area, from which distances to the label are measured.

    Args:
      levels: float32[height, width, 3].
      shades: the label's color, followed by the shades of it that were found.
      reach: largest distance of the seed area's colors from the label's color.

    Returns:
      The area and the seed area, both bool[height, width]. They differ only for a named color that
      is not painted itself but approached, as by a ramp that ends just short of it.
    """
    area = _keep_wide(_distance(levels, shades).min(axis=-1) <= min(SHADE, reach))
    if area.any():
        return area, area
    return area, _keep_wide(_distance(levels, shades[:1])[..., 0] <= reach)


def _keep_wide(near: Mask) -> Mask:
    """Keep connected parts at least 3 pixels wide; accidental colors on edges are narrower."""
    parts, num_parts = ndimage.label(near, _SQUARE)
    wide = np.zeros(num_parts + 1, np.bool_)
    wide[parts[ndimage.binary_erosion(near, _SQUARE, border_value=1)]] = True
    wide[0] = False
    return wide[parts]


def _unmix(levels: Float32, ends: Float32, places: Mask, where: Mask) -> tuple[Float32, Float32]:
    """Decompose pixels into mixtures of two labels each.

    The two labels are the nearest ones, or others that are hardly farther and fit better. If no
    mixture fits, the pixel belongs to the nearest label.

    Args:
      levels: float32[height, width, 3].
      ends: the labels' colors, float32[labels, 3].
      places: the labels' seed areas, bool[labels, height, width].
      where: pixels to decompose, bool[height, width].

    Returns:
      Memberships, float32[pixels, labels], and the distances of the colors from the mixtures,
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
    """Round to a plain color within `SHADE`, or else to whole levels."""
    plain = np.array(list(PLAIN_COLORS.values()), np.uint8)
    distances = _distance(color, plain.astype(np.float32))
    return plain[distances.argmin()] if distances.min() < SHADE else _round(color)
