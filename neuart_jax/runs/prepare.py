"""Prepare a run: resolve and check its settings, and read its files."""

import glob
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.config import Config, get_setting
from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import ImagesConfig
from neuart_jax.engine.own_parts import NO_OWN_PARTS, OwnParts
from neuart_jax.engine.plan import Plan, make_plan
from neuart_jax.engine.profiling import phase
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.scales import SMALLEST_SIDE
from neuart_jax.inputs.initial_image import STARTS, check_start
from neuart_jax.inputs.pair import Masks, make_pair
from neuart_jax.io.image_lists import list_named_images
from neuart_jax.io.images import LoadedImage, load_image, show_over_black
from neuart_jax.io.paths import check_place, resolve_place
from neuart_jax.models.params.fitted.photographs import BUNDLED_SET
from neuart_jax.models.params.load import NAMED_WEIGHTS
from neuart_jax.objective.style import StyleTerm
from neuart_jax.runs.destination import check_image_name, check_room_in_file
from neuart_jax.runs.progress_film import check_progress_film

logger = logging.getLogger(__name__)


UNNAMED = "unnamed "
"""Prefix of `Prepared.own` for custom parts without a label."""


class Prepared(NamedTuple):
    """A run whose images are read and whose settings are checked.

    Attributes:
      config: resolved configuration, with absolute paths.
      content: the content image.
      styles: the style images, at their size in the run.
      plan: plan of the run.
      digests: SHA-256 of the files: "content", "style" or "style1", "style2", ..., masks in the
        same way, and "init" for an initial image from a file.
      notes: sentences for the user about the image's size and the initial image.
      own: identity of the custom parts; see `Record`.
    """

    config: Config
    content: LoadedImage
    styles: tuple[LoadedImage, ...]
    plan: Plan
    digests: dict[str, str]
    notes: tuple[str, ...] = ()
    own: str = ""


class Given(NamedTuple):
    """The images of a run, loaded, with the resolved settings.

    Attributes:
      config: resolved configuration, with absolute paths.
      content: the content image.
      styles: the style images, at their size in the run.
      masks: masks of all these images.
      digests: as in `Prepared`.
    """

    config: Config
    content: LoadedImage
    styles: tuple[LoadedImage, ...]
    masks: Masks
    digests: dict[str, str]

    @property
    def spared(self) -> tuple[int, ...]:
        """For every style, how many halvings it is spared; see `pair.Pair`.

        Painted at 2048 pixels with a painting of 1024, the content is halved three times and the
        painting twice, so that both come to 256 pixels at the coarsest scale, as if painted at 512.
        """
        images = self.config.images
        wanted = (images.style_size or max(self.content.image.shape)) * images.style_scale
        # A tiled style is as large as the content.
        sizes = [wanted if images.style_tile else max(s.image.shape) for s in self.styles]
        return tuple(max(0, math.floor(math.log2(wanted / size))) for size in sizes)


@phase("input")
def prepare(
    config: Config,
    *,
    load: Callable[..., LoadedImage] = load_image,
    own: OwnParts = NO_OWN_PARTS,
    label: str = "",
) -> Prepared:
    """Check everything about a run that needs no network, and read its images.

    Args:
      config: configuration with `content` and `style` set.
      load: loads an image; see `images.load_image`.
      own: custom parts, which aren't in the configuration.
      label: name of the custom parts; without one, they differ from those of any other run.

    Raises:
      InputError: an argument is invalid.
    """
    check_given(config)
    _check_content(config.images.content)
    check_image_name(config.output.image_name)
    given = read_given(config, load=load, check_names=own.network is None)
    height, width, _ = given.content.image.shape
    check_room_in_file(config.output.image_name, height=height, width=width)
    check_progress_film(config.output, height=height, width=width)
    styles = [style.image for style in given.styles]
    pair = make_pair(
        given.config, given.content.image, styles, masks=given.masks, spared=given.spared
    )
    plan = make_plan(pair, own)
    notes = (
        *_note_size(given.config, given.content),
        *_note_start(config),
        *_note_video(config),
        *_note_scales(config, plan),
    )
    return Prepared(
        plan.config, given.content, given.styles, plan, given.digests, notes, _name_own(own, label)
    )


