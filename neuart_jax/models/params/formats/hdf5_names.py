"""Lists of names in attributes of HDF5 files, read without trusting a damaged file.

Texts of variable length lie apart from the attribute in a "global heap". When lengths in there are
damaged the HDF5 library (2.0) runs forever or crashes the interpreter, so those few bytes are
parsed here instead.

Source: The HDF Group, "HDF5 File Format Specification Version 3.0", sections III.E (global heap),
IV.A.1 (object headers) and IV.A.2.m (attribute message).
"""

import math
import struct
from collections.abc import Iterator

import h5py
import numpy as np

_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_MOST_CONTINUATIONS = 64
_REFERENCE = struct.Struct("<IQI")  # Length, address of the heap, index in the heap.


def read_names(group: h5py.Group, attribute: str, content: memoryview) -> list[str]:
    """Read an attribute that holds one name or a list of them.

    Args:
      group: of a file whose addresses count from its first byte.
      attribute: its name.
      content: the file's bytes.

    Raises:
      KeyError: there is no such attribute.
      ValueError: it holds something else, or is damaged.
    """
    if attribute not in group.attrs:
        raise KeyError(attribute)
    opened = h5py.h5a.open(group.id, attribute.encode())
    count, kind = math.prod(opened.shape or ()), opened.get_type()
    if opened.shape is not None and count == 0:
        return []
    if not isinstance(kind, h5py.h5t.TypeStringID):
        raise ValueError(f"{attribute} holds no names")
    if not kind.is_variable_str():
        values = np.ravel(group.attrs[attribute])
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values]
    data = _attribute_data(content, h5py.h5o.get_info(group.id).addr, attribute.encode())
    if _REFERENCE.size * count > len(data):
        raise ValueError(f"{attribute} is cut short")
    references = data[: _REFERENCE.size * count]
    return [_heap_text(content, *reference) for reference in _REFERENCE.iter_unpack(references)]


def _slice(content: memoryview, start: int, length: int) -> memoryview:
    if start + length > len(content):
        raise ValueError("it is cut short")
    return content[start : start + length]


def _attribute_data(content: memoryview, address: int, name: bytes) -> memoryview:
    for kind, message in _messages(content, address):
        if kind != _ATTRIBUTE:
            continue
        version, flags, *sizes = struct.unpack("<BBHHH", _slice(message, 0, 8))
        start = 9 if version == 3 else 8
        if version not in (1, 2, 3) or (version > 1 and flags):
            raise ValueError(f"attributes of the version {version} with flags {flags:#x}")
        found = bytes(_slice(message, start, sizes[0]))
        # The first version fills each part up to a multiple of eight bytes.
        start += sum(size + (-size % 8 if version == 1 else 0) for size in sizes)
        if found.partition(b"\0")[0] == name:
            return _slice(message, start, max(len(message) - start, 0))
    raise KeyError(name.decode())


def _messages(content: memoryview, address: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, content) of an object header's messages, of either version of the format."""
    start = _slice(content, address, 16)
    if bytes(start[:4]) == b"OHDR":
        flags = start[5]
        has_order = flags & 4
        # Four times, and two limits of the attributes' storage.
        position = 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
        width = 1 << (flags & 3)
        length = int.from_bytes(_slice(content, address + position, width), "little")
        blocks = [_slice(content, address + position + width, length)]
        head = struct.Struct("<BHBH" if has_order else "<BHB")
    else:
        if start[0] != 1:
            raise ValueError(f"an object header of the version {start[0]}")
        blocks = [_slice(content, address + 16, struct.unpack("<I", start[8:12])[0])]
        head = struct.Struct("<HHB3x")
    for index in range(_MOST_CONTINUATIONS):
        if index == len(blocks):
            return
        block, position = blocks[index], 0
        while position + head.size <= len(block):
            kind, length = head.unpack(block[position : position + head.size])[:2]
            message = _slice(block, position + head.size, length)
            position += head.size + length
            if kind == _CONTINUATION:
                at, size = struct.unpack("<QQ", _slice(message, 0, 16))
                following = _slice(content, at, size)
                # The later version has a signature before and a checksum behind.
                blocks.append(following[4:-4] if bytes(following[:4]) == b"OCHK" else following)
            yield kind, message


def _heap_text(content: memoryview, length: int, address: int, index: int) -> str:
    """Look up an object of a global heap: (index, references, reserved, size), then its bytes."""
    head = _slice(content, address, 16)
    if bytes(head[:5]) != b"GCOL\1":
        raise ValueError("a heap is damaged")
    heap = _slice(content, address, struct.unpack("<Q", head[8:])[0])
    position = 16
    while position + 16 <= len(heap):
        found, size = struct.unpack("<H6xQ", heap[position : position + 16])
        if found == index and index:
            return bytes(_slice(_slice(heap, position + 16, size), 0, length)).decode()
        # The object 0 is the space that is left, to the end.
        if found == 0:
            break
        position += 16 + size + -size % 8
    raise ValueError("a heap lacks a name")
