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
from neuart_jax.io.images import halve_image, halve_side, resize_image

SMALLEST_SIDE = 96
"""Smallest side of a coarse scale in pixels; below, deep layers have only a few positions."""


class Stage(NamedTuple):
    """A stage of a run: a size, or one of several stages at a size.

    Attributes:
      size: (height, width) of the image, in pixels.
      halvings: how often the content is halved from full size.
      num_steps: largest number of updates.
      realistic: whether the stage has the photorealism term, if the run has it.
    """

    size: tuple[int, int]
    halvings: int
    num_steps: int
    realistic: bool


_USUAL_SIZE, _USUAL_SCALES = 512, 2


def settle_scales(config: Config, size: tuple[int, ...]) -> Config:
    """Resolve the number of scales.

    Strokes are formed at the coarsest scale: if that has about 256 pixels whatever the full size, a
    large result looks like a small one. A town painted at 1024 and at 2048 pixels and reduced to
    512 had an SSIM of 0.78 and 0.74 with one painted at 512 (a trained ResNet50). With two scales
    at 1024, a bridge had 0.44 instead of 0.60, which it had before images were reduced by way of
    all sizes between.

    Args:
      config: configuration that is resolved except for the scales.
      size: (height, width, ...) of the content, in pixels.
    """
    if config.run.scales is not None:
        return config
    doublings = max(0, round(math.log2(max(size[:2]) / _USUAL_SIZE)))
    return config.replace(scales=min(_USUAL_SCALES + doublings, 8))


def plan_stages(config: Config, size: tuple[int, ...]) -> tuple[Stage, ...]:
    """Plan a run's stages, coarsest first, each size half the next.

    If the photorealism term has its own steps, they are a last stage at full size.

    Args:
      config: resolved configuration.
      size: (height, width, ...) of the content, in pixels.
    """
    run, realism = config.run, config.realism
    realism_steps = realism.realism_steps if realism.realism_weight else 0
    stages = []
    for halvings in reversed(range(count_scales(size, at_most=known(run.scales)))):
        height, width = (halve_side(side, halvings) for side in size[:2])
        num_steps = known(run.coarse_steps if halvings else run.steps)
        stages.append(Stage((height, width), halvings, num_steps, realism_steps == 0))
    if realism_steps:
        stages.append(stages[-1]._replace(num_steps=realism_steps, realistic=True))
    return tuple(stages)


def count_scales(size: tuple[int, ...], *, at_most: int) -> int:
    """Count the possible scales, all with sides of at least `SMALLEST_SIDE`.

    Args:
      size: (height, width, ...) of the content, in pixels.
      at_most: upper bound.
    """
    return 1 + _count_halvings(size, at_most=at_most - 1)


def count_style_halvings(size: tuple[int, ...], halvings: int, *, spared: int = 0) -> int:
    """Count how often a style image is halved where the content is halved `halvings` times.

    As often, so that strokes stay in proportion, but for the halvings that it is spared because its
    file is smaller than was asked for; and until a side would be shorter than `SMALLEST_SIDE`.

    Args:
      size: (height, width, ...) of the style image, in pixels.
      halvings: how often the content is halved.
      spared: see `Pair.spared`.
    """
    return _count_halvings(size, at_most=max(0, halvings - spared))


def _count_halvings(size: tuple[int, ...], *, at_most: int) -> int:
    counts = range(1, at_most + 1)
    return max((n for n in counts if halve_side(min(size[:2]), n) >= SMALLEST_SIDE), default=0)


class Scale(NamedTuple):
    """A pair's images at one size.

    Attributes:
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_images: one float32[height', width', 3] per style; see `count_style_halvings`.
      regions: regions of these images, or None.
      paint: paint mask, float32[height, width, 1]; None paints everything.
    """

    content_image: Array
    style_images: tuple[Array, ...]
    regions: Regions | None
    paint: Any = None


def make_scale(pair: Pair, halvings: int, *, num_devices: int = 1) -> Scale:
    """Halve a pair's images again and again.

    Args:
      pair: the pair at full size.
      halvings: how often; 0 keeps the size.
      num_devices: number of devices over which the images' rows are sharded.
    """
    content = _halve(pair.content, halvings)
    styles = [
        _halve(style, count_style_halvings(style.shape, halvings, spared=spared))
        for style, spared in zip(pair.styles, pair.spared, strict=True)
    ]
    regions, paint = pair.regions, None
    if regions is not None and halvings:
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


def _resize(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return image if image.shape[:2] == size else resize_image(image, size[0], size[1])


def _halve(image: Array, halvings: int) -> Array:
    return jax.device_put(halve_image(image, halvings)) if halvings else image
