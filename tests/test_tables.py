"""Tables are read back by other people's readers."""

import csv
import io

import pytest

from neuart_jax.runs.tables import average_row, format_value, to_csv, to_markdown

ROWS = [
    {"pair": "a, b", "status": "completed", "seconds": 1 / 3, "steps": 4, "loss": 2.0},
    {"pair": 'the "c"', "status": "non_finite", "seconds": 1.0, "steps": 2, "loss": None},
    {"pair": "d|e", "status": "completed", "seconds": 2.0, "steps": 3, "loss": 4.0, "more": 1.0},
]


def test_csv_keeps_every_number_in_full():
    read = list(csv.DictReader(io.StringIO(to_csv(ROWS))))
    assert [row["pair"] for row in read] == ["a, b", 'the "c"', "d|e"]
    assert float(read[0]["seconds"]) == 1 / 3
    assert [row["loss"] for row in read] == ["2.0", "", "4.0"]
    assert [row["more"] for row in read] == ["", "", "1.0"]


def test_markdown_has_a_line_per_row_and_as_many_cells_in_each():
    lines = to_markdown(ROWS).splitlines()
    assert len(lines) == 5
    assert {line.replace("\\|", "").count("|") for line in lines} == {7}
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| a, b | completed | 0.3333 | 4 | 2 |  |"


def test_averages_leave_out_what_is_missing():
    row = average_row([*ROWS, {"pair": "f", "loss": float("nan")}], pair="average", status="")
    assert row == {
        "pair": "average",
        "status": "",
        "seconds": pytest.approx((1 / 3 + 1.0 + 2.0) / 3),
        "steps": 3,
        "loss": 3.0,
        "more": 1.0,
    }


def test_values_for_people():
    values = (None, "x", 7, 0.123456, 2695649.4, 1.26186e12, 1e-5)
    shown = [format_value(value) for value in values]
    assert shown == ["", "x", "7", "0.1235", "2695649", "1.262e+12", "1e-05"]
