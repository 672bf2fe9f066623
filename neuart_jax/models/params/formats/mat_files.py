"""MATLAB's .mat files of version 5 (saved with -v6 or -v7): numbers, texts, cells and structs.

scipy.io.loadmat reads more, and crashes the interpreter on some damaged files; here every length is
compared with what there is before it is believed.

Source: The MathWorks, "MAT-File Format", https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf,
"Level 5 MAT-File Format".
"""

import math
import mmap
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
# Data types of the format, by their numbers; the last three are text in UTF-8, -16 and -32.
_FORMATS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_FORMATS |= {13: "u8", 16: "u1", 17: "u2", 18: "u4"}
_ENCODINGS = {
    16: {"<": "utf-8", ">": "utf-8"},
    17: {"<": "utf-16-le", ">": "utf-16-be"},
    18: {"<": "utf-32-le", ">": "utf-32-be"},
}
_CELL, _STRUCT, _TEXT = 1, 2, 4
# What an array is to MATLAB, which stores it as the smallest format that holds its numbers.
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_CLASSES |= {14: "i8", 15: "u8"}
_COMPLEX = 0x800
_DEEPEST = 16
_PIECE = 2**20
_MOST_BYTES = 2**30
_MOST_EXPANSION = 1032  # Of zlib's method, according to its own documentation.


class _Element(NamedTuple):
    """A typed stretch of bytes."""

    kind: int
    content: memoryview


def read_mat(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Read variables from a .mat file.

    Args:
      path: the file.
      names: of the variables to read; those that are not there are left out.

    Returns:
      Name to an array of numbers in MATLAB's shape (a view of the file), a text, a list for a cell,
      a dictionary for a struct, a list of them for an array of structs; None for anything else.

    Raises:
      ValueError: the file is damaged or of another kind, or a variable has more than 1 GiB.
      OSError: it can't be opened.
    """
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:_HEADER_BYTES]))
    if order is None:
        raise ValueError("its header is damaged")
    document = {}
    for element in _elements(content[_HEADER_BYTES:], order):
        if element.kind == _COMPRESSED:
            (element,) = _elements(_inflate(element.content, order), order)
        if element.kind == _MATRIX and _matrix_name(element.content, order) in names:
            name = _matrix_name(element.content, order)
            document[name] = _read_matrix(element.content, order, depth=0)
    return document


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    """Split a stretch into the elements that fill it."""
    position = 0
    while position < len(content):
        if position + 8 > len(content):
            raise ValueError("it is cut short")
        kind, length = (int(x) for x in np.frombuffer(content, f"{order}u4", 2, position))
        start = position + 8
        if kind >> 16:
            # Up to four bytes share the eight of the tag.
            kind, length, start = kind & 0xFFFF, kind >> 16, position + 4
            if length > 4:
                raise ValueError("an element is longer than its place")
            position += 8
        else:
            # Every length is rounded up to eights, but for compressed ones.
            position = start + length + (0 if kind == _COMPRESSED else -length % 8)
        if start + length > len(content):
            raise ValueError("it is cut short")
        yield _Element(kind, content[start : start + length])


def _inflate(packed: memoryview, order: str) -> memoryview:
    """Unpack the one element that a compressed one holds, and compare its checksum."""
    inflater = zlib.decompressobj()
    data = inflater.decompress(packed[:_PIECE], 8)
    if len(data) < 8:
        raise ValueError("a compressed element is damaged")
    total = 8 + int(np.frombuffer(data, f"{order}u4")[1])
    if total > min(_MOST_BYTES, _MOST_EXPANSION * len(packed)):
        raise ValueError(f"a compressed element would be {total:,} bytes")
    # In one piece from the start: joining pieces would take twice the memory.
    unpacked, position = bytearray(total), 0
    taken = min(_PIECE, len(packed))
    while True:
        if position + len(data) > total:
            raise ValueError("a compressed element is longer than it says")
        unpacked[position : position + len(data)] = data
        position += len(data)
        if inflater.eof:
            break
        pending = inflater.unconsumed_tail
        if not pending:
            pending = bytes(packed[taken : taken + _PIECE])
            taken += len(pending)
            if not pending:
                raise ValueError("a compressed element is cut short")
        data = inflater.decompress(pending, _PIECE)
    if position != total:
        raise ValueError("a compressed element is shorter than it says")
    return memoryview(unpacked)


def _matrix_name(content: memoryview, order: str) -> str:
    parts = _elements(content, order)
    _, _, name = (next(parts, _Element(0, content[:0])) for _ in range(3))
    return bytes(name.content).decode("latin-1")


def _read_matrix(content: memoryview, order: str, *, depth: int) -> Any:
    """Read what an element of the type "matrix" holds, which is all there is in MATLAB."""
    if not content:
        return np.zeros((0, 0))
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    parts = list(_elements(content, order))
    if len(parts) < 3:
        raise ValueError("an array is cut short")
    flags = int(_numbers(parts[0], order)[0])
    shape = tuple(int(size) for size in _numbers(parts[1], order))
    kind, rest = flags & 0xFF, parts[3:]
    if min(shape, default=0) < 0:
        raise ValueError(f"an array has the shape {shape}")
    count = math.prod(shape)
    if kind == _CELL:
        return [_read_part(part, order, depth) for part in _exactly(count, rest)]
    if kind == _STRUCT:
        return _read_struct(rest, order, count, depth)
    if kind == _TEXT:
        return _read_text(rest[0], order) if rest else ""
    if kind not in _CLASSES or flags & _COMPLEX:
        return None
    (numbers,) = (_numbers(part, order) for part in _exactly(1, rest))
    return numbers.reshape(shape, order="F").astype(order + _CLASSES[kind], copy=False)


def _read_part(part: _Element, order: str, depth: int) -> Any:
    if part.kind != _MATRIX:
        raise ValueError(f"an element of the type {part.kind} is where an array should be")
    return _read_matrix(part.content, order, depth=depth + 1)


def _read_struct(parts: list[_Element], order: str, count: int, depth: int) -> Any:
    """Read one struct or an array of them: lengths of the names, the names, then field by field."""
    if len(parts) < 2:
        raise ValueError("a struct is cut short")
    (length,) = (int(number) for number in _numbers(parts[0], order))
    text = bytes(parts[1].content)
    if length < 1 or len(text) % length:
        raise ValueError("a struct's names are damaged")
    names = [
        text[start : start + length].partition(b"\0")[0].decode("latin-1")
        for start in range(0, len(text), length)
    ]
    if not names:
        return {}
    values = iter(_exactly(count * len(names), parts[2:]))
    structs = [
        {name: _read_part(next(values), order, depth) for name in names} for _ in range(count)
    ]
    return structs[0] if count == 1 else structs


def _read_text(part: _Element, order: str) -> str:
    if part.kind in _ENCODINGS:
        return bytes(part.content).decode(_ENCODINGS[part.kind][order])
    return "".join(map(chr, _numbers(part, order)))


def _exactly(count: int, parts: list[_Element]) -> list[_Element]:
    if len(parts) != count:
        raise ValueError(f"{len(parts)} elements are where {count} should be")
    return parts


def _numbers(part: _Element, order: str) -> np.ndarray:
    if part.kind not in _FORMATS:
        raise ValueError(f"an element of the type {part.kind} is where numbers should be")
    return np.frombuffer(part.content, order + _FORMATS[part.kind])
