"""Names in HDF5 attributes: what h5py reads, in every way that it writes them."""

import h5py
import numpy as np
import pytest

from neuart_jax.models.params.formats.hdf5_names import read_names

NAMES = ["conv1", "", "a" * 300, "Grüße", "conv1"]
STORED = {
    "fixed length": np.array([name.encode() for name in NAMES]),
    "variable length": np.array(NAMES, object),
    "variable length, of bytes": np.array([name.encode() for name in NAMES], object),
}


def read(path, name, *, group="layer"):
    with h5py.File(path) as file:
        return read_names(file[group], name, memoryview(path.read_bytes()))


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
@pytest.mark.parametrize("stored", STORED)
def test_names_are_those_that_were_written(tmp_path, stored, libver):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver) as file:
        group = file.create_group("layer")
        group.attrs["first"] = "one"
        group.attrs["names"] = STORED[stored]
        group.attrs["last"] = b"last"
        group.attrs["none"] = np.zeros(0)
    assert read(path, "names") == NAMES
    assert read(path, "first") == ["one"]
    assert read(path, "last") == ["last"]
    assert read(path, "none") == []
    with pytest.raises(KeyError, match="other"):
        read(path, "other")


@pytest.mark.parametrize("track_order", [False, True])
@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_attributes_added_later_are_found(tmp_path, libver, track_order):
    """They lie in continuations of the object's header."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver) as file:
        for name in ("layer", "other"):
            file.create_group(name, track_order=track_order)
        for index in range(6):
            for name in ("layer", "other"):
                file[name].attrs[f"name{index}"] = [f"{name}{index}"] * 5
    for index in range(6):
        assert read(path, f"name{index}") == [f"layer{index}"] * 5
        assert read(path, f"name{index}", group="other") == [f"other{index}"] * 5


@pytest.mark.parametrize("value", [3, [1.5, 2], np.array([(1, 2)], "i4,i4"), h5py.Empty("f")])
def test_what_is_no_name_is_refused(tmp_path, value):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layer").attrs["names"] = value
    with pytest.raises(ValueError, match="names holds no names"):
        read(path, "names")


def change(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("layer").attrs["names"] = ["fourteen bytes", "more"]
    return tmp_path / "a.h5"


def test_damaged_heaps_are_refused(path):
    content = path.read_bytes()
    start = content.index(b"GCOL\1")
    size = content[start + 8 : start + 16]
    # (index, count, reserved, size), then the text.
    start = content.index(b"fourteen bytes")
    head = content[start - 16 : start]
    assert head[8] == 14
    for old, new, cause in (
        (b"GCOL\1", b"GCOT\1", "heap is damaged"),
        (b"GCOL\1\0\0\0" + size, b"GCOL\1\0\0\0" + b"\xff" * 8, "cut short"),
        (b"GCOL\1\0\0\0" + size, b"GCOL\1\0\0\0" + bytes(8), "lacks a name"),
        (head, head[:8] + b"\xff" * 8, "cut short|lacks a name"),
        (head, head[:8] + b"\x0d" + bytes(7), "cut short"),
        (head, b"\x07" + head[1:], "lacks a name"),
        (head, b"\x00" + head[1:], "lacks a name"),
    ):
        path.write_bytes(content)
        change(path, old, new)
        with pytest.raises(ValueError, match=cause):
            read(path, "names")
