"""What becomes of a pair of pictures before its run, and of the result after it."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import Array

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.inputs.canvas import Canvas, is_gray, limit_regions, read_paint_mask
from neuart_jax.inputs.color import (
    luminance,
    match_covariance,
    match_histogram,
    match_luminance,
    put_back_colors,
)
from neuart_jax.inputs.guided_filter import smooth_affine
from neuart_jax.inputs.pictures import check_image, check_style_images, style_names
from neuart_jax.inputs.regions.memberships import Regions, find_areas, resize_memberships
from neuart_jax.inputs.regions.opacity import is_opaque, spread_opaque, take_opaque, weigh_styles
from neuart_jax.io.images import resize_image

Float32 = npt.NDArray[np.float32]

# Of a region's largest part in any style: a few pixels on an edge, or of a JPEG, are no part.
_LEAST_PART = 0.01
_LEAST_PAINT = 0.1
_LEAST_SEEN = 1e-4


class Masks(NamedTuple):
    """Pictures whose colors name regions, as `matching.match_regions` reads them.

    Attributes:
      content: float[height, width, 3], sRGB in [0, 1], of the content picture; None where there
        is none.
      styles: one per style picture, or none at all.
      opacities: of every style picture, float[height', width'] in [0, 1], of a picture over white;
        None where it is opaque. Only what is opaque gives a style. None at all where all are.
      paint: float[height, width, 3] in [0, 1], of the content picture: only what is white is
        painted, gray in part; outside, the result is the content picture itself. None paints all.
    """

    content: npt.ArrayLike | None = None
    styles: Sequence[npt.ArrayLike] = ()
    opacities: Sequence[npt.ArrayLike | None] = ()
    paint: npt.ArrayLike | None = None


class Pair(NamedTuple):
    """A content picture with its styles, ready for a run.

    Attributes:
      content: as the network gets to see it, float32[height, width, 3], sRGB in [0, 1].
      styles: one float32[height', width', 3] per style, each of its own size.
      regions: which part of the styles goes where; None where the whole goes everywhere.
      original: the content picture as it was given.
      config: of its run.
      gray: whether no color is to come in: all pictures have none, or it is put back afterwards.
      paint: how much of each pixel of the original is painted, float32[height, width] in [0, 1];
        None is all.
    """

    content: Array
    styles: tuple[Array, ...]
    regions: Regions | None
    original: Array
    config: Config
    gray: bool = False
    paint: Float32 | None = None

    @property
    def presence(self) -> tuple[tuple[bool, ...], ...]:
        """Tell of every region which styles have a part in it; empty without regions."""
        if self.regions is None:
            return ()
        if len(self.regions.names) == 1:
            # However small a style is, it isn't compared with its part in another region.
            return (tuple(bool(np.any(style > 0)) for style in self.regions.styles),)
        areas = np.stack([find_areas(style) for style in self.regions.styles], axis=1)
        largest = areas.max(axis=1, keepdims=True)
        return tuple(tuple(has) for has in (areas > _LEAST_PART * largest).tolist())

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: what was decided about regions that didn't match."""
        return () if self.regions is None else self.regions.notes