def check_given(config: Config) -> None:
    """Check that a configuration names a content, a style and a valid initial image.

    Args:
      config: configuration as given.

    Raises:
      InputError: one of them is missing or invalid.
    """
    for name in ("content", "style"):
        if not getattr(config.images, name):
            raise InputError(
                f"--{name} is missing",
                expected="two images, --content=FILE --style=FILE",
                remedy=f"add --{name}=FILE",
            )
    check_start(config.run.init)


def read_given(
    config: Config, *, load: Callable[..., LoadedImage] = load_image, check_names: bool = True
) -> Given:
    """Resolve a run's settings and load its images.

    Args:
      config: configuration that `check_given` accepts.
      load: loads an image; see `images.load_image`.
      check_names: see `resolution.resolve_config`.

    Raises:
      InputError: a setting or a file can't be used.
    """
    config = resolve_run(list_files(config), check_names=check_names)
    images, regions = config.images, config.regions
    content = load(images.content, size=images.size or None, enlarge=images.enlarge)
    # Masks refer to the untrimmed images.
    trim = not regions.style_mask
    styles = [_load_style(load, path, images, trim=trim) for path in images.style]
    files = {
        "content": [content],
        "style": styles,
        # Unscaled: masks are scaled to their images after their colors are read.
        "content_mask": [load(path, size=None) for path in (regions.content_mask,) if path],
        "style_mask": [load(path, size=None) for path in regions.style_mask],
        "paint_mask": [load(path, size=None) for path in (regions.paint_mask,) if path],
        "init": [load(init, size=None) for init in (config.run.init,) if init not in STARTS],
    }
    masks = Masks(
        content=next((mask.image for mask in files["content_mask"]), None),
        styles=[mask.image for mask in files["style_mask"]],
        opacities=[style.alpha for style in styles],
        paint=next((show_over_black(mask.image, mask.alpha) for mask in files["paint_mask"]), None),
    )
    return Given(config, content, tuple(styles), masks, _digests(files))


def _note_size(config: Config, content: LoadedImage) -> Iterator[str]:
    """Yield notes on results that are smaller than the user may expect."""
    size, (height, width) = config.images.size, content.file_size
    painted = f"{content.image.shape[1]}x{content.image.shape[0]}"
    if 0 < size < max(height, width):
        yield (
            f"Painting at {painted} pixels; the content image has {width}x{height}, which "
            "--size=0 keeps."
        )
    elif size > max(content.image.shape[:2]):
        yield (
            f"Painting at {painted} pixels, which is all that the content image has; --enlarge "
            f"paints it at --size={size}."
        )


def _note_scales(given: Config, plan: Plan) -> Iterator[str]:
    wanted, sizes = given.run.scales, {stage.size for stage in plan.stages}
    if wanted is not None and len(sizes) < wanted:
        yield (
            f"--scales={wanted} is reduced to {len(sizes)} here: at half of the smallest size, a "
            f"side would be shorter than {SMALLEST_SIDE} pixels."
        )


def _name_own(own: OwnParts, label: str) -> str:
    """Return the identity of custom parts, whose code can't be compared."""
    if own.is_empty:
        return ""
    if not label:
        return UNNAMED + secrets.token_hex(8)
    # Weights and layers can be compared, in addition to the label.
    terms = [
        f"{term.name} {term.weight:g}"
        + (f" on {dict(term.layer_weights)}" if isinstance(term, StyleTerm) else "")
        for term in own.terms
    ]
    return f"{label} ({', '.join(terms)})" if terms else label


def _note_start(config: Config) -> Iterator[str]:
    if config.run.init not in STARTS and config.run.scales is None:
        yield (
            f"Continuing from {config.run.init} at full size only; --scales=2 starts at a coarser "
            "one."
        )


def _note_video(config: Config) -> Iterator[str]:
    """Yield a note on settings of clips, which have no effect on images."""
    usual = Config().video.__dict__
    changed = [name for name, value in config.video.__dict__.items() if value != usual[name]]
    if changed:
        flags = ", ".join(f"--{name}" for name in changed)
        verb = "plays" if len(changed) == 1 else "play"
        yield f"{flags} {verb} no part: the content is an image and no clip."


