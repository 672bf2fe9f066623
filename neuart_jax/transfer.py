"""One run from files to files: what the command line does, for programs."""

import logging
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config import Config
from neuart_jax.errors import InputError
from neuart_jax.images import load_image
from neuart_jax.loop import Callback, Progress, Result
from neuart_jax.objective import make_terms
from neuart_jax.output import RunFolder, default_folder
from neuart_jax.params.photographs import BUNDLED_SET
from neuart_jax.params.store import NAMED_WEIGHTS
from neuart_jax.record import Record
from neuart_jax.starts import STARTS, check_start
from neuart_jax.stylize import check_sizes, load_run_network, resolve_config, stylize

logger = logging.getLogger(__name__)


class Transfer(NamedTuple):
    """A finished run.

    Attributes:
      result: what it gave.
      image_path: the picture's file.
    """

    result: Result
    image_path: Path


def transfer(
    config: Config,
    *,
    callback: Callback | None = None,
    repeated: Record | None = None,
) -> Transfer:
    """Read both pictures, stylize, and write the run's folder.

    Which weights are used is logged as one line (level INFO).

    Args:
      config: with `content` and `style` set.
      callback: called with a `Progress` after every chunk; returning True stops the run, and the
        best picture so far is written.
      repeated: the record that this run repeats; what is not the same is logged.

    Raises:
      InputError: something given can't be used, or the folder can't be written.
    """
    for name in ("content", "style"):
        if not getattr(config.images, name):
            raise InputError(
                f"--{name} is missing",
                expected="two pictures, --content=FILE --style=FILE",
                remedy=f"add --{name}=FILE",
            )
    config = _with_absolute_paths(resolve_config(config))
    images = config.images
    size = images.size or None
    content = load_image(images.content, size=size, enlarge=images.enlarge)
    styles = [load_image(path, size=size, enlarge=images.enlarge) for path in images.style]
    style_images = [style.image for style in styles]
    check_sizes(config, content.image, style_images)
    check_start(config.run.init)

    output = config.output
    path = Path(output.output) if output.output else default_folder(images.content, *images.style)
    folder = RunFolder(path, image_name=output.image_name, overwrite=output.overwrite)
    network = load_run_network(config, content.image, style_images)
    logger.info(network.message)
    record = Record.of_this_run(
        config,
        weights=network.identity,
        inputs={"content": content.sha256, **_name_styles([style.sha256 for style in styles])},
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
    terms = make_terms(config.losses, num_styles=len(styles))
    folder.save(
        result,
        record,
        coefficients={term.name: term.weight for term in terms},
        alpha=content.alpha,
    )
    return Transfer(result, folder.image_path)


def _with_absolute_paths(config: Config) -> Config:
    """Name every file so that the record still means it when a run is repeated from elsewhere."""
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


def _name_styles(digests: list[str]) -> dict[str, str]:
    if len(digests) == 1:
        return {"style": digests[0]}
    return {f"style{number}": digest for number, digest in enumerate(digests, 1)}
