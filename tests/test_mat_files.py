"""MATLAB's files as scipy writes them and as scipy reads them."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from neuart_jax.models.params.formats.mat_files import read_mat

NUMBERS = {
    "matrix": np.arange(24.0).reshape(2, 3, 4),
    "single": np.float32([[1.5, -2]]),
    "empty": np.zeros((0, 3)),
    "scalar": 3.25,
    "whole": np.int16([[-3, 4, 5]]),
    "bytes": np.uint8([[1, 2, 3, 4, 5]]),
    "wide": np.array([[2**40, -1]]),
}


def write(path, document, **options):
    scipy.io.savemat(path, document, **options)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_numbers_are_as_scipy_reads_them(tmp_path, compress):
    path = write(tmp_path / "a.mat", NUMBERS, do_compression=compress)
    expected = scipy.io.loadmat(path)
    read = read_mat(path, [*NUMBERS, "none"])
    assert sorted(read) == sorted(NUMBERS)
    for name, array in read.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], strict=True)


@pytest.mark.parametrize("compress", [False, True])
def test_texts_cells_and_structs_are_as_they_were_written(tmp_path, compress):
    cell = np.empty((1, 3), object)
    cell[0] = "conv1_1", {"stride": 2.0}, np.float32([[1, 2]])
    two = np.array([(1.0, "a"), (2.0, "b")], dtype=[("x", object), ("y", object)])
    document = {"cell": cell, "text": "Grüße", "struct": {"a": {"b": 3.0}, "c": ""}, "two": two}
    path = write(tmp_path / "a.mat", document, do_compression=compress)
    read = read_mat(path, document)
    assert read["text"] == "Grüße"
    assert read["struct"] == {"a": {"b": 3.0}, "c": ""}
    assert read["cell"][:2] == ["conv1_1", {"stride": 2.0}]
    np.testing.assert_array_equal(read["cell"][2], [[1, 2]])
    assert read["two"] == [{"x": 1.0, "y": "a"}, {"x": 2.0, "y": "b"}]


def test_only_what_is_asked_for_is_read(tmp_path):
    path = write(tmp_path / "a.mat", {"a": 1.0, "b": 2.0})
    assert list(read_mat(path, ("b",))) == ["b"]


def test_what_is_no_weight_is_none(tmp_path):
    document = {"complex": np.array([[1j]]), "sparse": scipy.sparse.csc_matrix(np.eye(3))}
    path = write(tmp_path / "a.mat", document)
    assert read_mat(path, document) == {"complex": None, "sparse": None}


def element(kind, content, *, order="<"):
    padding = b"" if kind == 15 else bytes(-len(content) % 8)
    return struct.pack(f"{order}II", kind, len(content)) + content + padding


def matrix(kind, shape, *parts, name=b"a", order="<", flags=0):
    head = element(6, struct.pack(f"{order}II", kind | flags, 0), order=order)
    head += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order=order)
    return element(14, head + element(1, name, order=order) + b"".join(parts), order=order)


def write_elements(path, *elements, order="<"):
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x100)
    path.write_bytes(header + (b"IM" if order == "<" else b"MI") + b"".join(elements))
    return path


def test_numbers_of_the_other_byte_order_and_stored_narrower_are_read(tmp_path):
    narrow = element(3, struct.pack(">3h", 1, -2, 3), order=">")
    path = write_elements(tmp_path / "a", matrix(6, (1, 3), narrow, order=">"), order=">")
    np.testing.assert_array_equal(scipy.io.loadmat(path)["a"], [[1, -2, 3]])
    read = read_mat(path, ("a",))["a"]
    assert read.dtype == np.dtype(">f8")
    np.testing.assert_array_equal(read, [[1, -2, 3]])


NINE = element(9, np.arange(3.0).tobytes())
CUT = matrix(6, (1, 3), NINE)[:-8]
BOMB = zlib.compress(struct.pack("<II", 14, 2**31 - 1) + bytes(10**6))
SHORT = zlib.compress(struct.pack("<II", 14, 64) + bytes(60))
MANY = zlib.compress(matrix(6, (1, 3000), element(9, np.random.default_rng(0).bytes(24000))))
LONG = zlib.compress(struct.pack("<II", 14, 64) + bytes(80))


def nested(depth):
    inner = matrix(6, (1, 3), NINE, name=b"")
    for _ in range(depth - 1):
        inner = matrix(1, (1, 1), inner, name=b"")
    return matrix(1, (1, 1), inner)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (CUT, "cut short"),
        (b"\0\0\0", "cut short"),
        (struct.pack("<II", 14, 2**32 - 1), "cut short"),
        (matrix(6, (1, 4), NINE), "cannot reshape"),
        (matrix(6, (-1, -3), NINE), "shape"),
        (matrix(6, (2**30, 2**30), NINE), "reshape|too large|too big"),
        (matrix(6, (1, 3)), "0 elements are where 1 should be"),
        (matrix(6, (1, 3), NINE, NINE), "2 elements are where 1 should be"),
        (matrix(6, (1, 3), element(77, bytes(24))), "type 77"),
        (matrix(1, (1, 3), matrix(6, (1, 3), NINE)), "1 elements are where 3 should be"),
        (matrix(1, (1, 1), NINE), "type 9 is where an array"),
        (matrix(1, (2**30, 2**30)), "0 elements are where"),
        (matrix(2, (1, 1), element(5, bytes(4)), element(1, b"abcd")), "names are damaged"),
        (matrix(2, (1, 1)), "struct is cut short"),
        (nested(40), "nested too deeply"),
        (element(15, BOMB), "would be 2,147,483,655 bytes"),
        (element(15, SHORT), "shorter than it says"),
        (element(15, LONG), "longer than it says"),
        (element(15, MANY[: len(MANY) // 2]), "cut short"),
        (
            element(15, zlib.compress(matrix(6, (1, 3), NINE))[:-4] + b"sums"),
            "incorrect data check",
        ),
        (element(15, b"x"), "incorrect header|damaged"),
    ],
)
def test_damage_is_told(tmp_path, content, cause):
    path = write_elements(tmp_path / "a", content)
    with pytest.raises((ValueError, zlib.error), match=cause):
        read_mat(path, ("a",))


def test_what_is_nested_a_little_is_read(tmp_path):
    path = write_elements(tmp_path / "a", nested(8))
    read = read_mat(path, ("a",))["a"]
    for _ in range(8):
        (read,) = read if isinstance(read, list) else (read,)
    np.testing.assert_array_equal(read, [[0, 1, 2]])


def test_another_header_is_told(tmp_path):
    (tmp_path / "a").write_bytes(bytes(200))
    with pytest.raises(ValueError, match="header is damaged"):
        read_mat(tmp_path / "a", ("a",))
