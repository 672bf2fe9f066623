"""Coarse-to-fine optimization: stages at growing sizes, each starting from the previous result.

Large strokes are formed at small sizes, where an evaluation costs a fraction; the full size only
adds fine ones. Source: Gatys et al. 2017, arXiv 1611.07865, section 6; jcjohnson/neural-style's
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
"""Smallest side of a coarse scale in pixels; below, deep layers have only a few positions."""


class Stage(NamedTuple):
    """A stage of a run: a size, or one of several stages at a size.

    Attributes:
      size: (height, width) of the image, in pixels.
      factor: factor by which all images are reduced from full size.
      num_steps: largest number of updates.
      realistic: whether the stage has the photorealism term, if the run has it.
    """

    size: tuple[int, int]
    factor: int
    num_steps: int
    realistic: bool


_USUAL_SIZE, _USUAL_SCALES = 512, 2


def settle_scales(config: Config, size: tuple[int, ...]) -> Config:
    """Resolve the number of scales.

    Strokes are formed at the coarsest scale: if that has about 256 pixels whatever the full size, a
    large result looks like a small one. A town painted at 1024 pixels and reduced to 512 had an
    SSIM of 0.76 with one painted at 512 (a trained ResNet50; VGG16 0.75). With two scales, a bridge
    had 0.44 instead of 0.60, which it had before images were reduced by way of all sizes between.

    Args:
      config: configuration that is resolved except for the scales.
      size: (height, width, ...) of the content, in pixels.
    """
    if config.run.scales is not None:
        return config
    doublings = max(0, round(math.log2(max(size[:2]) / _USUAL_SIZE)))
    return config.replace(scales=min(_USUAL_SCALES + doublings, 8))


def plan_stages(config: Config, sizes: Sequence[tuple[int, ...]]) -> tuple[Stage, ...]:
    """Plan a run's stages, coarsest first, each size half the next.

    If the photorealism term has its own steps, they are a last stage at full size.

    Args:
      config: resolved configuration.
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
    """Count the possible scales, all with sides of at least `SMALLEST_SIDE`.

    Args:
      sizes: (height, width) of the content and of every style image, in pixels.
      at_most: upper bound.
    """
    shortest = min(map(min, sizes))
    counts = range(2, at_most + 1)
    return max((n for n in counts if _reduce(shortest, 2 ** (n - 1)) >= SMALLEST_SIDE), default=1)


class Scale(NamedTuple):
    """A pair's images at one size.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style, reduced by the same factor.
      regions: regions of these images, or None.
      paint: paint mask, float32[height, width, 1]; None paints everything.
    """

    content_image: Array
    style_images: tuple[Array, ...]
    regions: Regions | None
    paint: Any = None


def make_scale(pair: Pair, factor: int, *, num_devices: int = 1) -> Scale:
    """Reduce a pair's images by a factor.

    Args:
      pair: the pair at full size.
      factor: factor by which sides are reduced; 1 keeps the size.
      num_devices: number of devices over which the images' rows are sharded.
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
    """Return the initial image of a scale: the coarser scale's result, or the run's initial image.

    Args:
      pair: the pair at full size.
      scale: the pair's images at this size.
      coarser: result of the coarser scale, if there was one.

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
        # A weakly stylized image needs details of the photograph that the coarser size lacks.
        stays = 1 - config.losses.stylization if config.run.init == "content" else 0
        # Not the scale's own image, whose rows may be sharded over several machines.
        content = _resize(np.asarray(pair.content), scale.content_image.shape[:2])
        start = _enlarge(coarser.image, content, stays)
    return start if scale.paint is None else Canvas(scale.paint, scale.content_image).compose(start)


def _enlarge(image: np.ndarray, content: np.ndarray, stays: float) -> Array:
    """Enlarge an image to the content's size, and add a share of the content's fine details."""
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
    """Reduce an image by a power of 2, halving it again and again.

    The steps of L-BFGS let the smallest differences grow: a photograph of 1024 pixels that was
    reduced to 256 at once, and by way of 512, gave other strokes. By way of all sizes between, the
    coarsest scale is the same whatever the full size.
    """
    if factor == 1:
        return image
    reduced, halved = np.asarray(image), 1
    while halved < factor:
        halved *= 2
        reduced = resize_image(reduced, *(_reduce(side, halved) for side in image.shape[:2]))
    return jax.device_put(reduced)
