"""The initial image of a run."""

import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest
from neuart_jax.config.sections import RunConfig
from neuart_jax.io.images import fill_resize, load_image
from neuart_jax.io.paths import check_place
from neuart_jax.models.params.catalog import CAFFE

STARTS = ("content", "style", "noise", "blend", "gray")
"""Values of `init` other than the name of an image file."""


# Names in other programs.
_OTHER_NAMES = {"random": "noise", "image": "content", "white_noise": "noise"}
_CENTERS = {"gray": (0.5, 0.5, 0.5), "imagenet": CAFFE[0]}


def make_noise(
    key: Array,
    shape: tuple[int, ...],
    *,
    scale: float,
    kind: str = "gaussian",
    center: str = "gray",
) -> Array:
    """Sample a noise image, float32[shape], clipped to [0, 1].

    Args:
      key: random key.
      shape: shape of the image.
      scale: standard deviation ("gaussian") or half the width ("uniform") before clipping, where
        white is 1.
      kind: "gaussian" or "uniform".
      center: "gray" or "imagenet", the mean pixel of ImageNet.
    """
    draws = {
        "gaussian": lambda: jax.random.normal(key, shape),
        "uniform": lambda: jax.random.uniform(key, shape, minval=-1, maxval=1),
    }
    middle = jnp.asarray(_CENTERS[center], jnp.float32).reshape(1, 1, 3)
    return jnp.clip(middle + scale * draws[kind](), 0, 1)


def check_start(init: str) -> None:
    """Check that `init` is a known kind of initial image or an existing file.

    Raises:
      InputError: `init` is neither.
    """
    if init not in STARTS and not check_place(init, name="--init").exists():
        ours = _OTHER_NAMES.get(init)
        raise InputError(
            f"--init={init} is neither a kind of initial image nor a file",
            expected=", ".join(STARTS) + ", or an image file",
            remedy=f"write --init={ours}" if ours else f"did you mean {nearest(init, STARTS)}",
        )


def make_start(config: RunConfig, *, content_image: Array, style_image: Array) -> Array:
    """Build the initial image that `config.init` names, at the content's size.

    A style image or a file of another size is scaled to cover the content's size and cropped
    evenly. "blend" is noise_ratio * noise + (1 - noise_ratio) * content.

    Args:
      config: kind of initial image, noise and seed.
      content_image: float32[height, width, 3], sRGB in [0, 1].
      style_image: float32[height', width', 3], sRGB in [0, 1].

    Returns:
      float32[height, width, 3], sRGB in [0, 1].

    Raises:
      InputError: `init` is neither a known kind of initial image nor a readable image file.
    """
    shape = content_image.shape
    if config.init == "content":
        return jnp.asarray(content_image)
    if config.init == "style":
        return jnp.asarray(fill_resize(style_image, *shape[:2]))
    if config.init == "gray":
        return jnp.full(shape, 0.5, jnp.float32)
    if config.init in ("noise", "blend"):
        noise = make_noise(
            jax.random.key(config.seed),
            shape,
            scale=config.noise_scale,
            kind=config.noise,
            center=config.noise_center,
        )
        ratio = config.noise_ratio if config.init == "blend" else 1.0
        return ratio * noise + (1 - ratio) * content_image
    check_start(config.init)
    return jnp.asarray(
        fill_resize(load_image(check_place(config.init, name="--init")).image, *shape[:2])
    )