def _check_content(path: str) -> None:
    """Check that a name looks like that of a single file."""
    place = check_place(path, name="--content")
    if os.path.lexists(place) and not place.is_dir():
        return
    kind = "a folder" if place.is_dir() else "a pattern" if glob.has_magic(str(place)) else ""
    parts = [check_place(part.strip(), name="--content") for part in path.split(",")]
    if len(parts) > 1 and any(os.path.lexists(part) for part in parts):
        kind = f"{len(parts)} images"
    if kind:
        raise InputError(
            f"--content={path} is {kind}",
            expected="an image file",
            remedy="name one, or add --pair=cross (or zip) and --output=FOLDER to paint the "
            "images of a folder or a pattern",
        )


def list_files(config: Config) -> Config:
    """Replace folders and patterns in the styles and their masks by their files.

    What they stand for is logged; doing it again changes and logs nothing.

    Raises:
      InputError: one of them names no image.
    """
    lists = {"style": config.images.style, "style_mask": config.regions.style_mask}
    found = {}
    for name, texts in lists.items():
        found[name] = [file for text in texts for file in list_named_images(text, name=f"--{name}")]
        if len(found[name]) > len(texts):
            logger.info("--%s names %d images, which are used together.", name, len(found[name]))
    return config.replace(**found)


def _load_style(
    load: Callable[..., LoadedImage], path: str, images: ImagesConfig, *, trim: bool
) -> LoadedImage:
    size = images.style_size or images.size or None
    style = load(path, size=size, enlarge=images.enlarge or images.style_size > 0, trim=trim)
    if images.style_scale == 1:
        return style
    height, width = (max(1, round(side * images.style_scale)) for side in style.image.shape[:2])
    longest = max(load(path, size=None, trim=trim).image.shape[:2])
    if max(height, width) > longest and not images.enlarge:
        raise InputError(
            f"style_scale={images.style_scale:g} needs {path} at {width}x{height} pixels",
            expected=f"at most its own {longest} pixels on the longest side",
            remedy="use a smaller --style_scale or --size, or add --enlarge",
        )
    return load(path, size=max(height, width), enlarge=images.enlarge, trim=trim)


def _digests(files: Mapping[str, Sequence[LoadedImage]]) -> dict[str, str]:
    return {
        name if len(images) == 1 else f"{name}{number}": image.sha256
        for name, images in files.items()
        for number, image in enumerate(images, 1)
    }


def resolve_run(config: Config, *, check_names: bool = True) -> Config:
    """Resolve a configuration, including file names.

    With absolute paths, the record refers to the same files when a run is repeated from another
    folder.

    Args:
      config: the configuration as given.
      check_names: see `resolution.resolve_config`.

    Raises:
      InputError: see `resolution.resolve_config`.
    """
    config = resolve_config(config, check_names=check_names)
    return _change_paths(config, lambda path, name: resolve_place(path, name=f"--{name}"))


def without_folders(config: Config) -> Config:
    """Return a resolved configuration with file names instead of paths."""
    config = _change_paths(config, lambda path, _: Path(path).name)
    names = {name: Path(get_setting(config, name)).name for name in ("output", "weights_dir")}
    return config.replace(**names)


def _change_paths(config: Config, change: Callable[[str, str], str]) -> Config:
    paths = {"content": config.images.content}
    if config.run.init not in STARTS:
        paths["init"] = config.run.init
    if config.network.weights not in NAMED_WEIGHTS:
        paths["weights"] = config.network.weights
    if config.network.normalize_weights not in ("", BUNDLED_SET):
        paths["normalize_weights"] = config.network.normalize_weights
    for name in ("content_mask", "paint_mask"):
        if path := getattr(config.regions, name):
            paths[name] = path
    lists = {"style": config.images.style, "style_mask": config.regions.style_mask}
    return config.replace(
        **{name: change(path, name) for name, path in paths.items()},
        **{name: [change(path, name) for path in several] for name, several in lists.items()},
    )
