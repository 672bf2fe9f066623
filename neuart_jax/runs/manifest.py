"""Lists of pairs and their settings: from files, folders or a table.

No file other than the table is opened here.
"""

import csv
import hashlib
import json
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from neuart_jax.config.config import FIELDS, Config, parse_setting
from neuart_jax.config.errors import InputError, counted
from neuart_jax.config.fields import Texts, is_boolean, nearest
from neuart_jax.inputs.initial_image import STARTS
from neuart_jax.io.clips.opening import holds_frames
from neuart_jax.io.files import brief_cause
from neuart_jax.io.image_lists import list_named_images
from neuart_jax.io.images import WRITABLE
from neuart_jax.io.paths import check_place, read_whole
from neuart_jax.models.params.load import NAMED_WEIGHTS

logger = logging.getLogger(__name__)

Pairing = Literal["zip", "cross"]

_LONGEST_NAME, _LONGEST_PART, _LONGEST_NAME_BYTES = 80, 40, 200
_MOST_BYTES = 256 << 20
_EXPECTED = "a table with the columns content and style, as CSV, or as JSON Lines in a .jsonl file"
# Settings that are files, with their values that aren't file names.
_FILES: dict[str, Sequence[str]] = {
    **dict.fromkeys(
        ("content", "style", "content_mask", "style_mask", "paint_mask", "weights_dir"), ()
    ),
    "init": STARTS,
    "weights": NAMED_WEIGHTS,
}


class Job(NamedTuple):
    """A pair with its settings.

    Attributes:
      name: name of the pair's folder, unique among all jobs.
      config: configuration of the run, without its destination.
      row: number in the table, or in the order of the files, from 1.
    """

    name: str
    config: Config
    row: int = 1

    @property
    def content(self) -> str:
        """File of the content image."""
        return self.config.images.content

    @property
    def style(self) -> Texts:
        """Files of the style images."""
        return self.config.images.style


class BadRow(NamedTuple):
    """An invalid row.

    Attributes:
      row: number of the row, from 1.
      reason: the reason, as a sentence.
    """

    row: int
    reason: str


class Manifest(NamedTuple):
    """The jobs and invalid rows of a list of pairs.

    Attributes:
      source: name of the list in messages.
      jobs: the valid rows, in order.
      bad_rows: the invalid rows.
    """

    source: str
    jobs: list[Job]
    bad_rows: list[BadRow]

    def all_jobs(self) -> list[Job]:
        """Return the jobs of all rows.

        Raises:
          InputError: a row is bad.
        """
        if not self.bad_rows:
            return self.jobs
        shown = "; ".join(f"row {bad.row}: {bad.reason.rstrip('.')}" for bad in self.bad_rows[:5])
        raise InputError(
            f"{len(self.bad_rows)} of {len(self.jobs) + len(self.bad_rows)} rows of {self.source} "
            f"can't be used ({shown})",
            expected="rows without a mistake",
            remedy="fix or remove them",
        )


def find_jobs(config: Config, *, manifest: str = "", pair: str = "") -> Manifest:
    """List the pairs named by a manifest, or by folders and patterns.

    Args:
      config: common settings of all pairs. Without a manifest, `content` and `style` are images,
        folders or patterns; see `make_jobs`.
      manifest: path of a table; see `read_manifest`.
      pair: "zip" or "cross", without a manifest; empty means "zip".

    Returns:
      The jobs, and the rows that can't be used.

    Raises:
      InputError: both a manifest and images are given, or neither, or nothing can be used.
    """
    images = config.images
    if not manifest:
        jobs = make_jobs(config, images.content, images.style, pair=pair or "zip")
        if holds_frames(check_place(images.content, name="--content")):
            logger.info(
                "The images in %s are numbered; if they are the frames of a film, leave out "
                "--pair, so that each continues the one before it.",
                images.content,
            )
        return Manifest("the images", jobs, [])
    if images.content or images.style or pair:
        raise InputError(
            "--manifest came with --content, --style or --pair",
            expected="one way of naming the pairs",
            remedy="leave out --manifest, or the others",
        )
    return read_manifest(config, manifest)


