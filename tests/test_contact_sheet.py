"""Pictures land where their labels are."""

import numpy as np
import pytest

from neuart_jax.runs.experiments.contact_sheet import Tile, make_contact_sheet

RED, GREEN, BLUE = np.eye(3, dtype=np.float32)


def flat(color, height=40, width=60):
    return np.broadcast_to(color, (height, width, 3)).astype(np.float32)


def bounds(sheet, color):
    """Top, bottom, left and right of all pixels of a color."""
    rows, columns = np.nonzero(np.all(np.abs(sheet - color) < 1e-3, axis=2))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def ink(sheet):
    return np.all(sheet < 0.7, axis=2)


def test_pictures_form_a_grid():
    sheet = make_contact_sheet(
        [[Tile(flat(RED)), Tile(flat(GREEN))], [Tile(flat(BLUE), "a caption")]],
        row_labels=["first", "second"],
        column_labels=["left", "right"],
    )
    assert sheet.dtype == np.float32
    red, green, blue = (bounds(sheet, color) for color in (RED, GREEN, BLUE))
    for top, bottom, left, right in (red, green, blue):
        assert (bottom - top, right - left) == (40, 60)
    assert red[:2] == green[:2]
    assert red[2:] == blue[2:]
    assert green[2] > red[3]
    assert blue[0] > red[1]


def test_labels_are_written_beside_and_above_and_captions_below():
    def draw(row="", column="", caption="", title=""):
        return make_contact_sheet(
            [[Tile(flat(RED), caption)]], row_labels=[row], column_labels=[column], title=title
        )

    top, bottom, left, _ = bounds(draw(), RED)
    assert not ink(draw()).any()
    assert ink(draw(row="name"))[:, :left].any()
    assert ink(draw(column="name"))[:, left:].any()
    captioned = draw(caption="name")
    assert not ink(captioned)[:bottom].any()
    assert ink(captioned)[bottom:].any()
    assert bounds(draw(title="name"), RED)[0] > top


def test_greek_letters_are_no_boxes():
    def draw(text):
        return make_contact_sheet([[Tile(flat(RED))]], row_labels=["a"], column_labels=[text])

    # U+FFFF is no character: every font shows the same box for all it doesn't know.
    assert np.abs(draw("α") - draw("\uffff")).max() > 0.5
    assert np.abs(draw("α") - draw("β")).max() > 0.5


def test_long_labels_are_wrapped_and_never_run_into_a_picture():
    long = "conv2_block3_out_" * 12 + " and more words " * 10
    sheet = make_contact_sheet(
        [[Tile(flat(RED), long), Tile(flat(RED))], [Tile(flat(BLUE)), Tile(flat(GREEN), long)]],
        row_labels=[long, long],
        column_labels=[long, "short"],
        title=long,
    )
    for color, count in ((RED, 2), (BLUE, 1), (GREEN, 1)):
        assert np.sum(np.all(np.abs(sheet - color) < 1e-3, axis=2)) == count * 40 * 60


def test_large_pictures_are_reduced_in_proportion_and_small_ones_left():
    sheet = make_contact_sheet(
        [[Tile(flat(RED, 300, 600)), Tile(flat(BLUE, 5, 3))]], row_labels=[""], tile_size=100
    )
    top, bottom, left, right = bounds(sheet, RED)
    assert (bottom - top, right - left) == (50, 100)
    top, bottom, left, right = bounds(sheet, BLUE)
    assert (bottom - top, right - left) == (5, 3)


def test_empty_places_stay_paper():
    sheet = make_contact_sheet([[Tile(None), Tile(flat(RED))]], row_labels=[""])
    assert np.all(sheet[:, : bounds(sheet, RED)[2]] == 1)


def test_labels_have_to_fit_the_grid():
    with pytest.raises(ValueError, match="2 and 1 labels for 1 rows of at most 1 tiles"):
        make_contact_sheet([[Tile(None)]], row_labels=["a", "b"], column_labels=["c"])
    with pytest.raises(ValueError, match="1 and 2 labels"):
        make_contact_sheet([[Tile(None)]], row_labels=["a"], column_labels=["c", "d"])
