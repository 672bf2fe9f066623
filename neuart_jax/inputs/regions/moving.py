"""Regions of a clip whose masks move: each frame has a mask, and all masks name the same regions.

Colors, numbers and the order of the regions are settled once, from the masks of all frames. A
region may be missing in any frame: it then has no pixels there, and its loss is 0.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from neuart_jax.inputs.regions.labels import (
    LARGEST_UNKNOWN,
    SMALLEST_SHARE,
    TOLERANCE,
    Uint8,
    color_name,
    find_colors,
    parse_color,
    read_labels,
)
from neuart_jax.inputs.regions.matching import match_regions, read_mask, sort_by_lightness
from neuart_jax.inputs.regions.memberships import (
    Float32,
    MaskSamples,
    Regions,
    find_areas,
    resize_memberships,
)


def sample_mask(mask: npt.ArrayLike, height: int, width: int) -> Float32:
    """Reduce a mask to some of its pixels: an average of two labels' colors would be none.

    Args:
      mask: float32[height', width', 3].
      height: new height in pixels.
      width: new width in pixels.
    """
    values = np.asarray(mask, np.float32)
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp)
        for old, new in zip(values.shape[:2], (height, width), strict=True)
    )
    return values[rows][:, columns]


def join_colors(masks: Iterable[npt.ArrayLike]) -> tuple[str, ...]:
    """Find the colors of the masks of a whole clip, the largest first.

    A color of a single frame that covers little of it is left out: a blend at a cut, or the codec's
    noise.

    Args:
      masks: float32[height, width, 3] each, in the order of the frames.

    Returns:
      The colors, in the notation of `parse_color`.
    """
    colors: list[Uint8] = []
    shares: list[list[float]] = []
    num_masks = 0
    for mask in masks:
        num_masks += 1
        free = set(range(len(colors)))
        for color, share in find_colors(mask):
            gaps = {k: int(np.abs(color.astype(int) - colors[k]).max()) for k in free}
            place = min(gaps, key=lambda k: (gaps[k], k), default=None)
            if place is None or gaps[place] > TOLERANCE:
                colors.append(color)
                shares.append([share])
                continue
            free.discard(place)
            shares[place].append(share)
    totals = [sum(each) for each in shares]
    kept = [
        k
        for k, each in enumerate(shares)
        if len(each) > 1
        or max(each) > LARGEST_UNKNOWN / 2
        or totals[k] >= SMALLEST_SHARE * num_masks
    ]
    return tuple(color_name(colors[k]) for k in sorted(kept, key=lambda k: (-totals[k], k)))


def find_showing(
    masks: Iterable[npt.ArrayLike], colors: Sequence[str], *, name: str
) -> tuple[int, ...]:
    """Check the masks of all frames, and find frames that show each of their colors.

    Args:
      masks: float32[height, width, 3] each, in the order of the frames.
      colors: colors of all masks, in the notation of `parse_color`.
      name: name of the masks' clip in messages.

    Returns:
      Ascending numbers of the frames in which any of the colors has its largest area.

    Raises:
      InputError: a mask has too many other colors.
    """
    largest: dict[int, tuple[float, int]] = {}
    for number, mask in enumerate(masks):
        _, memberships = read_labels(mask, name=f"frame {number + 1} of {name}", colors=colors)
        for label, area in enumerate(find_areas(memberships)):
            if area > largest.get(label, (0.0, 0))[0]:
                largest[label] = area, number
    return tuple(sorted({number for _, number in largest.values()}))


def match_samples(
    samples: MaskSamples,
    style_masks: Sequence[npt.ArrayLike],
    *,
    style_images: Sequence[npt.ArrayLike],
    size: tuple[int, int],
) -> Regions:
    """Pair the regions of a clip with those of the styles; see `match_regions`.

    Args:
      samples: masks that show every region of the clip.
      style_masks: a mask for every style image, or an empty sequence.
      style_images: one float32[height', width', 3] per style.
      size: height and width of the painted frames.

    Returns:
      The regions of the clip. As the soft masks of the content, they have the largest membership of
      each pixel in all samples; those of a frame come from `read_regions`.

    Raises:
      InputError: see `match_regions`.
    """
    colors = samples.colors if samples.named else _order_colors(samples.colors, style_masks)
    num_frames, height, width, _ = samples.masks.shape
    # The samples are one image, one below the other: a region may be missing in any of them.
    regions = match_regions(
        samples.masks.reshape(num_frames * height, width, 3),
        style_masks,
        content_image=samples.images.reshape(num_frames * height, width, 3),
        style_images=style_images,
        colors=colors,
    )
    each = regions.content.reshape(num_frames, height, width, -1)
    return regions._replace(content=resize_memberships(each.max(axis=0), *size))


def read_regions(
    regions: Regions, mask: npt.ArrayLike, size: tuple[int, int], *, name: str
) -> Float32:
    """Read the mask of a frame as the regions of its clip.

    Args:
      regions: regions of the clip, from `match_samples`.
      mask: mask of the frame, float32[height', width', 3], sRGB in [0, 1].
      size: height and width of the frame.
      name: name of the mask in messages.

    Returns:
      Soft masks of the regions, float32[height, width, regions].

    Raises:
      InputError: see `matching.read_mask`.
    """
    assert regions.homes is not None, "the regions are those of masks"
    _, memberships = read_mask(mask, size, name=name, colors=regions.labels)
    return memberships @ regions.homes


def _order_colors(colors: Sequence[str], style_masks: Sequence[npt.ArrayLike]) -> tuple[str, ...]:
    """Add the colors that only style masks have, or sort the colors of the regions of one style.

    The order is that of `match_regions` without named colors.
    """
    parsed = [parse_color(text) for text in colors]
    if not style_masks:
        order = sort_by_lightness(np.array(parsed, np.uint8).reshape(-1, 3))
        return tuple(colors[k] for k in order)
    found = [color for mask in style_masks for color, _ in find_colors(mask)]
    for color in found:
        if all(np.abs(color.astype(int) - other).max() > TOLERANCE for other in parsed):
            parsed.append(color)
    return tuple(map(color_name, parsed))
