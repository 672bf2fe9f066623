"""From settings and files to a pair that is ready for a run, checked as far as can be."""

import glob
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from neuart_jax.config.config import Config, get_setting
from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import ImagesConfig
from neuart_jax.engine.own_parts import NO_OWN_PARTS, OwnParts
from neuart_jax.engine.plan import Plan, make_plan
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.scales import SMALLEST_SIDE
from neuart_jax.inputs.initial_image import STARTS, check_start
from neuart_jax.inputs.pair import Masks, make_pair
from neuart_jax.io.images import Picture, load_image
from neuart_jax.io.paths import check_place, resolve_place
from neuart_jax.io.picture_lists import list_named_pictures
from neuart_jax.models.params.fitted.photographs import BUNDLED_SET
from neuart_jax.models.params.load import NAMED_WEIGHTS
from neuart_jax.objective.style import StyleTerm
from neuart_jax.runs.destination import check_image_name, check_room_in_file
from neuart_jax.runs.progress_film import check_progress_film

logger = logging.getLogger(__name__)


UNNAMED = "unnamed "
"""What `Prepared.own` begins with where a run's own parts have no label."""


class Prepared(NamedTuple):
    """A run whose pictures are read and whose settings are checked.

    Attributes:
      config: resolved, with absolute paths.
      content: the picture that gives the content.
      styles: the pictures that give the style, at their size in the run.
      plan: what the run is about to do.
      digests: the files' SHA-256: "content", "style" or "style1", "style2", ..., and the same for
        masks; "init" where the start is a file.
      notes: sentences for the user, about the picture's size and its start.
      own: see `Record`.
    """

    config: Config
    content: Picture
    styles: tuple[Picture, ...]
    plan: Plan
    digests: dict[str, str]
    notes: tuple[str, ...] = ()
    own: str = ""


class Given(NamedTuple):
    """What a run is given: its images, read, and its settings, resolved.

    Attributes:
      config: with absolute paths.
      content: the image that gives the content.
      styles: the images that give the style, at their size in the run.
      masks: of all of them.
      digests: as in `Prepared`.
    """

    config: Config
    content: Picture
    styles: tuple[Picture, ...]
    masks: Masks
    digests: dict[str, str]


def prepare(
    config: Config,
    *,
    load: Callable[..., Picture] = load_image,
    own: OwnParts = NO_OWN_PARTS,
    label: str = "",
) -> Prepared:
    """Check all of a run that can be checked without a network, and read its pictures.

    Args:
      config: with `content` and `style` set.
      load: reads a picture; see `images.load_image`.
      own: what of the run isn't in its configuration.
      label: names these parts; without one each run's are others.

    Raises:
      InputError: something given can't be used.
    """
    check_given(config)
    _check_content(config.images.content)
    check_image_name(config.output.image_name)
    given = read_given(config, load=load, check_names=own.network is None)
    height, width, _ = given.content.image.shape
    check_room_in_file(config.output.image_name, height=height, width=width)
    check_progress_film(config.output, height=height, width=width)
    styles = [style.image for style in given.styles]
    pair = make_pair(given.config, given.content.image, styles, masks=given.masks)
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
    """Check that there is something to paint, and something to begin with.

    Raises:
      InputError: there isn't.
    """
    for name in ("content", "style"):
        if not getattr(config.images, name):
            raise InputError(
                f"--{name} is missing",
                expected="two pictures, --content=FILE --style=FILE",
                remedy=f"add --{name}=FILE",
            )
    check_start(config.run.init)


def read_given(
    config: Config, *, load: Callable[..., Picture] = load_image, check_names: bool = True
) -> Given:
    """Resolve a run's settings and read its images.

    Args:
      config: see `check_given`.
      load: reads an image; see `images.load_image`.
      check_names: see `resolution.resolve_config`.

    Raises:
      InputError: a setting or a file can't be used.
    """
    config = resolve_run(_list_files(config), check_names=check_names)
    images, regions = config.images, config.regions
    content = load(images.content, size=images.size or None, enlarge=images.enlarge)
    # Masks are of whole pictures.
    trim = not regions.style_mask
    styles = [_load_style(load, path, images, trim=trim) for path in images.style]
    files = {
        "content": [content],
        "style": styles,
        # As they are: they are fitted to their pictures where their colors are read.
        "content_mask": [load(path, size=None) for path in (regions.content_mask,) if path],
        "style_mask": [load(path, size=None) for path in regions.style_mask],
        "paint_mask": [load(path, size=None) for path in (regions.paint_mask,) if path],
        "init": [load(init, size=None) for init in (config.run.init,) if init not in STARTS],
    }
    masks = Masks(
        content=next((mask.image for mask in files["content_mask"]), None),
        styles=[mask.image for mask in files["style_mask"]],
        opacities=[style.alpha for style in styles],
        paint=next(map(show_over_black, files["paint_mask"]), None),
    )
    return Given(config, content, tuple(styles), masks, _digests(files))


