"""Reports of a batch: a table, and a page with all images."""

import base64
import html
import io
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import write_atomically
from neuart_jax.io.images import load_image
from neuart_jax.runs.batch.names import BAD_ROWS_NAME, GALLERY_NAME, SUMMARY_NAME
from neuart_jax.runs.manifest import BadRow, Job
from neuart_jax.runs.record import Record
from neuart_jax.runs.tables import format_value, to_csv

_RESULT_SIDE, _INPUT_SIDE = 320, 96
_MAX_STYLES = 4


class SummaryLine(NamedTuple):
    """A line of the summary.

    Attributes:
      row: row of the manifest, from 1.
      pair: name of the pair, empty for a bad row.
      status: status of the result, in lower case; "bad row", "failed", or empty without a result.
      content: file of the content image.
      styles: files of the style images.
      image: path of the result, relative to the batch's folder.
      outcome: figures of the result; see `Record`.
      remark: description of a failure.
    """

    row: int
    pair: str = ""
    status: str = ""
    content: str = ""
    styles: tuple[str, ...] = ()
    image: str = ""
    outcome: Mapping[str, Any] = {}
    remark: str = ""

    @classmethod
    def of_job(cls, job: Job, record: Record | None, *, failure: str = "") -> Self:
        """Create the line of a pair from its record, if there is one."""
        outcome = record.outcome if record is not None else {}
        status = "failed" if failure else str(outcome.get("status") or "")
        image = f"{job.name}/{job.config.output.image_name}" if outcome else ""
        return cls(job.row, job.name, status, job.content, job.style, image, outcome, failure)

    def columns(self) -> dict[str, Any]:
        """Return the line as a row of a table."""
        names = ("seconds", "evaluations", "steps")
        losses = self.outcome.get("losses", {})
        return {
            "row": self.row,
            "pair": self.pair,
            "status": self.status,
            **{name: self.outcome.get(name) for name in names},
            **{
                f"{name}_loss": losses[name]
                for name in sorted(losses, key=lambda name: name != "total")
            },
            "image": self.image,
            "remark": self.remark,
        }


def write_summary(folder: Path, lines: Sequence[SummaryLine]) -> Path:
    """Write summary.csv; return its path.

    Raises:
      InputError: the file can't be written.
    """
    path = folder / SUMMARY_NAME
    with write_atomically(path) as file:
        file.write(to_csv([line.columns() for line in lines]).encode(errors="backslashreplace"))
    return path


def write_bad_rows(folder: Path, bad_rows: Sequence[BadRow]) -> Path:
    """Write bad_rows.txt, with a line per bad row; return its path.

    Raises:
      InputError: the file can't be written.
    """
    path = folder / BAD_ROWS_NAME
    with write_atomically(path) as file:
        for bad in bad_rows:
            file.write(f"Row {bad.row}: {bad.reason}\n".encode(errors="backslashreplace"))
    return path


def write_gallery(folder: Path, lines: Sequence[SummaryLine]) -> Path:
    """Write gallery.html, a self-contained page with links to the full images; return its path.

    Args:
      folder: folder of the batch.
      lines: lines of the summary.

    Raises:
      InputError: the file can't be written.
    """
    thumbnails: dict[str, str] = {}

    def thumbnail(path: Path, side: int) -> str:
        key = f"{path} {side}"
        if key not in thumbnails:
            thumbnails[key] = _thumbnail(path, side)
        return thumbnails[key]

    cards = [_card(folder, line, thumbnail) for line in lines]
    seconds = [line.outcome["seconds"] for line in lines if line.outcome.get("seconds")]
    good = sum(bool(line.image) for line in lines)
    page = _PAGE.substitute(
        title=html.escape(folder.resolve().name),
        count=f"{good} of {len(lines)} images"
        + (f", {sum(seconds) / 3600:.2f} hours of work" if seconds else ""),
        cards="\n".join(cards),
    )
    path = folder / GALLERY_NAME
    with write_atomically(path) as file:
        file.write(page.encode(errors="backslashreplace"))
    return path


def _card(folder: Path, line: SummaryLine, thumbnail: Any) -> str:
    if not line.image:
        remark = html.escape(line.remark or line.status or "not painted yet")
        label = html.escape(f"{line.row} · {line.pair}" if line.pair else f"row {line.row}")
        return _BAD_CARD.substitute(row=line.row, label=label, remark=remark)
    inputs = [line.content, *line.styles[:_MAX_STYLES]]
    losses = line.outcome.get("losses", {})
    figures = {
        "status": line.status,
        "seconds": line.outcome.get("seconds"),
        "steps": line.outcome.get("steps"),
        **{name: losses[name] for name in sorted(losses, key=lambda name: name != "total")},
    }
    return _CARD.substitute(
        row=line.row,
        name=html.escape(line.pair),
        href=urllib.parse.quote(os.fsencode(Path(line.image).as_posix())),
        result=thumbnail(folder / line.image, _RESULT_SIDE),
        inputs="".join(
            f'<img src="{thumbnail(Path(path), _INPUT_SIDE)}" alt="{html.escape(name)}" '
            f'title="{html.escape(name, quote=True)}">'
            for path in inputs
            for name in [os.path.basename(path)]
        ),
        figures="".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(format_value(value))}</td></tr>"
            for name, value in figures.items()
        ),
    )


def _thumbnail(path: Path, side: int) -> str:
    """Return a thumbnail as a JPEG data URI; an empty one if the file is gone."""
    try:
        image = load_image(str(path), size=None).image
    except InputError:
        return "data:,"
    thumbnail = Image.fromarray(np.round(image * 255).astype(np.uint8))
    thumbnail.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    thumbnail.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


_CARD = Template(
    """<figure id="row$row">
<a href="$href"><img class="result" src="$result" alt="$name"></a>
<div class="inputs">$inputs</div>
<figcaption>$row · $name</figcaption>
<table>$figures</table>
</figure>"""
)
_BAD_CARD = Template(
    """<figure id="row$row" class="bad">
<figcaption>$label</figcaption>
<p>$remark</p>
</figure>"""
)
_PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem; }
h1 { font-size: 1.3rem; margin: 0; }
main { display: grid; gap: 1.5rem; margin-top: 1rem;
       grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); }
figure { margin: 0; }
figure.bad { border: 1px solid #c33; padding: .6rem; align-self: start; }
.result { display: block; width: 100%; }
.inputs { display: flex; gap: 4px; margin: 4px 0; flex-wrap: wrap; }
.inputs img { height: 64px; }
figcaption { font-weight: 600; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
th { text-align: left; font-weight: 400; padding-right: 1em; opacity: .7; }
td { text-align: right; font-variant-numeric: tabular-nums; }
</style>
</head>
<body>
<h1>$title</h1>
<p>$count</p>
<main>
$cards
</main>
</body>
</html>
"""
)
