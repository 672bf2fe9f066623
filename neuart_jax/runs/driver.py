"""A run from files to files: the command line's function, for use in programs."""

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import optax

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import OutputConfig
from neuart_jax.engine.own_parts import FeatureNetwork, Parametrization, read_own_parts
from neuart_jax.engine.profiling import phase
from neuart_jax.engine.result import Callback, Result
from neuart_jax.engine.sharding import describe_devices, writes_files
from neuart_jax.io.images import load_image
from neuart_jax.io.paths import check_place
from neuart_jax.models.params.load import Network, settle_network
from neuart_jax.objective.style import StyleTerm
from neuart_jax.objective.term import Term
from neuart_jax.optimizers.base import Optimizer
from neuart_jax.runs.checkpoints import read_owners
from neuart_jax.runs.destination import Destination, find_destination
from neuart_jax.runs.finished import find_finished, was_cut
from neuart_jax.runs.folder import CHECKPOINTS, default_folders
from neuart_jax.runs.more_steps import ask_for_more_steps
from neuart_jax.runs.own_folder import is_in_use
from neuart_jax.runs.painting import paint
from neuart_jax.runs.prepare import Prepared, list_files, prepare
from neuart_jax.runs.record import RECORD_NAME, Record

logger = logging.getLogger(__name__)


class Transfer(NamedTuple):
    """A finished run.

    Attributes:
      result: result of the run.
      image_path: path of the image.
    """

    result: Result
    image_path: Path


def transfer(
    config: Config,
    *,
    network: Network | FeatureNetwork | None = None,
    extra_terms: Sequence[Term | StyleTerm] = (),
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    parametrization: Parametrization | None = None,
    label: str = "",
    callback: Callback | None = None,
    repeated: Record | None = None,
) -> Transfer:
    """Read both images, stylize, and write the run's folder.

    A run that was interrupted by a signal or a crash is resumed at its last checkpoint, and ends
    with the same image as without the interruption; see `OutputConfig.resume`.

    Args:
      config: configuration with `content` and `style` set.
      network: network loaded for `config.network`, for these images and for at least the layers of
        `config`; the record only names what these layers use. None loads the network, and logs one
        line (level INFO) that describes its weights. Or a custom network, as in `stylize`.
      extra_terms: additional losses; see `stylize`.
      optimizer: optimizer to use instead of that of `config.optimizer`; see `stylize`.
      parametrization: parametrization of the image; see `stylize`.
      label: name of the custom parts in the record. As code can't be compared, a run with custom
        parts is resumed, and a finished result reused, only if the label is the same. Without a
        label, every run starts from the beginning.
      callback: called with a `Progress` after every chunk; returning True stops the run, and the
        best image so far is written, with a checkpoint beside it.
      repeated: the record that this run repeats; differences are logged.

    Returns:
      The result and the path of the image.

    Raises:
      InputError: an argument is invalid, or the folder can't be written.
    """
    destination = find_destination(config.output)
    config = config.replace(output=destination.folder)
    if destination.image_path is not None:
        config = config.replace(image_name=destination.image_path.name)
        _check_free(destination.image_path, config.output)
    # Before any download, so that bad input is refused early. Each file is read only once.
    own = read_own_parts(
        network=network,
        extra_terms=extra_terms,
        optimizer=optimizer,
        parametrization=parametrization,
    )
    read = functools.partial(
        prepare, load=functools.lru_cache(maxsize=None)(load_image), own=own, label=label
    )
    # It may be read again, with settings that follow from the weights.
    config = list_files(config)
    prepared, reason = read(config), ""
    if own.network is not None:
        found = config.network
    elif isinstance(network, Network):
        found = network.config
    else:
        with phase("weights"):
            found, reason = settle_network(config.network)
    if (found.model, found.weights) != (config.network.model, config.network.weights):
        # Other settings left empty may depend on the resolved model and weights.
        config = config.replace(model=found.model, weights=found.weights)
        prepared = read(config)
    folder = _choose_folder(prepared)
    if longer := ask_for_more_steps(config, prepared, folder):
        prepared = read(longer)
    _put_image_again(destination, prepared, folder)
    for note in (*prepared.notes, f"Computing on {describe_devices()}."):
        logger.info(note)
    painted = paint(
        [prepared],
        [folder],
        network=network,
        reason=reason,
        checkpoints=folder / CHECKPOINTS,
        callback=None if callback is None else lambda _, progress: callback(progress),
        repeated=repeated,
    )
    [image_path], [result] = painted.save(), painted.results
    if writes_files():
        image_path = destination.put_image(image_path)
    return Transfer(result, image_path)


def _put_image_again(destination: Destination, prepared: Prepared, folder: Path) -> None:
    """Copy a finished run's image to its destination, if a kill or a full disk prevented that."""
    image_path = destination.image_path
    if image_path is None or os.path.lexists(image_path) or prepared.config.output.overwrite:
        return
    if writes_files() and find_finished(folder, prepared, overwrite=True) is not None:
        destination.put_image(folder / image_path.name)
        logger.info("%s has been restored from %s.", image_path, folder)


def _check_free(image_path: Path, output: OutputConfig) -> None:
    folder = Path(output.output)
    # If the folder has a record or checkpoints, whether to overwrite is decided there.
    if (folder / RECORD_NAME).exists() or was_cut(folder, output):
        return
    if os.path.lexists(image_path) and not output.overwrite:
        raise InputError(
            f"--output={image_path} exists already",
            expected="an unused name",
            remedy="give another --output, or add --overwrite",
        )


def _choose_folder(prepared: Prepared) -> Path:
    """Return --output, or the first default folder that is unused or has this run, interrupted."""
    output, images = prepared.config.output, prepared.config.images
    place = check_place(output.output or ".", name="--output")
    if output.output:
        return place
    record = Record(prepared.config, inputs=prepared.digests, own=prepared.own)
    for folder in default_folders(images.content, *images.style):
        if not folder.exists():
            break
        if was_cut(folder, output) and not is_in_use(folder):
            owners = read_owners(folder / CHECKPOINTS)
            if len(owners) == 1 and not record.unlike(owners[0]):
                break
    return folder
