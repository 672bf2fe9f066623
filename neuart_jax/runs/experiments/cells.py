"""The cells of an experiment: runs with a folder each, which are reused once finished.

A cell is finished when its folder has the record, which a run writes last. An experiment that was
killed is resumed at the cell that was running.
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
    """A finished cell.

    Attributes:
      name: name of the cell.
      folder: folder of the cell's files.
      record: record read from the folder.
      reused: whether the result is from an earlier run.
    """

    name: str
    folder: Path
    record: Record
    reused: bool

    @property
    def image_path(self) -> Path:
        """Path of the image."""
        return self.folder / self.record.config.output.image_name

    def load_image(self) -> Float32:
        """Read the image, float32[height, width, 3], sRGB in [0, 1]."""
        return load_image(self.image_path).image

    def figures(self) -> dict[str, Any]:
        """Return the run's figures as columns of a table; losses are without coefficients.

        "status" is a name of `Status` in lower case. A number that was not finite is None.
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
    """Run every unfinished cell, one after another, and log a line for each.

    A cell whose record has the same settings, images and weights is not run again.

    Args:
      cells: cells with unique names. Cells with the same images should be adjacent.
      folder: parent of the cells' folders.
      networks: networks of the cells.
      overwrite: whether to replace results of other runs in the cells' folders.

    Returns:
      An iterator of finished cells, in the order given, each as soon as it is finished.

    Raises:
      InputError: a cell can't be run, or its folder has a result of another run. Everything that
        can be checked in advance is checked before the first run.
    """
    load = functools.lru_cache(maxsize=16)(load_image)
    earlier = []
    for cell in cells:
        prepared = prepare(cell.config, load=load)
        earlier.append(find_finished(folder / cell.name, prepared, overwrite=overwrite))
    # Not a generator itself, so that the checks are made at the call.
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
            # All other parts of the record have been compared.
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