def make_pair(
    config: Config,
    content_image: npt.ArrayLike,
    style_images: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    masks: Masks = Masks(),
    name: str = "the content picture",
    palette: npt.ArrayLike | None = None,
) -> Pair:
    """Check pictures and masks, and do to them what the configuration wants done before a run.

    Args:
      config: of the run; here `style_tile`, `color` and the section `regions` count.
      content_image: float[height, width, 3], sRGB in [0, 1].
      style_images: one such picture or several, each of its own size.
      masks: of these pictures.
      name: what messages call the content picture.
      palette: whose colors count as the content's, float[height', width', 3]: of a clip, several of
        its frames beside each other, so that all frames are painted in the same colors.

    Raises:
      InputError: a picture or a mask can't be used.
    """
    original = check_image(content_image, name=name)
    step = config.images.size_step
    content = _round_sides(np.asarray(original), step)
    styles = [_round_sides(np.asarray(style), step) for style in check_style_images(style_images)]
    regions = _make_regions(config, content, styles, masks)
    opacities = _check_opacities(masks.opacities, styles)
    if any(opacity is not None for opacity in opacities):
        regions = weigh_styles(regions, content.shape, [style.shape for style in styles], opacities)
    paint = None if masks.paint is None else _check_paint(masks.paint, original.shape)
    if paint is not None:
        scaled = resize_memberships(paint[..., None], *content.shape[:2])[..., 0]
        regions = limit_regions(regions, scaled, [style.shape for style in styles])
    if config.images.style_tile:
        styles = [_tile(style, content.shape) for style in styles]
        opacities = [None if o is None else _tile(o, content.shape) for o in opacities]
        if regions is not None:
            tiled = tuple(_tile(style, content.shape) for style in regions.styles)
            regions = regions._replace(styles=tiled)
    visible = [
        style if opacity is None else take_opaque(style, opacity)
        for style, opacity in zip(styles, opacities, strict=True)
    ]
    seen = np.asarray(content if palette is None else palette, np.float32)
    seen, colored = _COLORS[config.images.color](seen, visible)
    styles = [
        style if opacity is None else spread_opaque(style, opacity)
        for style, opacity in zip(colored, opacities, strict=True)
    ]
    gray = config.images.color == "luminance" or all(map(is_gray, (seen, *styles)))
    if gray:
        seen, styles = luminance(seen), [luminance(style) for style in styles]
    if palette is not None:
        seen = luminance(content) if gray else content
    content, styles = jax.device_put((seen, tuple(styles)))
    return Pair(content, styles, regions, original, config, gray, paint)


def with_frame(
    pair: Pair,
    image: npt.ArrayLike,
    *,
    paint: npt.ArrayLike | None = None,
    name: str = "the frame",
) -> Pair:
    """Return a pair with another frame of its clip as the content; all else stays.

    Args:
      pair: of any frame, made with the `palette` of the whole clip.
      image: float[height, width, 3], sRGB in [0, 1], of the size of `pair.original`.
      paint: the frame's own mask as in `Masks`, where the pair has one and a single region; None
        leaves that.
      name: what messages call it.

    Raises:
      InputError: it can't be used.
    """
    original = check_image(image, name=name)
    content = _round_sides(np.asarray(original), pair.config.images.size_step)
    content = luminance(content) if pair.gray else content
    pair = pair._replace(original=original, content=jax.device_put(content))
    if paint is None or pair.regions is None:
        return pair
    shares = resize_memberships(read_paint_mask(paint)[..., None], *original.shape[:2])
    # Statistics of nothing are no numbers.
    seen = np.maximum(resize_memberships(shares, *content.shape[:2]), _LEAST_SEEN)
    return pair._replace(paint=shares[..., 0], regions=pair.regions._replace(content=seen))


def _check_paint(mask: npt.ArrayLike, shape: tuple[int, ...]) -> Float32:
    """Read a mask of what is painted, at its picture's size."""
    (height, width), (mask_height, mask_width) = shape[:2], np.shape(mask)[:2]
    close = abs(height - mask_height) <= 2 and abs(width - mask_width) <= 2
    if not close and not 1 / 1.01 <= (mask_width * height) / (mask_height * width) <= 1.01:
        raise InputError(
            f"the paint mask has {mask_width} x {mask_height} pixels, its picture {width} x "
            f"{height}",
            expected="a mask of the picture's own proportions",
            remedy="make it of the same picture",
        )
    paint = resize_memberships(read_paint_mask(mask)[..., None], height, width)[..., 0]
    if not np.any(paint > _LEAST_PAINT):
        raise InputError(
            "the paint mask is black all over",
            expected="white where the picture is to be painted",
            remedy="paint it white there, or leave it out",
        )
    return paint


