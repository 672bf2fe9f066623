"""Grids of growing sets of style layers against the ratio of content to style."""

from collections.abc import Sequence

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.engine.resolution import resolve_config, settle_config
from neuart_jax.runs.experiments.axes import grow_layers, name_layers, write_number
from neuart_jax.runs.experiments.cells import run_cells
from neuart_jax.runs.experiments.contact_sheet import Tile, make_contact_sheet
from neuart_jax.runs.experiments.networks import NetworkPool
from neuart_jax.runs.experiments.report import Report, cells_folder, experiment_folder, write_report
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.prepare import prepare
from neuart_jax.runs.tables import format_value

NAME = "layer_grid"

DEFAULT_FACTORS = (0.01, 0.1, 1.0, 10.0)
"""Multiples of the configuration's own ratio: 1e-5, 1e-4, 1e-3, 1e-2 for Gatys' ratio of 1e-3."""


def layer_grid(config: Config, *, ratios: Sequence[float] = ()) -> Report:
    """Run every combination of a set of style layers and a ratio of content to style.

    Source: Gatys et al. 2015, arXiv 1508.06576, figure 3.

    Args:
      config: configuration whose `style_layers` make up the rows, one more layer per row; its
        `style_weight` and coefficient of total variation are kept.
      ratios: alpha / beta = content weight / style weight of each column, at least 0. Empty takes
        `DEFAULT_FACTORS` times the configuration's own ratio.

    Raises:
      InputError: an argument is invalid, or the folder has other results.
    """
    config = settle_config(config)
    losses = resolve_config(config).losses
    content_weight, style_weight = losses.content_weight or 0.0, losses.style_weight
    if style_weight == 0 or (not ratios and content_weight == 0):
        raise InputError(
            f"content_weight={content_weight:g} and style_weight={style_weight:g} have no ratio",
            expected="a style_weight above 0, and --ratios or a content_weight above 0",
            remedy="change the weights, or leave them out",
        )
    ratios = tuple(ratios) or tuple(content_weight / style_weight * f for f in DEFAULT_FACTORS)
    written = [write_number(ratio) for ratio in ratios]
    if len(set(written)) < len(written):
        raise InputError(
            f"--ratios={','.join(written)} has the same ratio twice",
            expected="ratios that differ when rounded to three digits",
            remedy="leave one out",
        )
    style_sets = grow_layers(losses.style_layers)
    places = [(layers, ratio) for layers in style_sets for ratio in ratios]
    cells = [
        Job(
            f"{name_layers(layers)}_{write_number(ratio)}",
            config.replace(style_layers=layers, content_weight=ratio * style_weight),
        )
        for layers, ratio in places
    ]
    folder = experiment_folder(config, NAME)
    networks = NetworkPool(cell.config for cell in cells)
    finished = list(
        run_cells(cells, cells_folder(folder), networks=networks, overwrite=config.output.overwrite)
    )
    rows = [
        {"layers": name_layers(layers), "ratio": ratio, **cell.figures()}
        for cell, (layers, ratio) in zip(finished, places, strict=True)
    ]
    prepared = prepare(cells[0].config)
    tiles = [
        Tile(
            cell.load_image(),
            f"content {format_value(row.get('content_loss'))}, "
            f"style {format_value(row.get('style_loss'))}"
            + (", not finite" if row["status"] == "non_finite" else ""),
        )
        for cell, row in zip(finished, rows, strict=True)
    ]
    originals = [Tile(prepared.content.image, "content")]
    originals += [Tile(style.image, "style") for style in prepared.styles]
    num_columns = len(ratios)
    sheet = make_contact_sheet(
        [tiles[i : i + num_columns] for i in range(0, len(tiles), num_columns)] + [originals],
        row_labels=[*map(name_layers, style_sets), "originals"],
        column_labels=[f"α/β = {write_number(ratio)}" for ratio in ratios]
        + [""] * (len(originals) - num_columns),
        title=f"{config.network.model}: style layers (rows) and content / style weight (columns)",
    )
    return write_report(
        folder,
        experiment=NAME,
        config=config,
        rows=rows,
        cells=finished,
        sheet=sheet,
        facts={"ratios": list(ratios)},
    )
