"""Evaluation: time, evaluations and losses of many pairs with the same settings."""

from collections.abc import Sequence

from neuart_jax.config.config import Config
from neuart_jax.runs.experiments.cells import run_cells
from neuart_jax.runs.experiments.contact_sheet import Tile, make_contact_sheet
from neuart_jax.runs.experiments.networks import NetworkPool, settle_configs
from neuart_jax.runs.experiments.report import Report, cells_folder, experiment_folder, write_report
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.prepare import prepare
from neuart_jax.runs.tables import average_row, format_value

NAME = "evaluate"


def evaluate(config: Config, jobs: Sequence[Job]) -> Report:
    """Run every pair and tabulate seconds, evaluations, steps and losses, with their averages.

    Seconds are those of the run, including compilation, without reading, loading and writing.

    Args:
      config: common settings of all runs, for the report.
      jobs: the pairs with their settings; see `manifest.make_jobs`.

    Raises:
      InputError: an argument is invalid, or the folder has other results.
    """
    config, *own = settle_configs([config, *(job.config for job in jobs)])
    jobs = [job._replace(config=one) for job, one in zip(jobs, own, strict=True)]
    folder = experiment_folder(config, NAME)
    networks = NetworkPool(job.config for job in jobs)
    finished = list(
        run_cells(jobs, cells_folder(folder), networks=networks, overwrite=config.output.overwrite)
    )
    rows = [{"pair": cell.name, **cell.figures()} for cell in finished]
    tiles = []
    for job, done, row in zip(jobs, finished, rows, strict=True):
        prepared = prepare(job.config)
        loss = format_value(row.get("total_loss")) or "not finite"
        tiles.append(
            [
                Tile(prepared.content.image),
                Tile(prepared.styles[0].image),
                Tile(done.load_image(), f"{row['seconds']:.0f} s, loss {loss}"),
            ]
        )
    sheet = make_contact_sheet(
        tiles,
        row_labels=[name.replace("__", " × ") for name in (job.name for job in jobs)],
        column_labels=["content", "style", "result"],
        title=f"{len(jobs)} pairs, {config.network.model}",
    )
    rows.append(average_row(rows, pair="average", status=""))
    return write_report(
        folder, experiment=NAME, config=config, rows=rows, cells=finished, sheet=sheet
    )
