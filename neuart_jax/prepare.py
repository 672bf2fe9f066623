"""From settings and files to a pair that is ready for a run, checked as far as can be."""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from neuart_jax.config import Config
from neuart_jax.errors import InputError
from neuart_jax.images import Picture, load_image
from neuart_jax.pair import Masks, Pair, make_pair
from neuart_jax.params.photographs import BUNDLED_SET
from neuart_jax.params.store import NAMED_WEIGHTS
from neuart_jax.places import check_place, resolve_place
from neuart_jax.resolve import check_sizes, resolve_config
from neuart_jax.sections import ImagesConfig
from neuart_jax.starts import STARTS, check_start


class Prepared(NamedTuple):
    """A run whose pictures are read and whose settings are checked.

    Attributes:
      config: resolved, with absolute paths.
      content: the picture that gives the content.
      styles: the pictures that give the style, at their size in the run.
      pair: what the run is about to work with.
      digests: the files' SHA-256: "content", "style" or "style1", "style2", ..., and the same for
        masks.
    """

    config: Config
    content: Picture
    styles: tuple[Picture, ...]
    pair: Pair
    digests: dict[str, str]


def prepare(config: Config, *, load: Callable[..., Picture] = load_image) -> Prepared:
    """Check all of a run that can be checked without a network, and read its pictures.

    Args:
      config: with `content` and `style` set.
      load: reads a picture; see `images.load_image`.

    Raises:
      InputError: something given can't be used.
    """
    for name in ("content", "style"):
        if not getattr(config.images, name):
            raise InputError(
                f"--{name} is missing",
                expected="two pictures, --content=FILE --style=FILE",
                remedy=f"add --{name}=FILE",
            )
        _check_one(name, getattr(config.images, name))
    config = resolve_run(config)
    images, regions = config.images, config.regions
    content = load(images.content, size=images.size or None, enlarge=images.enlarge)
    styles = [_load_style(load, path, images) for path in images.style]
    files = {
        "content": [content],
        "style": styles,
        # As they are: they are fitted to their pictures where their colors are read.
        "content_mask": [load(path, size=None) for path in (regions.content_mask,) if path],
        "style_mask": [load(path, size=None) for path in regions.style_mask],
    }
    masks = Masks(
        content=next((mask.image for mask in files["content_mask"]), None),
        styles=[mask.image for mask in files["style_mask"]],
    )
    pair = make_pair(config, content.image, [style.image for style in styles], masks=masks)
    check_sizes(pair)
    check_start(config.run.init)
    return Prepared(config, content, tuple(styles), pair, _digests(files))


def _check_one(name: str, given: str | Sequence[str]) -> None:
    """Check that names are those of single files, as far as can be seen."""
    for path in [given] if isinstance(given, str) else given:
        place = check_place(path, name=f"--{name}")
        is_folder = os.path.isdir(place)
        if is_folder or (glob.has_magic(str(place)) and not os.path.lexists(place)):
            raise InputError(
                f"--{name}={path} is a {'folder' if is_folder else 'pattern'}",
                expected="a picture file",
                remedy="name one, or add --pair=cross (or zip) and --output=FOLDER to paint many",
            )


def _load_style(load: Callable[..., Picture], path: str, images: ImagesConfig) -> Picture:
    size = images.style_size or images.size or None
    style = load(path, size=size, enlarge=images.enlarge or images.style_size > 0)
    if images.style_scale == 1:
        return style
    height, width = (max(1, round(side * images.style_scale)) for side in style.image.shape[:2])
    longest = max(load(path, size=None).image.shape[:2])
    if max(height, width) > longest and not images.enlarge:
        raise InputError(
            f"style_scale={images.style_scale:g} wants {path} at {width}x{height} pixels",
            expected=f"at most its own {longest} pixels on the longest side",
            remedy="take a smaller --style_scale or --size, or add --enlarge",
        )
    return load(path, size=max(height, width), enlarge=images.enlarge)


def _digests(files: Mapping[str, Sequence[Picture]]) -> dict[str, str]:
    return {
        name if len(pictures) == 1 else f"{name}{number}": picture.sha256
        for name, pictures in files.items()
        for number, picture in enumerate(pictures, 1)
    }


def resolve_run(config: Config) -> Config:
    """Resolve a configuration, files' names included.

    The record then still means the same files when a run is repeated from elsewhere.

    Raises:
      InputError: see `resolve.resolve_config`.
    """
    config = resolve_config(config)
    paths = {"content": config.images.content}
    if config.run.init not in STARTS:
        paths["init"] = config.run.init
    if config.network.weights not in NAMED_WEIGHTS:
        paths["weights"] = config.network.weights
    if config.network.normalize_weights not in ("", BUNDLED_SET):
        paths["normalize_weights"] = config.network.normalize_weights
    if config.regions.content_mask:
        paths["content_mask"] = config.regions.content_mask
    lists = {"style": config.images.style, "style_mask": config.regions.style_mask}
    return config.replace(
        **{name: resolve_place(path, name=f"--{name}") for name, path in paths.items()},
        **{
            name: [resolve_place(path, name=f"--{name}") for path in several]
            for name, several in lists.items()
        },
    )
