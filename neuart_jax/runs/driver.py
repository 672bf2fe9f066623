"""Runs from files to files: what the command line does, for programs."""

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
from neuart_jax.runs.prepare import Prepared, prepare
from neuart_jax.runs.record import RECORD_NAME, Record

logger = logging.getLogger(__name__)


class Transfer(NamedTuple):
    """A finished run.

    Attributes:
      result: what it gave.
      image_path: the image's file.
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

    A run that was cut, by a signal or a crash, goes on at its last checkpoint and ends with the
    image that it would have ended with; see `OutputConfig.resume`.

    Args:
      config: with `content` and `style` set.
      network: loaded beforehand as `config.network` says, for these images and for at least the
        layers of `config`; the record names only what these layers use. None loads it, and logs
        as one line (level INFO) which weights it has. Or a network of one's own.
      extra_terms: losses of one's own, as in `stylize`.
      optimizer: instead of the one that `config.optimizer` names, as in `stylize`.
      parametrization: of the image, as in `stylize`.
      label: names the parts of one's own in the record. A run that was cut goes on, and a finished
        one isn't painted again, only where the label is the same: code can't be compared. Without
        a label every run begins anew.
      callback: called with a `Progress` after every chunk; returning True stops the run, and the
        best image so far is written, with a checkpoint beside it.
      repeated: the record that this run repeats; what is not the same is logged.

    Raises:
      InputError: something given can't be used, or the folder can't be written.
    """
    destination = find_destination(config.output)
    config = config.replace(output=destination.folder)
    if destination.image_path is not None:
        config = config.replace(image_name=destination.image_path.name)
        _check_free(destination.image_path, config.output)
    # Before anything is downloaded, so that what can be refused is; and each file is read once.
    own = read_own_parts(
        network=network,
        extra_terms=extra_terms,
        optimizer=optimizer,
        parametrization=parametrization,
    )
    read = functools.partial(
        prepare, load=functools.lru_cache(maxsize=None)(load_image), own=own, label=label
    )
    prepared, reason = read(config), ""
    if own.network is not None:
        found = config.network
    elif isinstance(network, Network):
        found = network.config
    else:
        found, reason = settle_network(config.network)
    if (found.model, found.weights) != (config.network.model, config.network.weights):
        # What was left open turned out, and settings that were, too, may mean something else.
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
    """Copy a run's image to where it is wanted, if a kill or a full disk was in the way."""
    image_path = destination.image_path
    if image_path is None or os.path.lexists(image_path) or prepared.config.output.overwrite:
        return
    if writes_files() and find_finished(folder, prepared, overwrite=True) is not None:
        destination.put_image(folder / image_path.name)
        logger.info("%s is there again, from %s.", image_path, folder)


def _check_free(image_path: Path, output: OutputConfig) -> None:
    folder = Path(output.output)
    # With its record, the folder decides: what is there may go on.
    if (folder / RECORD_NAME).exists() or was_cut(folder, output):
        return
    if os.path.lexists(image_path) and not output.overwrite:
        raise InputError(
            f"--output={image_path} is there already",
            expected="a name that is free",
            remedy="give another --output, or add --overwrite",
        )


def _choose_folder(prepared: Prepared) -> Path:
    """Return --output, or the first default folder that is free or holds this run, cut short."""
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