def make_jobs(config: Config, contents: str, styles: Sequence[str], *, pair: str) -> list[Job]:
    """Pair content images with style images.

    Args:
      config: common settings of all pairs.
      contents: an image, a folder of images, or a pattern such as photos/*.jpg; see
        `image_lists.list_named_images`.
      styles: images, folders or patterns of the styles.
      pair: "zip" pairs the first content with the first style, the second with the second, and so
        on; "cross" pairs every content with every style. Files of folders and patterns are sorted
        by name.

    Raises:
      InputError: a name is missing, a folder has no image, or the numbers don't match.
    """
    if pair not in get_args(Pairing):
        raise InputError(
            f"--pair={pair} is not known",
            expected="zip or cross",
            remedy=f"did you mean {nearest(pair, get_args(Pairing))}",
        )
    for name, value in (("content", contents), ("style", styles)):
        if not value:
            raise InputError(
                f"--{name} is missing",
                expected="images or folders of images, --content=PATH --style=PATH",
                remedy=f"add --{name}=PATH, or give a table with --manifest=FILE",
            )
    content_files = list_named_images(contents, name="--content")
    style_files = [file for path in styles for file in list_named_images(path, name="--style")]
    if pair == "cross":
        pairs = [(content, style) for content in content_files for style in style_files]
    elif len(content_files) == len(style_files):
        pairs = list(zip(content_files, style_files, strict=True))
    else:
        raise InputError(
            f"--content names {counted(len(content_files), 'image')} and --style "
            f"{len(style_files)}",
            expected="equal numbers for --pair=zip",
            remedy="use --pair=cross for all combinations, or --manifest=FILE",
        )
    names = _Names().of_all(pairs)
    return [
        Job(name, config.replace(content=content, style=style), row)
        for row, (name, (content, style)) in enumerate(zip(names, pairs, strict=True), 1)
    ]


def read_manifest(config: Config, path: str) -> Manifest:
    """Read a table of pairs.

    Columns are named like settings; an empty cell leaves a setting unchanged. `content` and `style`
    are required; in CSV, several styles are separated by semicolons. `output` names the pair's
    folder inside the batch's folder. File names are relative to the table's folder.

    Args:
      config: common settings of all rows.
      path: a CSV file with a header, or JSON Lines, with one object per line, if the name ends in
        .jsonl.

    Raises:
      InputError: the table can't be read, or has no rows.
    """
    source = check_place(path, name="--manifest")
    shown = f"--manifest={path}"
    try:
        content = read_whole(source, most=_MOST_BYTES)
        is_json = source.suffix.lower() in (".jsonl", ".ndjson", ".json")
        if not is_json:
            content.partition(b"\n")[0].decode()
        # Rows that aren't UTF-8 are reported one by one.
        text = content.decode("utf-8-sig", errors="surrogateescape")
        # Not splitlines(), as JSON strings may contain other line separators.
        rows: list[Any] = text.split("\n") if is_json else _read_csv(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{shown} can't be read ({brief_cause(error)})",
            expected=_EXPECTED,
            remedy="check the name and the content",
        ) from error
    jobs, bad_rows, names = [], [], _Names()
    for number, row in enumerate(rows, 1):
        try:
            _check_letters(row)
            values = _parse_line(row) if isinstance(row, str) else _parse_cells(row)
            if not values:
                continue  # An empty line.
            jobs.append(_make_job(config, values, names, folder=source.parent, row=number))
        except InputError as error:
            bad_rows.append(BadRow(number, str(error)))
    unnamed = [number for number, job in enumerate(jobs) if not job.name]
    found = names.of_all([(jobs[number].content, *jobs[number].style) for number in unnamed])
    for number, name in zip(unnamed, found, strict=True):
        jobs[number] = jobs[number]._replace(name=name)
    if not jobs and not bad_rows:
        raise InputError(f"{shown} has no rows", expected=_EXPECTED, remedy="add some")
    return Manifest(shown, jobs, bad_rows)


def folder_name(text: str) -> str:
    """Convert any text to a name that every file system accepts, with at most 80 characters.

    Letters of any script, their marks, digits, periods, dashes and underscores are kept.
    """
    kept = "".join(
        letter if letter in "._-" or unicodedata.category(letter)[0] in "LMN" else " "
        for letter in unicodedata.normalize("NFC", text)
    )
    name = "_".join(kept.split()).strip("._")[:_LONGEST_NAME]
    # A name may have 255 bytes, and a character takes up to four.
    while len(name.encode()) > _LONGEST_NAME_BYTES:
        name = name[:-1]
    # Windows treats these as devices, whatever follows a period.
    stem, point, rest = name.partition(".")
    if _DEVICES.fullmatch(stem):
        name = f"{stem}_{point}{rest}"
    return name or "unnamed"


_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)[1-9¹²³]", re.IGNORECASE)


def _check_letters(row: str | Mapping[Any, Any]) -> None:
    cells = [row] if isinstance(row, str) else [each for each in row.values() if each]
    try:
        "".join(map("".join, cells)).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "it has characters that are not UTF-8",
            expected="a table in UTF-8",
            remedy="save it as UTF-8",
        ) from error


def _read_csv(text: str) -> list[dict[str | Any, Any]]:
    lines = text.splitlines(keepends=True)
    # The separator that spreadsheets write depends on the locale.
    heads = {mark: next(csv.reader(lines[:1], delimiter=mark), []) for mark in ",;\t"}
    fitting = [
        mark for mark, head in heads.items() if {"content", "style"} <= set(map(str.strip, head))
    ]
    delimiter = fitting[0] if fitting else ","
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    names = [(name or "").strip() for name in reader.fieldnames or ()]
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise csv.Error(f"it has {names.count(twice[0])} columns {twice[0]!r}")
    return list(reader)


