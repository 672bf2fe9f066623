"""One run from files to files: what the command line does, for programs."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neuart_jax.config import Config
from neuart_jax.errors import InputError
from neuart_jax.images import Picture, load_image
from neuart_jax.loop import Callback, Progress, Result
from neuart_jax.memory import predict_memory
from neuart_jax.objective import make_terms
from neuart_jax.output import RunFolder, default_folder
from neuart_jax.params.photographs import BUNDLED_SET
from neuart_jax.params.store import NAMED_WEIGHTS, Network, narrow_network
from neuart_jax.record import Record
from neuart_jax.resolve import check_sizes, resolve_config, run_layers
from neuart_jax.starts import STARTS, check_start
from neuart_jax.stylize import load_run_network, stylize

logger = logging.getLogger(__name__)


class Transfer(NamedTuple):
    """A finished run.

    Attributes:
      result: what it gave.
      image_path: the picture's file.
    """

    result: Result
    image_path: Path


class Prepared(NamedTuple):
    """A run whose pictures are read and whose settings are checked.

    Attributes:
      config: resolved, with absolute paths.
      content: the picture that gives the content.
      styles: the pictures that give the style, at least one.
    """

    config: Config
    content: Picture
    styles: tuple[Picture, ...]

    @property
    def style_images(self) -> list[np.ndarray]:
        """Every style as float32[height, width, 3]."""
        return [style.image for style in self.styles]

    @property
    def digests(self) -> dict[str, str]:
        """The files' SHA-256: "content", and "style" or "style1", "style2", ..."""
        digests = [style.sha256 for style in self.styles]
        names = [f"style{n}" for n in range(1, len(digests) + 1)] if digests[1:] else ["style"]
        return {"content": self.content.sha256, **dict(zip(names, digests, strict=True))}


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
    config = resolve_run(config)
    images = config.images
    size = images.size or None
    content = load(images.content, size=size, enlarge=images.enlarge)
    styles = tuple(load(path, size=size, enlarge=images.enlarge) for path in images.style)
    prepared = Prepared(config, content, styles)
    check_sizes(config, content.image, prepared.style_images)
    check_start(config.run.init)
    return prepared


def transfer(
    config: Config,
    *,
    network: Network | None = None,
    callback: Callback | None = None,
    repeated: Record | None = None,
) -> Transfer:
    """Read both pictures, stylize, and write the run's folder.

    Args:
      config: with `content` and `style` set.
      network: loaded beforehand as `config.network` says, for these pictures and for at least the
        layers of `config`; the record names only what these layers use. None loads it, and logs
        as one line (level INFO) which weights it has.
      callback: called with a `Progress` after every chunk; returning True stops the run, and the
        best picture so far is written.
      repeated: the record that this run repeats; what is not the same is logged.

    Raises:
      InputError: something given can't be used, or the folder can't be written.
    """
    prepared = prepare(config)
    config, content, style_images = prepared.config, prepared.content, prepared.style_images
    images, output = config.images, config.output
    path = Path(output.output) if output.output else default_folder(images.content, *images.style)
    folder = RunFolder(path, image_name=output.image_name, overwrite=output.overwrite)
    if network is None:
        network = load_run_network(config, content.image, style_images)
        logger.info(network.message)
    else:
        network = narrow_network(network, config.network, layers=run_layers(config))
    height, width = content.image.shape[:2]
    record = Record.of_this_run(
        config,
        weights=network.identity,
        inputs=prepared.digests,
        predicted_bytes=predict_memory(
            config, run_layers(config), height=height, width=width
        ).total,
    )
    if repeated is not None and (differences := record.differences(repeated)):
        logger.warning(
            "Pixels may differ: the record was made with other %s.", ", ".join(differences)
        )

    def report(progress: Progress) -> bool | None:
        folder.report(progress)
        steps = progress.num_steps
        is_multiple = output.save_every and steps % output.save_every == 0
        if is_multiple or steps in output.save_at:
            folder.save_frame(progress)
        return callback(progress) if callback else None

    result = stylize(content.image, style_images, config, network=network, callback=report)
    terms = make_terms(config.losses, num_styles=len(style_images))
    folder.save(
        result,
        record,
        coefficients={term.name: term.weight for term in terms},
        alpha=content.alpha,
    )
    return Transfer(result, folder.image_path)


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
    absolute = {name: str(Path(path).expanduser().resolve()) for name, path in paths.items()}
    styles = [str(Path(path).expanduser().resolve()) for path in config.images.style]
    return config.replace(style=styles, **absolute)
