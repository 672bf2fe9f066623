"""The cells of an experiment: runs with a folder each, made once and found again.

A cell is finished when its folder holds the record that a run writes last. An experiment that was
killed goes on with the cell that it was at.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neuart_jax.config import Config
from neuart_jax.decoding import Float32
from neuart_jax.errors import InputError
from neuart_jax.experiments.networks import NetworkPool
from neuart_jax.experiments.tables import format_value
from neuart_jax.images import load_image
from neuart_jax.params.store import narrow_network
from neuart_jax.record import Record, read_record
from neuart_jax.resolve import run_layers
from neuart_jax.step import Status
from neuart_jax.transfer import Prepared, prepare, resolve_run, transfer

logger = logging.getLogger(__name__)

_RECORD_NAME = "config.json"
# What doesn't change a picture, and what is compared by its hash.
_FREE = {
    *("output", "overwrite", "print_losses", "weights_dir", "offline", "content", "style"),
    *("memory_check", "compilation_cache"),
}
_MAX_DIFFERENCES = 5


class Cell(NamedTuple):
    """One run of an experiment.

    Attributes:
      name: of its folder, below the experiment's.
      config: what to do; where to put it is not its matter.
    """

    name: str
    config: Config


class Finished(NamedTuple):
    """A cell with its result.

    Attributes:
      name: as in `Cell`.
      folder: of its files.
      record: as read from its folder.
      reused: whether an earlier run made it.
    """

    name: str
    folder: Path
    record: Record
    reused: bool

    @property
    def image_path(self) -> Path:
        """The picture's file."""
        return self.folder / self.record.config.output.image_name

    def load_image(self) -> Float32:
        """Read the picture, float32[height, width, 3], sRGB in [0, 1]."""
        return load_image(self.image_path).image

    def figures(self) -> dict[str, Any]:
        """Return the run's figures as a table's columns; each loss is without its coefficient.

        "status" is a name of `Status` in small letters. A number that was not finite is None.
        """
        outcome = self.record.outcome
        names = ("status", "seconds", "evaluations", "steps", "seconds_per_evaluation")
        losses = outcome.get("losses", {})
        first = sorted(losses, key=lambda name: name != "total")
        return {name: outcome.get(name) for name in names} | {
            f"{name}_loss": losses[name] for name in first
        }


def run_cells(
    cells: Sequence[Cell], folder: Path, *, networks: NetworkPool, overwrite: bool
) -> Iterator[Finished]:
    """Run every cell that isn't finished, one after the other, and log a line for each.

    A cell whose record has the same settings, pictures and weights is not run again.

    Args:
      cells: with names of their own. Those with the same pictures should follow each other.
      folder: the cells' folders are made in it.
      networks: what they run with.
      overwrite: run a cell again where its folder holds a result of something else.

    Returns:
      Each cell's result as soon as it is there, in the order given.

    Raises:
      InputError: a cell can't be run, or its folder holds a result of something else. All that can
        be known before the first run is said before it.
    """
    load = functools.lru_cache(maxsize=16)(load_image)
    earlier = []
    for cell in cells:
        prepared = prepare(cell.config, load=load)
        earlier.append(_find_record(folder / cell.name, prepared, overwrite=overwrite))
    # Not a generator itself, which would check nothing before it is asked for the first result.
    return _run_cells(cells, earlier, folder, networks=networks, overwrite=overwrite)


def _run_cells(
    cells: Sequence[Cell],
    earlier: Sequence[Record | None],
    folder: Path,
    *,
    networks: NetworkPool,
    overwrite: bool,
) -> Iterator[Finished]:
    for number, (cell, record) in enumerate(zip(cells, earlier, strict=True), 1):
        path = folder / cell.name
        network = networks.load(cell.config)
        if record is not None:
            resolved = resolve_run(cell.config)
            own = narrow_network(network, resolved.network, layers=run_layers(resolved)).identity
            if record.weights.get("sha256") != own["sha256"]:
                if not overwrite:
                    raise _refusal(
                        path, [f"weights: {_brief(record.weights)} there, {_brief(own)} here"]
                    )
                record = None
        reused = record is not None
        if record is None:
            # What an interrupted run left behind is in the way of nobody.
            config = cell.config.replace(output=str(path), overwrite=True)
            transfer(config, network=network)
            record = read_record(path / _RECORD_NAME)
        finished = Finished(cell.name, path, record, reused)
        _log(finished, number, len(cells))
        yield finished


def _find_record(folder: Path, prepared: Prepared, *, overwrite: bool) -> Record | None:
    """Return the record of a finished cell, if it is of the same settings and pictures."""
    path = folder / _RECORD_NAME
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except InputError:
        if overwrite:
            return None
        raise
    name = prepared.config.output.image_name
    if record.outcome.get("status") in (None, Status.STOPPED.name.lower()):
        return None
    there, here = _settings_of(record.config), _settings_of(prepared.config)
    differences = [f"{n}: {there[n]} there, {here[n]} here" for n in here if there[n] != here[n]]
    differences += [
        f"another {n} picture" for n, d in prepared.digests.items() if record.inputs.get(n) != d
    ]
    if differences and not overwrite:
        raise _refusal(folder, differences)
    return None if differences or not (folder / name).exists() else record


def _settings_of(config: Config) -> dict[str, Any]:
    return {
        name: value
        for section in config.to_dict().values()
        for name, value in section.items()
        if name not in _FREE
    }


def _refusal(folder: Path, differences: Sequence[str]) -> InputError:
    more = len(differences) - _MAX_DIFFERENCES
    listed = [*differences[:_MAX_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
    return InputError(
        f"{folder} already holds a result of something else ({'; '.join(listed)})",
        expected="nothing, or a result of the same settings, pictures and weights",
        remedy="give another --output, or add --overwrite",
    )


def _brief(identity: Any) -> str:
    return f"{identity.get('name')} {str(identity.get('sha256'))[:12]}"


def _log(finished: Finished, number: int, count: int) -> None:
    figures = finished.figures()
    losses = ", ".join(
        f"{name.removesuffix('_loss')} {format_value(value) or 'not finite'}"
        for name, value in figures.items()
        if name.endswith("_loss")
    )
    how = "found finished, took" if finished.reused else "took"
    failed = " (the loss was no longer finite)" if figures["status"] == "non_finite" else ""
    logger.info(
        "%d/%d %s %s %.0f s: %s%s",
        number,
        count,
        finished.name,
        how,
        figures["seconds"],
        losses,
        failed,
    )