def finish(pair: Pair, image: npt.ArrayLike) -> Float32:
    """Do to a result, or to a frame on the way, what the configuration wants done after a run.

    Args:
      pair: that the picture was made of; its configuration's `color` and `affine_radius`.
      image: float32[height, width, 3], of the size of `pair.content`.

    Returns:
      float32 of the original's shape, sRGB in [0, 1].
    """
    original, config = np.asarray(pair.original), pair.config
    finished = np.asarray(image, np.float32)
    if finished.shape != original.shape:
        finished = resize_image(finished, *original.shape[:2])
    finished = np.clip(finished, 0, 1)
    if config.images.color in ("luminance", "keep"):
        finished = put_back_colors(finished, original)
    if config.realism.affine_radius:
        finished = smooth_affine(finished, original, radius=config.realism.affine_radius)
    if pair.paint is not None:
        finished = Canvas(pair.paint[..., None], original).compose(finished)
    return finished


def _make_regions(
    config: Config, content: Float32, styles: Sequence[Float32], masks: Masks
) -> Regions | None:
    automatic = config.regions.auto_masks
    if not automatic and masks.content is None and not masks.styles and not config.regions.regions:
        return None
    # Half a second of start-up that only runs with regions have to pay.
    from neuart_jax.inputs.regions.matching import match_regions, split_regions

    if automatic and (masks.content is not None or masks.styles):
        raise InputError(
            f"auto_masks={automatic} came with masks",
            expected="masks, or a number of regions to be found",
            remedy="leave one of the two out",
        )
    if automatic:
        return split_regions(content, styles, count=automatic, seed=config.run.seed)
    if masks.content is None and not masks.styles:
        raise InputError(
            f"regions={','.join(config.regions.regions)} came without a mask",
            expected="a content mask with these colors",
            remedy="add --content_mask=FILE",
        )
    return match_regions(
        masks.content,
        masks.styles,
        content_image=content,
        style_images=styles,
        colors=config.regions.regions,
    )


def _check_opacities(
    opacities: Sequence[npt.ArrayLike | None], styles: Sequence[Float32]
) -> list[Float32 | None]:
    """Scale opacities to their pictures."""
    checked: list[Float32 | None] = []
    names = style_names(len(styles))
    for opacity, style, name in zip(opacities or [None] * len(styles), styles, names, strict=True):
        if opacity is None:
            checked.append(None)
            continue
        scaled = resize_memberships(np.asarray(opacity, np.float32)[..., None], *style.shape[:2])
        if not np.any(is_opaque(scaled[..., 0])):
            raise InputError(
                f"{name} is transparent all over",
                expected="something to be seen of it",
                remedy="give another, or take away its transparency",
            )
        checked.append(scaled[..., 0])
    return checked


def round_sides(height: int, width: int, step: int) -> tuple[int, int]:
    """Return the size, in pixels, that a picture is painted at; see `ImagesConfig.size_step`."""
    return max(1, round(height / step)) * step, max(1, round(width / step)) * step


def _round_sides(image: Float32, step: int) -> Float32:
    height, width, _ = image.shape
    size = round_sides(height, width, step)
    return image if size == (height, width) else resize_image(image, *size)


def _tile(image: Float32, shape: tuple[int, ...]) -> Float32:
    height, width = (max(0, shape[axis] - image.shape[axis]) for axis in (0, 1))
    rest = ((0, 0),) * (image.ndim - 2)
    return np.pad(image, ((0, height), (0, width), *rest), mode="symmetric")


def _style_colors(content: Float32, styles: list[Float32]) -> tuple[Float32, list[Float32]]:
    return content, styles


def _content_colors(
    content: Float32, styles: list[Float32], *, match: Callable[[Float32, Float32], Float32]
) -> tuple[Float32, list[Float32]]:
    return content, [match(style, content) for style in styles]


def _no_colors(content: Float32, styles: list[Float32]) -> tuple[Float32, list[Float32]]:
    return luminance(content), [match_luminance(style, content) for style in styles]


_COLORS: dict[str, Callable[[Float32, list[Float32]], tuple[Float32, list[Float32]]]] = {
    "style": _style_colors,
    "keep": _style_colors,
    "match": functools.partial(_content_colors, match=match_covariance),
    "histogram": functools.partial(_content_colors, match=match_histogram),
    "luminance": _no_colors,
}
"""(content, styles) as they go into the run, by `color`."""
