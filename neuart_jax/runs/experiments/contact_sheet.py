"""Contact sheets: a grid of images with captions and labeled rows and columns."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from neuart_jax.io.images import resize_image

Float32 = npt.NDArray[np.float32]

_INK, _FAINT, _PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)
_GAP = 8
_MARGIN = 16
_LABEL_WIDTH = 144
_MAX_LABEL_LINES = 6
# Least width of a tile in pixels, for the captions of narrower images.
_NARROWEST = 176


class Tile(NamedTuple):
    """A tile of the grid.

    Attributes:
      image: float32[height, width, 3], sRGB in [0, 1]; None for an empty tile.
      caption: text below the image, whose lines are wrapped separately.
    """

    image: Float32 | None
    caption: str = ""


def make_contact_sheet(
    rows: Sequence[Sequence[Tile]],
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str] = (),
    title: str = "",
    tile_size: int = 224,
) -> Float32:
    """Lay out images in rows and columns, with labels on the left and at the top.

    Images keep their aspect ratio, and are reduced but not enlarged.

    Args:
      rows: rows of any number of tiles; short rows are left empty at the end.
      row_labels: a label per row.
      column_labels: a label per column, or none.
      title: title at the top.
      tile_size: largest side of the images, in pixels.

    Returns:
      float32[height, width, 3], sRGB in [0, 1].
    """
    num_columns = max((len(row) for row in rows), default=0)
    if len(row_labels) != len(rows) or len(column_labels) not in (0, num_columns):
        raise ValueError(
            f"{len(row_labels)} and {len(column_labels)} labels for {len(rows)} rows of at most "
            f"{num_columns} tiles"
        )
    label, small, large = (_font(size) for size in (15, 13, 20))
    fitted = [[_fit(tile.image, tile_size) for tile in row] for row in rows]
    widths = [image.width for row in fitted for image in row if image is not None]
    tile_width = max([_NARROWEST, *widths])
    titles = _wrap(title, large, _LABEL_WIDTH + num_columns * (tile_width + _GAP))
    headings = [_wrap(text, label, tile_width) for text in column_labels]
    names = [_wrap(text, label, _LABEL_WIDTH)[:_MAX_LABEL_LINES] for text in row_labels]
    captions = [[_wrap(tile.caption, small, tile_width) for tile in row] for row in rows]

    heading_height = max((_height(lines, label) for lines in headings), default=0)
    title_height = _height(titles, large)
    row_heights = []
    for name, row, lines_of_row in zip(names, fitted, captions, strict=True):
        heights = [_height(name, label)]
        for image, lines in zip(row, lines_of_row, strict=True):
            heights.append((image.height if image is not None else 0) + _height(lines, small))
        row_heights.append(max(heights))
    top = _MARGIN + title_height + (_GAP if title_height else 0)
    height = top + heading_height + sum(row_heights) + len(rows) * 2 * _GAP + _MARGIN
    width = 2 * _MARGIN + _LABEL_WIDTH + num_columns * (tile_width + _GAP)

    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN), titles, large, _INK)
    lefts = [_MARGIN + _LABEL_WIDTH + _GAP + i * (tile_width + _GAP) for i in range(num_columns)]
    for left, lines in zip(lefts, headings, strict=False):
        # Aligned at the bottom, if neighboring labels have more lines.
        _write(draw, (left, top + heading_height - _height(lines, label)), lines, label, _INK)
    y = top + heading_height + _GAP
    for index, row in enumerate(fitted):
        _write(draw, (_MARGIN, y), names[index], label, _INK)
        for left, image, lines in zip(lefts, row, captions[index], strict=False):
            if image is not None:
                sheet.paste(image, (left, y))
            below = y + (image.height if image is not None else 0)
            _write(draw, (left, below + 2), lines, small, _FAINT)
        y += row_heights[index] + 2 * _GAP
    return np.asarray(sheet, np.float32) / np.float32(255)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib's bundled font has Greek letters, which Pillow's own font lacks.
    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size
    )


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics()) + 1


def _height(lines: Sequence[str], font: ImageFont.FreeTypeFont) -> int:
    return len(lines) * _line_height(font)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Wrap text into lines that fit: between words, or inside a word that is too long."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            candidate = f"{line} {word}".strip()
            if font.getlength(candidate) <= width:
                line = candidate
                continue
            lines += [line] if line else []
            while font.getlength(word) > width:
                length = _breaking_length(word, font, width)
                lines.append(word[:length])
                word = word[length:]
            line = word
        lines.append(line)
    return lines


def _breaking_length(word: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """Return how many characters of a long word fit on a line, preferably up to a separator."""
    fitting = [n for n in range(1, len(word)) if font.getlength(word[:n]) <= width] or [1]
    joints = [n for n in fitting if word[n - 1] in "-_/,"]
    return max(joints or fitting)


def _fit(image: Float32 | None, size: int) -> Image.Image | None:
    if image is None:
        return None
    height, width = image.shape[:2]
    factor = min(1, size / max(height, width))
    if factor < 1:
        image = resize_image(image, *(max(1, round(side * factor)) for side in (height, width)))
    return Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[str],
    font: ImageFont.FreeTypeFont,
    color: tuple[int, int, int],
) -> None:
    x, y = corner
    for number, line in enumerate(lines):
        draw.text((x, y + number * _line_height(font)), line, font=font, fill=color)
