"""Reports of an experiment: a contact sheet, and a table in three formats."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuart_jax.config.config import Config
from neuart_jax.io.decoding import Float32
from neuart_jax.io.files import dump_json, write_atomically
from neuart_jax.io.images import save_image
from neuart_jax.io.paths import check_place
from neuart_jax.runs.experiments.cells import Finished
from neuart_jax.runs.tables import Row, to_csv, to_markdown


class Report(NamedTuple):
    """A finished experiment.

    Attributes:
      folder: folder of all files.
      sheet_path: path of the contact sheet, a PNG.
      rows: rows of the table, averages last.
      cells: the runs, each with its folder and record.
    """

    folder: Path
    sheet_path: Path
    rows: list[Row]
    cells: list[Finished]


def experiment_folder(config: Config, name: str) -> Path:
    """Return the experiment's folder: --output, or output/NAME."""
    given = config.output.output
    return check_place(given, name="--output") if given else Path("output", name)


def cells_folder(folder: Path) -> Path:
    """Return the folder of an experiment's cells."""
    return folder / "cells"


def write_report(
    folder: Path,
    *,
    experiment: str,
    config: Config,
    rows: Sequence[Row],
    cells: Sequence[Finished],
    sheet: Float32,
    facts: Mapping[str, Any] | None = None,
    notes: str = "",
    shown_rows: Sequence[Row] | None = None,
) -> Report:
    """Write contact_sheet.png, table.csv, table.md and experiment.json.

    Args:
      folder: destination, an existing folder.
      experiment: name of the experiment.
      config: common settings of all cells.
      rows: rows of the table.
      cells: the runs.
      sheet: contact sheet, float32[height, width, 3], sRGB in [0, 1].
      facts: further entries of the JSON file.
      notes: Markdown to add after the table.
      shown_rows: rows of the Markdown table, if they differ from `rows`.

    Raises:
      InputError: a file can't be written.
    """
    document = {
        "experiment": experiment,
        "settings": config.to_dict(),
        **(facts or {}),
        "table": list(rows),
        "cells": [
            {
                "name": cell.name,
                "folder": str(cell.folder.relative_to(folder)),
                "weights": dict(cell.record.weights),
                "inputs": dict(cell.record.inputs),
                "versions": dict(cell.record.versions),
                "device": cell.record.device,
                "settings": cell.record.config.to_dict(),
                "result": dict(cell.record.outcome),
            }
            for cell in cells
        ],
    }
    texts = {
        "experiment.json": dump_json(document, indent=2) + "\n",
        "table.csv": to_csv(rows),
        "table.md": to_markdown(rows if shown_rows is None else shown_rows)
        + (f"\n{notes}\n" if notes else ""),
    }
    for name, text in texts.items():
        with write_atomically(folder / name) as file:
            file.write(text.encode())
    sheet_path = folder / "contact_sheet.png"
    save_image(sheet_path, np.asarray(sheet))
    return Report(folder, sheet_path, list(rows), list(cells))
