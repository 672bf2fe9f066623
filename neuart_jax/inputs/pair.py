"""Preprocessing of a content image and its styles, and postprocessing of a result."""

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
from neuart_jax.inputs.image_checks import check_image, check_style_images, style_names
from neuart_jax.inputs.regions.memberships import (
    MaskSamples,
    Regions,
    find_areas,
    resize_memberships,
)
from neuart_jax.inputs.regions.opacity import is_opaque, spread_opaque, take_opaque, weigh_styles
from neuart_jax.io.images import resize_image

Float32 = npt.NDArray[np.float32]

# Share of a region's largest area in any style, below which a style has no part in the region: a
# few pixels on an edge, or JPEG noise.
_LEAST_PART = 0.01
# A paint mask that exceeds this value nowhere is black.
_LEAST_PAINT = 0.1


class Masks(NamedTuple):
    """Masks of a pair of images.

    Attributes:
      content: region mask of the content image, float[height, width, 3], sRGB in [0, 1], whose
        colors name regions (see `matching.match_regions`); samples of a clip's masks, which move;
        or None for no mask.
      styles: a region mask for every style image, or an empty sequence.
      opacities: opacity of every style image, float[height', width'] in [0, 1], or None for an
        opaque image; the image is composited over white, and only opaque pixels give a style.
        Empty if all images are opaque.
      paint: paint mask of the content image, float[height, width, 3] in [0, 1]: white is painted,
        gray in part; elsewhere the result is the content image itself. None paints everything.
    """

    content: npt.ArrayLike | MaskSamples | None = None
    styles: Sequence[npt.ArrayLike] = ()
    opacities: Sequence[npt.ArrayLike | None] = ()
    paint: npt.ArrayLike | None = None


class Pair(NamedTuple):
    """A preprocessed content image with its styles.

    Attributes:
      content: content image as the network sees it, float32[height, width, 3], sRGB in [0, 1].
      styles: one float32[height', width', 3] per style, each of its own size.
      regions: soft masks of the regions; None without regions.
      original: the content image before preprocessing.
      config: configuration of the run.
      gray: whether the result is computed in gray: all images are gray, or the content's colors are
        restored afterwards.
      paint: paint mask at the original's size, float32[height, width] in [0, 1]; None paints
        everything.
      memberships: the content's soft masks without the paint mask, float32[height, width, regions];
        None without regions.
      spared: for every style image, how many of the halvings between scales it is spared, since its
        file is that much smaller than was asked for.
    """

    content: Array
    styles: tuple[Array, ...]
    regions: Regions | None
    original: Array
    config: Config
    gray: bool = False
    paint: Float32 | None = None
    memberships: Float32 | None = None
    spared: tuple[int, ...] = ()

    @property
    def presence(self) -> tuple[tuple[bool, ...], ...]:
        """For every region, which styles have a part in it; empty without regions."""
        if self.regions is None:
            return ()
        if len(self.regions.names) == 1:
            # With a single region, a small style image still counts.
            return (tuple(bool(np.any(style > 0)) for style in self.regions.styles),)
        areas = np.stack([find_areas(style) for style in self.regions.styles], axis=1)
        largest = areas.max(axis=1, keepdims=True)
        return tuple(tuple(has) for has in (areas > _LEAST_PART * largest).tolist())

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about regions that didn't match."""
        return () if self.regions is None else self.regions.notes


