"""Reports of a benchmark: all figures as JSON, tables in Markdown, and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuart_jax.io.files import dump_json, write_atomically
from neuart_jax.runs.tables import Row, to_markdown


def to_text(tables: Mapping[str, Sequence[Row]], *, facts: Mapping[str, Any], notes: str) -> str:
    """Format all tables in Markdown.

    Args:
      tables: rows of every table, by title; empty tables are left out.
      facts: description of the machine.
      notes: notes on problems; may be empty.
    """
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"{facts['device']}; {facts['processor']}, {facts['usable_cores']} of {facts['cores']} "
        f"cores usable; {facts['machine']}",
        versions,
    ]
    if torch := facts.get("torch"):
        lines.append(f"torch {torch['torch']}, {torch['threads']} threads, on {torch['device']}")
    parts = ["\n".join(f"{line}  " for line in lines) + "\n"]
    parts += [f"## {title}\n\n{to_markdown(rows)}" for title, rows in tables.items() if rows]
    return "\n".join([*parts, *([notes + "\n"] if notes else [])])


def write_report(folder: Path, *, text: str, document: Mapping[str, Any]) -> None:
    """Write benchmark.json, benchmark.md and, if anything was evaluated, benchmark.png.

    Raises:
      InputError: a file can't be written.
    """
    for name, content in {
        "benchmark.json": dump_json(dict(document), indent=2) + "\n",
        "benchmark.md": text,
    }.items():
        with write_atomically(folder / name) as file:
            file.write(content.encode())
    rows = [row for row in document["tables"].get("evaluation", []) if row["seconds"]]
    if rows:
        save_plot(folder / "benchmark.png", rows)


def save_plot(path: Path, rows: Sequence[Row]) -> None:
    """Plot seconds, and nanoseconds per pixel, over size and over batch.

    Args:
      path: PNG file to write.
      rows: rows from `rows.evaluation_rows`, each with its seconds.
    """
    # Imported here, as the import takes a second.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    smallest = {name: min(row[name] for row in rows) for name in ("batch", "size")}
    for column, (along, fixed) in enumerate([("size", "batch"), ("batch", "size")]):
        shown = [row for row in rows if row[fixed] == smallest[fixed]]
        lines: dict[str, list[Row]] = {}
        for row in shown:
            lines.setdefault(f"{row['model']}, {row['variant']}", []).append(row)
        for axes, measure in zip(panels[:, column], ("seconds", "ns_per_pixel"), strict=True):
            for label, line in lines.items():
                line = sorted(line, key=lambda row: row[along])
                axes.plot(
                    [row[along] for row in line],
                    [row[measure] for row in line],
                    marker="o",
                    label=label,
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            ticks = sorted({row[along] for row in shown})
            axes.set_xticks(ticks, list(map(str, ticks)))
            axes.set_ylabel({"seconds": "seconds", "ns_per_pixel": "ns per pixel"}[measure])
            axes.grid(alpha=0.3)
        words = {"size": "side in pixels", "batch": "pairs at once"}
        panels[1, column].set_xlabel(words[along])
        unit = {"batch": "{} pair(s) at once", "size": "{} pixels a side"}[fixed]
        panels[0, column].set_title("An evaluation, " + unit.format(smallest[fixed]))
    panels[0, 0].legend(fontsize=7)
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=110)