def _note_size(config: Config, content: Picture) -> Iterator[str]:
    """Say where a picture doesn't come out as large as somebody may expect."""
    size, (height, width) = config.images.size, content.file_size
    painted = f"{content.image.shape[1]}x{content.image.shape[0]}"
    if 0 < size < max(height, width):
        yield (
            f"Painting at {painted} pixels; the content picture has {width}x{height}, which "
            "--size=0 keeps."
        )
    elif size > max(content.image.shape[:2]):
        yield (
            f"Painting at {painted} pixels, which is all that the content picture has; --enlarge "
            f"paints it at --size={size}."
        )


def _note_scales(given: Config, plan: Plan) -> Iterator[str]:
    wanted, sizes = given.run.scales, {stage.size for stage in plan.stages}
    if wanted is not None and len(sizes) < wanted:
        yield (
            f"--scales={wanted} comes to {len(sizes)} here: at half of the smallest size a side "
            f"would be shorter than {SMALLEST_SIDE} pixels."
        )


def _name_own(own: OwnParts, label: str) -> str:
    """Name a run's own parts, whose code may change without anybody telling."""
    if own.is_empty:
        return ""
    if not label:
        return UNNAMED + secrets.token_hex(8)
    # What can be compared is, beside the label.
    terms = [
        f"{term.name} {term.weight:g}"
        + (f" on {dict(term.layer_weights)}" if isinstance(term, StyleTerm) else "")
        for term in own.terms
    ]
    return f"{label} ({', '.join(terms)})" if terms else label


def _note_start(config: Config) -> Iterator[str]:
    if config.run.init not in STARTS and config.run.scales is None:
        yield (
            f"Going on from {config.run.init} at full size only; --scales=2 begins at a coarser "
            "one."
        )


def _note_video(config: Config) -> Iterator[str]:
    """Say which settings play no part, since they are those of clips."""
    usual = Config().video.__dict__
    changed = [name for name, value in config.video.__dict__.items() if value != usual[name]]
    if changed:
        flags = ", ".join(f"--{name}" for name in changed)
        verb = "plays" if len(changed) == 1 else "play"
        yield f"{flags} {verb} no part: the content is an image and no clip."


def _check_content(path: str) -> None:
    """Check that a name is that of a single file, as far as can be seen."""
    place = check_place(path, name="--content")
    if os.path.lexists(place) and not place.is_dir():
        return
    kind = "a folder" if place.is_dir() else "a pattern" if glob.has_magic(str(place)) else ""
    parts = [check_place(part.strip(), name="--content") for part in path.split(",")]
    if len(parts) > 1 and any(os.path.lexists(part) for part in parts):
        kind = f"{len(parts)} pictures"
    if kind:
        raise InputError(
            f"--content={path} is {kind}",
            expected="a picture file",
            remedy="name one, or add --pair=cross (or zip) and --output=FOLDER to paint the "
            "pictures of a folder or of a pattern",
        )


def _list_files(config: Config) -> Config:
    """Replace folders and patterns, given as styles and their masks, by their files."""
    lists = {"style": config.images.style, "style_mask": config.regions.style_mask}
    found = {}
    for name, texts in lists.items():
        found[name] = [
            file for text in texts for file in list_named_pictures(text, name=f"--{name}")
        ]
        if len(found[name]) > len(texts):
            logger.info("--%s names %d pictures, which are taken together.", name, len(found[name]))
    return config.replace(**found)


def _load_style(
    load: Callable[..., Picture], path: str, images: ImagesConfig, *, trim: bool
) -> Picture:
    size = images.style_size or images.size or None
    style = load(path, size=size, enlarge=images.enlarge or images.style_size > 0, trim=trim)
    if images.style_scale == 1:
        return style
    height, width = (max(1, round(side * images.style_scale)) for side in style.image.shape[:2])
    longest = max(load(path, size=None, trim=trim).image.shape[:2])
    if max(height, width) > longest and not images.enlarge:
        raise InputError(
            f"style_scale={images.style_scale:g} wants {path} at {width}x{height} pixels",
            expected=f"at most its own {longest} pixels on the longest side",
            remedy="take a smaller --style_scale or --size, or add --enlarge",
        )
    return load(path, size=max(height, width), enlarge=images.enlarge, trim=trim)


def show_over_black(mask: Picture) -> npt.NDArray[np.float32]:
    """Return a mask's picture where nothing is white only for want of a color."""
    if mask.alpha is None:
        return mask.image
    return np.clip(mask.image - (1 - mask.alpha[..., None]), 0, 1)


def _digests(files: Mapping[str, Sequence[Picture]]) -> dict[str, str]:
    return {
        name if len(pictures) == 1 else f"{name}{number}": picture.sha256
        for name, pictures in files.items()
        for number, picture in enumerate(pictures, 1)
    }


def resolve_run(config: Config, *, check_names: bool = True) -> Config:
    """Resolve a configuration, files' names included.

    The record then still means the same files when a run is repeated from elsewhere.

    Args:
      config: as given.
      check_names: see `resolution.resolve_config`.

    Raises:
      InputError: see `plan.resolve_config`.
    """
    config = resolve_config(config, check_names=check_names)
    return _change_paths(config, lambda path, name: resolve_place(path, name=f"--{name}"))


def without_folders(config: Config) -> Config:
    """Leave of all files' names, in a resolved configuration, only the last part."""
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
