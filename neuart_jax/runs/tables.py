"""Tables of figures, as CSV for programs and as Markdown for readers."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""Values by column name: a text, a number, or None for an empty cell."""


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return all columns of the rows, in the order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def average_row(rows: Sequence[Row], **labels: str) -> dict[str, Any]:
    """Average every column over the rows that have a finite number in it.

    Args:
      rows: the rows, at least one.
      **labels: columns with a text instead of an average.
    """
    averages: dict[str, Any] = {}
    for name in columns_of(rows):
        values = [row[name] for row in rows if _is_finite(row.get(name))]
        averages[name] = labels.get(name, sum(values) / len(values) if values else None)
    return averages


def format_value(value: Any) -> str:
    """Format a value for readers: numbers with four digits, an empty string for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        # No exponent for values in the thousands, such as seconds and sums of squares.
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e8 else f"{value:.4g}"
    return str(value)


def to_markdown(rows: Sequence[Row]) -> str:
    """Format a table in Markdown, with numbers aligned to the right."""
    columns = columns_of(rows)
    number = int | float | None
    numeric = {n for n in columns if all(isinstance(row.get(n), number) for row in rows)}
    # A vertical bar would end the cell.
    lines = [[name.replace("|", "\\|") for name in columns]]
    lines.append(["---:" if name in numeric else "---" for name in columns])
    lines += [[format_value(row.get(n)).replace("|", "\\|") for n in columns] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def to_csv(rows: Sequence[Row]) -> str:
    """Format a table as CSV with a header and full precision (RFC 4180, except for line ends)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
