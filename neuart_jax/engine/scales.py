"""Coarse to fine: the same run at growing sizes, each starting from the one before.

Large strokes are found at small sizes, where an evaluation costs a fraction; the full size only
adds the fine ones. Gatys et al. 2017, arXiv 1611.07865, section 6; jcjohnson/neural-style's
multi-resolution recipe.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from neuart_jax.config.config import Config
from neuart_jax.config.fields import known
from neuart_jax.engine.sharding import share_rows
from neuart_jax.engine.state import ScaleResult
from neuart_jax.inputs.canvas import Canvas
from neuart_jax.inputs.color import luminance
from neuart_jax.inputs.initial_image import make_start
from neuart_jax.inputs.pair import Pair
from neuart_jax.inputs.regions.memberships import Regions, resize_memberships
from neuart_jax.io.images import resize_image

SMALLEST_SIDE = 96
"""Pixels below which a coarser scale isn't worth having: deep layers see a few positions only."""


class Stage(NamedTuple):
    """A part of a run: one size, or one of several stages at a size.

    Attributes:
      size: (height, width) of the image, in pixels.
      factor: by which all images are smaller than at full size.
      num_steps: updates at the most.
      realistic: whether the result is held to the content's edges, if the run is to be.
    """

    size: tuple[int, int]
    factor: int
    num_steps: int
    realistic: bool


_USUAL_SIZE, _USUAL_SCALES = 512, 2


def settle_scales(config: Config, size: tuple[int, ...]) -> Config:
    """Replace a number of scales that is left open.

    Strokes are found at the coarsest: with it at about 256 pixels whatever the full size, a large
    picture looks more like a small one. A bridge painted at 1024 pixels and brought to 512 had an
    SSIM of 0.60 with the one painted there, and of 0.44 with two scales (a trained ResNet50).

    Args:
      config: resolved but for that.
      size: (height, width, ...) of the content, in pixels.
    """
    if config.run.scales is not None:
        return config
    doublings = max(0, round(math.log2(max(size[:2]) / _USUAL_SIZE)))
    return config.replace(scales=min(_USUAL_SCALES + doublings, 8))


def plan_stages(config: Config, sizes: Sequence[tuple[int, ...]]) -> tuple[Stage, ...]:
    """Plan a run's stages, coarsest first, each size half the next.

    A last stage at full size is the only realistic one where that has steps of its own.

    Args:
      config: resolved.
      sizes: (height, width) of the content and of every style image, in pixels.
    """
    run, realism = config.run, config.realism
    realism_steps = realism.realism_steps if realism.realism_weight else 0
    stages = []
    for halvings in reversed(range(count_scales(sizes, at_most=known(run.scales)))):
        height, width = (_reduce(side, 2**halvings) for side in sizes[0][:2])
        num_steps = known(run.coarse_steps if halvings else run.steps)
        stages.append(Stage((height, width), 2**halvings, num_steps, realism_steps == 0))
    if realism_steps:
        stages.append(stages[-1]._replace(num_steps=realism_steps, realistic=True))
    return tuple(stages)


def count_scales(sizes: Sequence[tuple[int, ...]], *, at_most: int) -> int:
    """Count the sizes that images can be worked at, none with a side below `SMALLEST_SIDE`.

    Args:
      sizes: (height, width) of the content and of every style image, in pixels.
      at_most: how many.
    """
    shortest = min(map(min, sizes))
    counts = range(2, at_most + 1)
    return max((n for n in counts if _reduce(shortest, 2 ** (n - 1)) >= SMALLEST_SIDE), default=1)


class Scale(NamedTuple):
    """A pair's images at one size.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style, reduced by the same factor.
      regions: of these images, if there are any.
      paint: how much of each pixel is painted, float32[height, width, 1]; None is all.
    """

    content_image: Array
    style_images: tuple[Array, ...]
    regions: Regions | None
    paint: Any = None


def make_scale(pair: Pair, factor: int, *, num_devices: int = 1) -> Scale:
    """Reduce a pair's images.

    Args:
      pair: at full size.
      factor: by which the sides become smaller; 1 leaves them.
      num_devices: among which the images' rows are shared out.
    """
    content, *styles = (_reduce_image(image, factor) for image in (pair.content, *pair.styles))
    regions, paint = pair.regions, None
    if regions is not None and factor > 1:
        regions = _resize_regions(regions, content, styles)
    if pair.paint is not None:
        paint = jax.device_put(resize_memberships(pair.paint[..., None], *content.shape[:2]))
    return Scale(
        share_rows(content, num_devices),
        tuple(share_rows(style, num_devices) for style in styles),
        regions,
        None if paint is None else share_rows(paint, num_devices),
    )


def make_initial_image(pair: Pair, scale: Scale, coarser: ScaleResult | None) -> Array:
    """Return what a scale begins with: the coarser scale's image, or the run's start.

    Args:
      pair: at full size.
      scale: its images at this size.
      coarser: what the scale before ended with, if there was one.

    Returns:
      float32[height, width, 3].
    """
    config = pair.config
    if coarser is None:
        start = make_start(
            config.run, content_image=scale.content_image, style_image=scale.style_images[0]
        )
        start = jnp.asarray(luminance(start)) if pair.gray else start
    else:
        # What is to stay a photograph has details that the coarser size doesn't.
        stays = 1 - config.losses.stylization if config.run.init == "content" else 0
        # Not the scale's own image, whose rows several machines may share.
        content = _resize(np.asarray(pair.content), scale.content_image.shape[:2])
        start = _enlarge(coarser.image, content, stays)
    return start if scale.paint is None else Canvas(scale.paint, scale.content_image).compose(start)


def _enlarge(image: np.ndarray, content: np.ndarray, stays: float) -> Array:
    """Return an image at the content's size, with a share of the content's lost details."""
    size, shape = image.shape[:2], content.shape[:2]
    lost = np.zeros_like(content)
    if size != shape:
        image = resize_image(image, *shape)
        lost = content - resize_image(resize_image(content, *size), *shape)
    start, details = jax.device_put(image), jax.device_put(lost)
    return jnp.clip(start + stays * details, 0, 1) if stays else start


def _resize_regions(regions: Regions, content: Array, styles: Sequence[Array]) -> Regions:
    return regions._replace(
        content=resize_memberships(regions.content, *content.shape[:2]),
        styles=tuple(
            resize_memberships(memberships, *style.shape[:2])
            for memberships, style in zip(regions.styles, styles, strict=True)
        ),
    )


def _reduce(side: int, factor: int) -> int:
    return round(side / factor)


def _resize(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return image if image.shape[:2] == size else resize_image(image, size[0], size[1])


def _reduce_image(image: Array, factor: int) -> Array:
    if factor == 1:
        return image
    height, width = (_reduce(side, factor) for side in image.shape[:2])
    return jax.device_put(resize_image(np.asarray(image), height, width))
