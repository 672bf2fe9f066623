"""Pair the regions of the content with those of the styles."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2gray

from neuart_jax.config.errors import InputError, counted
from neuart_jax.inputs.regions.labels import TOLERANCE, Uint8, color_name, read_labels
from neuart_jax.inputs.regions.memberships import (
    Float32,
    Regions,
    called,
    find_areas,
    resize_memberships,
)
from neuart_jax.inputs.regions.segmentation import find_regions, standardize_colors


def match_regions(
    content_mask: npt.ArrayLike | None,
    style_masks: Sequence[npt.ArrayLike],
    *,
    content_image: npt.ArrayLike,
    style_images: Sequence[npt.ArrayLike],
    colors: Sequence[str] = (),
) -> Regions:
    """Pair the regions of the content's mask with those of the styles.

    With a mask for every style image, regions of the same color are paired; a region takes the
    style of all images that have it. A region that only the content has is merged into the region
    of the styles whose mean color is nearest, as measured by `standardize_colors`. A region that
    only styles have is left out.

    Without style masks, each region takes one style image: the first region the first image, in the
    order of `colors` or else from dark to light.

    Source: Luan et al. 2017, "Deep photo style transfer", arXiv 1703.07511: regions that only the
    input has, "orphans", take one of the style's labels.

    Differs from source: the label is chosen by color, not by semantic class.

    Args:
      content_mask: float32[height, width, 3], sRGB in [0, 1], as `read_labels` takes it; within two
        pixels of the image's size, or within 1 % of its aspect ratio.
      style_masks: a mask for every style image, under the same conditions, or an empty sequence.
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style.
      colors: names of the regions; empty takes the masks' solid colors.

    Returns:
      The regions at the images' sizes: in the order of `colors`, else from dark to light without
      style masks, or else by decreasing area in the content's mask.

    Raises:
      InputError: a mask doesn't match its image, or the masks don't match each other.
    """
    if content_mask is None:
        what = "style masks" if len(style_masks) else "regions"
        raise InputError(
            f"{what} came without a content mask",
            expected="a mask that shows where each region is in the content image",
            remedy="add --content_mask=FILE",
        )
    if not style_masks:
        return _one_style_per_region(content_mask, content_image, style_images, colors)
    if len(style_masks) != len(style_images):
        raise InputError(
            f"{counted(len(style_masks), 'style mask')} came with "
            f"{counted(len(style_images), 'style image')}",
            expected="one mask for every style image, or none",
            remedy="give --style_mask once for every --style, in the same order, or leave it out",
        )
    masks = [content_mask, *style_masks]
    images = [content_image, *style_images]
    names = ["the content's mask", *_mask_names(len(style_masks))]
    read = [
        read_mask(mask, np.shape(image)[:2], name=name, colors=colors)
        for mask, image, name in zip(masks, images, names, strict=True)
    ]
    if colors:
        region_names = [text.strip() for text in colors]
        stacks = [memberships for _, memberships in read]
        _check_named(region_names, stacks)
    else:
        region_names, stacks = _join_labels(read)
    regions = _pair(region_names, stacks, images, origin="in no style mask")
    return regions._replace(labels=tuple(region_names))


def split_regions(
    content_image: npt.ArrayLike,
    style_images: Sequence[npt.ArrayLike],
    *,
    count: int,
    seed: int = 0,
) -> Regions:
    """Pair parts of the content with similar parts of the styles, without masks.

    Args:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style.
      count: number of regions to look for; see `find_regions`. Regions that no style has are merged
        into others, as in `match_regions`, so there may be fewer.
      seed: seed of `find_regions`.

    Returns:
      The regions at the images' sizes, the largest first.

    Raises:
      InputError: the images have fewer distinct parts than `count`.
    """
    images = [content_image, *style_images]
    stacks = find_regions(images, count, seed=seed)
    names = [f"region {number}" for number in range(1, stacks[0].shape[2] + 1)]
    return _pair(names, stacks, images, origin="in no style image")._replace(homes=None)


def _mask_names(count: int) -> list[str]:
    return ["the style's mask"] if count == 1 else [f"style mask {n}" for n in range(1, count + 1)]


def check_mask_size(mask: tuple[int, ...], image: tuple[int, ...], *, name: str) -> None:
    """Check that a mask has the size of its image, within two pixels, or its aspect ratio.

    Args:
      mask: (height, width, ...) of the mask.
      image: (height, width, ...) of its image.
      name: name of the mask in messages.

    Raises:
      InputError: it has neither.
    """
    (height, width), (mask_height, mask_width) = image[:2], mask[:2]
    close = abs(height - mask_height) <= 2 and abs(width - mask_width) <= 2
    aspects = (mask_width * height) / (mask_height * width)
    if not close and not 1 / 1.01 <= aspects <= 1.01:
        raise InputError(
            f"{name} has {mask_width} x {mask_height} pixels, its image {width} x {height}",
            expected="the same size, at most two pixels off, or the same aspect ratio",
            remedy="scale or crop the mask as its image was",
        )


def read_mask(
    mask: npt.ArrayLike, size: tuple[int, ...], *, name: str, colors: Sequence[str]
) -> tuple[Uint8, Float32]:
    """Read a mask's labels and scale the soft masks to its image's size.

    Args:
      mask: float32[height', width', 3], sRGB in [0, 1].
      size: height and width of its image.
      name: name of the mask in messages.
      colors: as in `read_labels`.

    Returns:
      As `read_labels`, with soft masks of the image's size.

    Raises:
      InputError: the mask's labels can't be read, or it has another size; see `check_mask_size`.
    """
    (height, width), (mask_height, mask_width) = size, np.shape(mask)[:2]
    check_mask_size((mask_height, mask_width), size, name=name)
    pixels = np.asarray(mask, np.float32)
    if min(mask_height / height, mask_width / width) > 2:
        # The full size of a photograph would cost seconds per label and add nothing.
        pixels = resize_memberships(pixels, 2 * height, 2 * width)
    palette, memberships = read_labels(pixels, name=name, colors=colors)
    return palette, resize_memberships(memberships, height, width)


def _one_style_per_region(
    mask: npt.ArrayLike,
    content_image: npt.ArrayLike,
    style_images: Sequence[npt.ArrayLike],
    colors: Sequence[str],
) -> Regions:
    size = np.shape(content_image)[:2]
    palette, content = read_mask(mask, size, name="the content's mask", colors=colors)
    names = [text.strip() for text in colors] or [color_name(color) for color in palette]
    if colors:
        _check_named(names, [content])
    else:
        order = sort_by_lightness(palette)
        names, content = [names[k] for k in order], content[..., order]
    if len(names) != len(style_images):
        raise InputError(
            f"the content's mask has {counted(len(names), 'region')} ({', '.join(names)}) and came "
            f"with {counted(len(style_images), 'style image')}",
            expected="one style image for every region, or masks for the style images",
            remedy="give as many styles as regions, or a mask for every style",
        )
    styles = []
    for region, image in enumerate(style_images):
        style = np.zeros((*np.shape(image)[:2], len(names)), np.float32)
        style[..., region] = 1
        styles.append(style)
    homes = np.eye(len(names), dtype=np.float32)
    return Regions(tuple(names), content, tuple(styles), labels=tuple(names), homes=homes)


def sort_by_lightness(palette: Uint8) -> list[int]:
    """Return the order of colors, uint8[labels, 3], from dark to light."""
    light = rgb2gray(palette[None] / 255)[0]
    return sorted(range(len(palette)), key=lambda k: (light[k], *palette[k]))


def _check_named(names: Sequence[str], stacks: Sequence[Float32]) -> None:
    present = np.any([stack.any(axis=(0, 1)) for stack in stacks], axis=0)
    for name, found in zip(names, present, strict=True):
        if not found:
            where = "the content's mask" if len(stacks) == 1 else "any mask"
            raise InputError(
                f"the region {name} is not in {where}",
                expected="a color that covers some area of the mask",
                remedy="check the color, or leave it out of --regions",
            )


def _join_labels(read: Sequence[tuple[Uint8, Float32]]) -> tuple[list[str], list[Float32]]:
    """Group the labels of several masks by color, and give all masks the same labels.

    In the order of decreasing area, a label joins the nearest group that is within the tolerance
    and has no label of the same mask yet.
    """
    entries = [
        (share, mask, label)
        for mask, (_, memberships) in enumerate(read)
        for label, share in enumerate(find_areas(memberships) / memberships[..., 0].size)
    ]
    groups: list[dict[int, int]] = []
    centers: list[npt.NDArray[np.int64]] = []
    for _, mask, label in sorted(entries, key=lambda entry: (-entry[0], *entry[1:])):
        color = read[mask][0][label].astype(np.int64)
        gaps = [
            TOLERANCE + 1 if mask in group else int(np.abs(color - center).max())
            for group, center in zip(groups, centers, strict=True)
        ]
        if gaps and min(gaps) <= TOLERANCE:
            groups[int(np.argmin(gaps))][mask] = label
        else:
            groups.append({mask: label})
            centers.append(color)
    stacks = [
        np.stack(
            [
                memberships[..., group[mask]]
                if mask in group
                else np.zeros(memberships.shape[:2], np.float32)
                for group in groups
            ],
            axis=-1,
        )
        for mask, (_, memberships) in enumerate(read)
    ]
    order = np.argsort(-find_areas(stacks[0]), kind="stable")
    names = [color_name(centers[k]) for k in order]
    return names, [stack[..., order] for stack in stacks]


def _pair(
    names: Sequence[str],
    stacks: Sequence[Float32],
    images: Sequence[npt.ArrayLike],
    *,
    origin: str,
) -> Regions:
    """Merge the regions that only the content has, and drop those that only styles have."""
    has = np.array([stack.any(axis=(0, 1)) for stack in stacks])
    in_content, in_styles = has[0], has[1:].any(axis=0)
    homes, notes = np.eye(len(names), dtype=np.float32), []
    if orphans := [int(k) for k in np.flatnonzero(in_content & ~in_styles)]:
        for orphan, home in _find_homes(orphans, np.flatnonzero(in_styles), stacks, images).items():
            homes[orphan, home] = 1
            notes.append(
                f"The content's {called(names[orphan])} is {origin}; it takes the style of "
                f"{names[home]}, whose colors are nearest."
            )
    content = stacks[0] @ homes
    used = np.asarray(in_styles & content.any(axis=(0, 1)))
    for region in (int(k) for k in np.flatnonzero(in_styles & ~used)):
        notes.append(f"The styles' {called(names[region])} is not in the content; it is left out.")
    for number in np.flatnonzero(~has[1:, used].any(axis=1)) + 1:
        notes.append(f"Style image {number} has no part in any region; it is left out.")
    return Regions(
        tuple(name for name, use in zip(names, used, strict=True) if use),
        content[..., used],
        tuple(stack[..., used] for stack in stacks[1:]),
        tuple(notes),
        homes=homes[:, used],
    )


def _find_homes(
    orphans: Sequence[int],
    candidates: npt.NDArray[np.int64],
    stacks: Sequence[Float32],
    images: Sequence[npt.ArrayLike],
) -> dict[int, int]:
    """Return, for every orphan, the region of the styles whose mean color is nearest.

    Colors are standardized CIELAB: otherwise everything in a daylight image would be nearest to the
    lamps of a night image.
    """
    content = _mean_colors(stacks[:1], images[:1])
    styles = _mean_colors(stacks[1:], images[1:])
    homes = {}
    for orphan in orphans:
        gaps = np.linalg.norm(styles[candidates] - content[orphan], axis=1)
        homes[orphan] = int(candidates[gaps.argmin()])
    return homes


def _mean_colors(
    stacks: Sequence[Float32], images: Sequence[npt.ArrayLike]
) -> npt.NDArray[np.float64]:
    """Return each region's mean standardized color in several images: float64[regions, 3]."""
    sums = sum(
        np.einsum("hwr,hwc->rc", stack, standardize_colors(image))
        for stack, image in zip(stacks, images, strict=True)
    )
    areas = np.sum([find_areas(stack) for stack in stacks], axis=0)
    return np.asarray(sums) / np.maximum(areas, 1e-9)[:, None]
