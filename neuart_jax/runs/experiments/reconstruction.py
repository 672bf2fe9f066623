"""Reconstructions from noise by the content or the style loss alone, to show what layers retain."""

from neuart_jax.config.config import Config
from neuart_jax.config.fields import LayerWeights
from neuart_jax.engine.resolution import resolve_config, settle_config
from neuart_jax.runs.experiments.axes import grow_layers, name_layers
from neuart_jax.runs.experiments.cells import Finished, run_cells
from neuart_jax.runs.experiments.contact_sheet import Tile, make_contact_sheet
from neuart_jax.runs.experiments.networks import NetworkPool
from neuart_jax.runs.experiments.report import Report, cells_folder, experiment_folder, write_report
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.prepare import prepare
from neuart_jax.runs.tables import format_value

NAME = "reconstruct"


def reconstruct(config: Config) -> Report:
    """Reconstruct the content from single layers, and the style from growing sets of layers.

    Source: Gatys et al. 2015, arXiv 1508.06576, figure 1. The initial image is noise, unless the
    configuration names one other than the content.

    Args:
      config: configuration whose `content_layers` are used one at a time, and whose `style_layers`
        are added one by one. Empty content layers default to the style layers, and empty style
        layers to the model's own.

    Raises:
      InputError: an argument is invalid, or the folder has other results.
    """
    config = settle_config(config)
    style_layers = resolve_config(config).losses.style_layers
    content_layers = style_layers
    if config.losses.content_layers:
        content_layers = resolve_config(config).losses.content_layers
    if config.run.init == "content":
        config = config.replace(init="noise")
    content_sets: list[LayerWeights] = [((name, 1.0),) for name, _ in content_layers]
    style_sets = grow_layers(style_layers)
    # Reset unused layers, so that records don't depend on them.
    of_content = config.replace(style_weight=0.0, style_layers=())
    of_style = config.replace(content_weight=0.0, content_layers=())
    runs = [("content", s, of_content.replace(content_layers=s)) for s in content_sets]
    runs += [("style", s, of_style.replace(style_layers=s)) for s in style_sets]
    cells = [Job(f"{kind}_{name_layers(layers)}", of_run) for kind, layers, of_run in runs]
    folder = experiment_folder(config, NAME)
    networks = NetworkPool(cell.config for cell in cells)
    finished = list(
        run_cells(cells, cells_folder(folder), networks=networks, overwrite=config.output.overwrite)
    )
    rows = [
        {"from": kind, "layers": name_layers(layers), **cell.figures()}
        for cell, (kind, layers, _) in zip(finished, runs, strict=True)
    ]
    of_content_done, of_style_done = finished[: len(content_sets)], finished[len(content_sets) :]
    prepared = prepare(cells[0].config)
    contents, styles = ([name for name, _ in layers] for layers in (content_layers, style_layers))
    sheet = make_contact_sheet(
        [
            [Tile(prepared.content.image, "content"), *map(_show, of_content_done)],
            [Tile(prepared.styles[0].image, "style"), *map(_show, of_style_done)],
        ],
        row_labels=["content from one layer alone", "style from all layers up to this one"],
        column_labels=["original", *contents] if contents == styles else [],
        title=f"What the layers of {config.network.model} keep",
    )
    return write_report(
        folder, experiment=NAME, config=config, rows=rows, cells=finished, sheet=sheet
    )


def _show(cell: Finished) -> Tile:
    kind, _, layers = cell.name.partition("_")
    figures = cell.figures()
    loss = format_value(figures.get(f"{kind}_loss", figures.get("total_loss")))
    failed = ", not finite" if figures["status"] == "non_finite" else ""
    return Tile(cell.load_image(), f"{layers}\nloss {loss}, {figures['seconds']:.0f} s{failed}")