def make_pair(
    config: Config,
    content_image: npt.ArrayLike,
    style_images: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    masks: Masks = Masks(),
    name: str = "the content image",
    palette: npt.ArrayLike | None = None,
    spared: Sequence[int] = (),
) -> Pair:
    """Validate and preprocess a content image, its styles and their masks.

    Args:
      config: configuration of the run; this reads `size_step`, `style_tile`, `color` and the
        section `regions`.
      content_image: float[height, width, 3], sRGB in [0, 1].
      style_images: float[height', width', 3], sRGB in [0, 1], or a sequence of such images, each of
        its own size.
      masks: masks of these images.
      name: name of the content image in messages.
      palette: image that stands for the content's colors, float[height', width', 3]; for a clip,
        several of its frames side by side, so that all frames are painted in the same colors.
      spared: see `Pair`; by default no halving is spared.

    Raises:
      InputError: an image or a mask is invalid.
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
    memberships = None if regions is None else regions.content
    if paint is not None:
        scaled = resize_memberships(paint[..., None], *content.shape[:2])[..., 0]
        regions, memberships = limit_regions(regions, scaled, [style.shape for style in styles])
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
    return Pair(
        *(content, styles, regions, original, config, gray, paint, memberships),
        spared=tuple(spared) or (0,) * len(styles),
    )


def with_frame(
    pair: Pair,
    image: npt.ArrayLike,
    *,
    paint: npt.ArrayLike | None = None,
    memberships: Float32 | None = None,
    name: str = "the frame",
) -> Pair:
    """Return a pair with another frame of its clip as the content image.

    Args:
      pair: pair of any frame, made with the `palette` of the whole clip.
      image: float[height, width, 3], sRGB in [0, 1], of the size of `pair.original`.
      paint: paint mask of the frame, as in `Masks`, if the pair has a paint mask; None keeps the
        mask of the pair.
      memberships: soft masks of the frame for the pair's regions, from `moving.read_regions`; None
        keeps those of the pair.
      name: name of the frame in messages.

    Raises:
      InputError: the image is invalid.
    """
    original = check_image(image, name=name)
    content = _round_sides(np.asarray(original), pair.config.images.size_step)
    content = luminance(content) if pair.gray else content
    pair = pair._replace(original=original, content=jax.device_put(content))
    regions = pair.regions
    if regions is None or (paint is None and memberships is None):
        return pair
    seen = pair.memberships if memberships is None else memberships
    assert seen is not None, "there are regions"
    shares = None if pair.paint is None else pair.paint[..., None]
    if paint is not None:
        shares = resize_memberships(read_paint_mask(paint)[..., None], *original.shape[:2])
        pair = pair._replace(paint=shares[..., 0])
    if shares is not None:
        seen = seen * resize_memberships(shares, *content.shape[:2])
    return pair._replace(regions=regions._replace(content=seen))


def _check_paint(mask: npt.ArrayLike, shape: tuple[int, ...]) -> Float32:
    """Validate a paint mask and scale it to its image's size."""
    (height, width), (mask_height, mask_width) = shape[:2], np.shape(mask)[:2]
    close = abs(height - mask_height) <= 2 and abs(width - mask_width) <= 2
    if not close and not 1 / 1.01 <= (mask_width * height) / (mask_height * width) <= 1.01:
        raise InputError(
            f"the paint mask has {mask_width} x {mask_height} pixels, its image {width} x {height}",
            expected="a mask with the image's aspect ratio",
            remedy="draw it over the same image",
        )
    paint = resize_memberships(read_paint_mask(mask)[..., None], height, width)[..., 0]
    if not np.any(paint > _LEAST_PAINT):
        raise InputError(
            "the paint mask is black all over",
            expected="white where the image is to be painted",
            remedy="make the mask white there, or leave it out",
        )
    return paint


def finish(pair: Pair, image: npt.ArrayLike) -> Float32:
    """Postprocess a result or an intermediate frame.

    Args:
      pair: the pair that the image was made from; this reads `color` and `affine_radius` of its
        configuration.
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
    # Imported here, as the import takes half a second.
    from neuart_jax.inputs.regions.matching import match_regions, split_regions
    from neuart_jax.inputs.regions.moving import match_samples

    if automatic and (masks.content is not None or masks.styles):
        raise InputError(
            f"auto_masks={automatic} came with masks",
            expected="either masks, or a number of regions to find",
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
    if isinstance(masks.content, MaskSamples):
        height, width, _ = content.shape
        return match_samples(masks.content, masks.styles, style_images=styles, size=(height, width))
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
    """Validate opacities and scale them to the size of their images."""
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
                expected="some opaque pixels",
                remedy="give another image, or remove its transparency",
            )
        checked.append(scaled[..., 0])
    return checked


def round_sides(height: int, width: int, step: int) -> tuple[int, int]:
    """Return the height and width that a run works at; see `ImagesConfig.size_step`."""
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
"""(content, styles) -> (content, styles) as the network sees them, by the setting `color`."""
