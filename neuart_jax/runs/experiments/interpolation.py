"""Interpolation between two styles, and between the content and the styles."""

import itertools
from collections.abc import Sequence

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.engine.resolution import settle_config
from neuart_jax.runs.experiments.axes import write_number
from neuart_jax.runs.experiments.cells import run_cells
from neuart_jax.runs.experiments.contact_sheet import Tile, make_contact_sheet
from neuart_jax.runs.experiments.measures import color_distance, luminance_similarity
from neuart_jax.runs.experiments.networks import NetworkPool
from neuart_jax.runs.experiments.report import Report, cells_folder, experiment_folder, write_report
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.prepare import prepare

NAME = "interpolate"

DEFAULT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the second style."""

DEFAULT_STYLIZATIONS = (1.0,)


def interpolate(
    config: Config,
    *,
    shares: Sequence[float] = DEFAULT_SHARES,
    stylizations: Sequence[float] = DEFAULT_STYLIZATIONS,
) -> Report:
    """Run every combination of a degree of stylization and a blend of two styles.

    The styles are blended into one target. With a single style, there is one row, whose columns are
    degrees of stylization.

    Sources: blended targets, github.com/jcjohnson/neural-style; Dumoulin, Shlens & Kudlur 2017,
    arXiv 1610.07629, figure 7, for the sheet.

    Args:
      config: configuration with one or two style images.
      shares: share of the second style in each column, from 0 to 1.
      stylizations: degree of stylization in each row, from 0 to 1.

    Raises:
      InputError: an argument is invalid, or the folder has other results.
    """
    config = settle_config(config)
    num_styles = len(config.images.style)
    if num_styles > 2 or not shares or not stylizations:
        raise InputError(
            f"there are {num_styles} styles, {len(shares)} shares and {len(stylizations)} degrees "
            "of stylization",
            expected="one style or two, and at least one of each",
            remedy="give --style once or twice, and leave the lists out for their defaults",
        )
    if num_styles < 2:
        shares = (0.0,)
    places = list(itertools.product(stylizations, shares))
    cells = [
        Job(
            f"stylization_{write_number(stylization)}_share_{write_number(share)}",
            config.replace(
                stylization=stylization,
                style_mix="blended",
                style_blend=(1 - share, share) if num_styles == 2 else (),
            ),
        )
        for stylization, share in places
    ]
    folder = experiment_folder(config, NAME)
    networks = NetworkPool(cell.config for cell in cells)
    finished = list(
        run_cells(cells, cells_folder(folder), networks=networks, overwrite=config.output.overwrite)
    )
    prepared = prepare(cells[0].config)
    rows, tiles = [], []
    for (stylization, share), cell in zip(places, finished, strict=True):
        image = cell.load_image()
        distances = [color_distance(image, style.image) for style in prepared.styles]
        rows.append(
            {
                "stylization": stylization,
                "share": share,
                "ssim": luminance_similarity(image, prepared.content.image),
                **{f"color{number}": d for number, d in enumerate(distances, 1)},
                **cell.figures(),
            }
        )
        tiles.append(Tile(image))
    content = Tile(prepared.content.image, "content")
    styles = [Tile(style.image, "style") for style in prepared.styles]
    if num_styles == 2:
        lines = [tiles[i : i + len(shares)] for i in range(0, len(tiles), len(shares))]
        sheet = make_contact_sheet(
            [*lines, [styles[0], content, styles[1]]],
            row_labels=[f"stylization {write_number(s)}" for s in stylizations] + ["originals"],
            column_labels=[f"share {write_number(share)}" for share in shares],
            title="From one style to the other",
        )
    else:
        sheet = make_contact_sheet(
            [[content, *tiles, *styles]],
            row_labels=[config.network.model],
            column_labels=["", *(f"stylization {write_number(s)}" for s in stylizations), ""],
            title="From the content to the style",
        )
    return write_report(
        folder, experiment=NAME, config=config, rows=rows, cells=finished, sheet=sheet
    )
