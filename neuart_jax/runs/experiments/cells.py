"""The cells of an experiment: runs with a folder each, made once and found again.

A cell is finished when its folder holds the record that a run writes last. An experiment that was
killed goes on with the cell that it was at.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neuart_jax.io.decoding import Float32
from neuart_jax.io.images import load_image
from neuart_jax.models.params.load import Network, narrow_network
from neuart_jax.objective.build import run_layers
from neuart_jax.runs.experiments.networks import NetworkPool
from neuart_jax.runs.finished import find_finished
from neuart_jax.runs.folder import CHECKPOINTS
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.prepare import prepare, resolve_run
from neuart_jax.runs.record import RECORD_NAME, Record, read_record, refuse
from neuart_jax.runs.scheduler import Task, run_tasks
from neuart_jax.runs.tables import format_value

logger = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A cell with its result.

    Attributes:
      name: of the cell.
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
        """The image's file."""
        return self.folder / self.record.config.output.image_name

    def load_image(self) -> Float32:
        """Read the image, float32[height, width, 3], sRGB in [0, 1]."""
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
    cells: Sequence[Job], folder: Path, *, networks: NetworkPool, overwrite: bool
) -> Iterator[Finished]:
    """Run every cell that isn't finished, one after the other, and log a line for each.

    A cell whose record has the same settings, images and weights is not run again.

    Args:
      cells: with names of their own. Those with the same images should follow each other.
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
        earlier.append(find_finished(folder / cell.name, prepared, overwrite=overwrite))
    # Not a generator itself, which would check nothing before it is asked for the first result.
    return _run_cells(cells, earlier, folder, networks=networks, overwrite=overwrite)


def _run_cells(
    cells: Sequence[Job],
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
            layers = run_layers(resolved.losses)
            own = narrow_network(network, resolved.network, layers=layers).identity
            # Everything else has been compared.
            differences = record._replace(weights=own).unlike(record)
            if differences and not overwrite:
                refuse(path, differences)
            record = None if differences else record
        reused = record is not None
        if record is None:
            _paint(cell, folder, network)
            record = read_record(path / RECORD_NAME)
        finished = Finished(cell.name, path, record, reused)
        _log(finished, number, len(cells))
        yield finished


def _paint(cell: Job, folder: Path, network: Network) -> None:
    # Files of an interrupted run may be overwritten.
    config = cell.config.replace(
        model=network.config.model, weights=network.config.weights, overwrite=True
    )
    task = Task([cell._replace(config=config)], folder / cell.name / CHECKPOINTS)
    [outcome] = run_tasks([task], folder, get_network=lambda prepared: network)
    if outcome.error is not None:
        raise outcome.error


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
