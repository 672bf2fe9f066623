"""Many pairs with the same settings: how long, how many evaluations, which losses."""

from collections.abc import Sequence

from neuart_jax.config import Config
from neuart_jax.experiments.cells import Cell, run_cells
from neuart_jax.experiments.contact_sheet import Tile, make_contact_sheet
from neuart_jax.experiments.networks import NetworkPool
from neuart_jax.experiments.pairs import Pair
from neuart_jax.experiments.report import Report, cells_folder, experiment_folder, write_report
from neuart_jax.experiments.tables import average_row, format_value
from neuart_jax.prepare import prepare

NAME = "evaluate"


def evaluate(config: Config, pairs: Sequence[Pair]) -> Report:
    """Run every pair and tabulate seconds, evaluations, steps and losses, with their averages.

    Seconds are those of the run, compilation included, without reading, loading and writing.

    Args:
      config: of all runs; its own pictures play no part.
      pairs: see `pairs.make_pairs`.

    Raises:
      InputError: something given can't be used, or the folder holds other results.
    """
    cells = [Cell(p.name, config.replace(content=p.content, style=p.style)) for p in pairs]
    folder = experiment_folder(config, NAME)
    networks = NetworkPool(cell.config for cell in cells)
    finished = list(
        run_cells(cells, cells_folder(folder), networks=networks, overwrite=config.output.overwrite)
    )
    rows = [{"pair": cell.name, **cell.figures()} for cell in finished]
    tiles = []
    for cell, done, row in zip(cells, finished, rows, strict=True):
        pictures = prepare(cell.config)
        loss = format_value(row.get("total_loss")) or "not finite"
        tiles.append(
            [
                Tile(pictures.content.image),
                Tile(pictures.styles[0].image),
                Tile(done.load_image(), f"{row['seconds']:.0f} s, loss {loss}"),
            ]
        )
    sheet = make_contact_sheet(
        tiles,
        row_labels=[name.replace("__", " × ") for name in (pair.name for pair in pairs)],
        column_labels=["content", "style", "result"],
        title=f"{len(pairs)} pairs, {config.network.model}",
    )
    rows.append(average_row(rows, pair="average", status=""))
    return write_report(
        folder, experiment=NAME, config=config, rows=rows, cells=finished, sheet=sheet
    )