def _parse_cells(row: Mapping[str | Any, Any]) -> dict[str, Any]:
    """Parse the row of a CSV file, which must have as many cells as there are columns."""
    if None in row:
        raise InputError(
            f"it has {len(row[None])} cells more than the header",
            expected="a cell for every column",
            remedy="put a cell with a comma into quotation marks",
        )
    cells = {(name or "").strip(): (value or "").strip() for name, value in row.items()}
    values: dict[str, Any] = {name: text for name, text in cells.items() if text}
    for name, text in values.items():
        if name in FIELDS and FIELDS[name].hint == Texts:
            values[name] = [part.strip() for part in text.split(";")]
        elif name in FIELDS and is_boolean(FIELDS[name].hint):
            values[name] = {"true": True, "false": False}.get(text.lower(), text)
    return values


def _parse_line(line: str) -> dict[str, Any]:
    if not line.strip():
        return {}
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"it is not JSON ({error})", expected="an object in one line", remedy="fix it"
        ) from error
    if not isinstance(values, dict):
        raise InputError(
            f"it is {line.strip()[:40]}",
            expected='an object such as {"content": "a.jpg", "style": "b.jpg"}',
            remedy="fix it",
        )
    return values


def _make_job(
    config: Config, values: dict[str, Any], names: "_Names", *, folder: Path, row: int
) -> Job:
    for name in ("content", "style"):
        if not values.get(name):
            raise InputError(f"it lacks a {name}", expected=_EXPECTED, remedy=f"name the {name}")
    output = values.pop("output", "")
    settings = {}
    for name, value in values.items():
        value = parse_setting(name, value) if name in FIELDS else value
        if name in _FILES:
            value = _beside(folder, value, name=name)
        settings[name] = value
    config = config.replace(**settings)
    return Job(names.claim(output) if output else "", config, row)


def _beside(folder: Path, value: Any, *, name: str) -> Any:
    """Resolve file names relative to a folder; other types are left to the setting's own check."""
    if FIELDS[name].hint == Texts:
        texts = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(text, str) and text for text in texts):
            return value
        return [
            file for text in texts for file in list_named_images(text, name=name, beside=folder)
        ]
    if not isinstance(value, str) or not value or value in _FILES[name]:
        return value
    return str(folder / check_place(value, name=name))


class _Names:
    """Assigns unique folder names to pairs, also on case-insensitive file systems."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of_all(self, pairs: Sequence[tuple[str, ...]]) -> list[str]:
        """Derive folder names from the images' names, independently of other pairs.

        Only if two pairs would have the same name, a hash of their paths is added, and a number for
        pairs of the same images.

        Args:
          pairs: content file and style files of every pair.
        """
        plain = [_plain_name(*pair) for pair in pairs]
        owners: dict[str, set[str]] = {}
        for name, pair in zip(plain, pairs, strict=True):
            owners.setdefault(_same(name), set()).add(_digest(pair))
        found = []
        for name, pair in zip(plain, pairs, strict=True):
            if len(owners[_same(name)]) > 1:
                name = f"{name}_{_digest(pair)}"
            found.append(self._number(name))
        return found

    def _number(self, name: str) -> str:
        numbered, number = name, 1
        while _same(numbered) in self._taken:
            number += 1
            numbered = f"{name}_{number}"
        self._taken.add(_same(numbered))
        return numbered

    def claim(self, name: Any) -> str:
        """Assign the name that a row asks for."""
        expected = "the name of a folder inside --output, different for every row"
        if not isinstance(name, str) or name != folder_name(name):
            raise InputError(
                f"output={name!r}",
                expected=expected,
                remedy="use only letters, digits, periods, dashes and underscores",
            )
        if Path(name).suffix.lower() in WRITABLE:
            raise InputError(
                f"output={name!r} has the extension of an image",
                expected=expected,
                remedy="name the image in a column image_name",
            )
        if _same(name) in self._taken:
            raise InputError(
                f"output={name!r} is used by an earlier row",
                expected=expected,
                remedy="give another name, or none",
            )
        self._taken.add(_same(name))
        return name


def _plain_name(content: str, *styles: str) -> str:
    style = "_".join(Path(style).stem for style in styles)
    return folder_name(f"{_shorten(Path(content).stem)}__{_shorten(style)}")


def _shorten(name: str) -> str:
    # A shortened name always gets a hash of the whole name, whether or not others are similar.
    if len(name) <= _LONGEST_PART:
        return name
    return f"{name[: _LONGEST_PART - 7]}_{_hash(name)}"


def _digest(pair: Sequence[str]) -> str:
    """Return a hash that distinguishes pairs whose files differ only in extension or folder."""
    return _hash("\n".join("/".join(Path(path).parts[-2:]) for path in pair))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:6]


def _same(name: str) -> str:
    """Return a key that is equal for names that a file system may treat as the same."""
    return unicodedata.normalize("NFC", name).casefold()
