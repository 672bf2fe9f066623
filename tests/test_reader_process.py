"""Files that are read in a process of their own, which may crash, hang or want all the memory."""

import os
import struct
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest
from test_convert import write_layout
from weights_files import read_here

from neuart_jax.config.errors import InputError
from neuart_jax.models.params.formats import raw_layers, reader_process
from neuart_jax.models.params.formats.convert import find_model, read_weights
from neuart_jax.models.params.formats.reader_process import read_in_process, remember_readings


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        left, right = left.values(), right.values()
    if isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right, strict=True)
    elif isinstance(left, str | None):
        assert left == right
    else:
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("keras", "legacy h5"),
        ("keras", "weights.h5 without names"),
        ("keras", "keras"),
        ("matconvnet", "packed mat"),
    ],
)
def test_a_process_finds_what_is_there(tmp_path, kind, layout):
    path = write_layout(layout, tmp_path, "vgg16")
    found = read_in_process(kind, path)
    assert len(found["layers"]) >= 13
    assert_same(found, read_here(kind, path))


@pytest.mark.parametrize("kind", raw_layers.READERS)
def test_a_process_starts_without_the_package_and_jax(tmp_path, kind):
    """Which take seconds."""
    code = "import runpy, sys; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], None, "
    code += "'__main__')\nfinally: print(*sys.modules, sep='\\n', file=sys.stderr)"
    path = tmp_path / "none"
    command = [sys.executable, "-c", code, raw_layers.__file__, kind, path, str(2**30)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == raw_layers.REFUSED
    modules = done.stderr.split()
    assert "numpy" in modules
    assert not {name.partition(".")[0] for name in modules} & {"neuart_jax", "jax", "flax", "optax"}


def test_documents_come_back_as_they_were_written(tmp_path):
    document = {
        "text": "Grüße",
        "none": None,
        "list": [{"a": np.float16([[1.5]])}, {}, {"b": np.arange(3.0), "c": "x"}],
        "other order": np.array([1, 2], ">f4"),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(1.5),
    }
    path = tmp_path / "a"
    with path.open("wb") as file:
        raw_layers.write_document(file, document)
    with path.open("rb") as file:
        assert_same(raw_layers.load_document(file), document)
        assert not file.read()


def write_elements(path, *elements):
    """Write a .mat file of bytes."""
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100)
    path.write_bytes(header + b"IM" + b"".join(elements))
    return path


def element(kind, content):
    padding = b"" if kind == 15 else bytes(-len(content) % 8)
    return struct.pack("<II", kind, len(content)) + content + padding


def matrix(kind, shape, *parts, name=b""):
    head = element(6, struct.pack("<II", kind, 0))
    head += element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, head + element(1, name) + b"".join(parts))


def test_a_real_crash_is_a_sentence(tmp_path):
    """scipy 1.17 ends the process for numbers of a type that there is none of."""
    path = write_elements(tmp_path / "a", matrix(6, (1, 3), element(77, bytes(24)), name=b"layers"))
    with pytest.raises(InputError, match="can't be read as MatConvNet weights"):
        read_weights(path, model="vgg19")


def test_a_file_that_unpacks_to_gigabytes_is_a_sentence(tmp_path):
    packer = zlib.compressobj(1)
    numbers = bytes(2**20)
    num_bytes = 2**10 * len(numbers)
    head = struct.pack("<II", 14, num_bytes + 56)
    head += element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<2i", 1, num_bytes // 8))
    head += element(1, b"layers") + struct.pack("<II", 9, num_bytes)
    packed = packer.compress(head) + b"".join(packer.compress(numbers) for _ in range(2**10))
    path = write_elements(tmp_path / "a", element(15, packed + packer.flush()))
    assert path.stat().st_size < 2**24
    with pytest.raises(InputError, match=r"it would take far more memory than the file has bytes"):
        read_weights(path, model="vgg19")


def run_instead(monkeypatch, tmp_path, code):
    """Have a program run in place of the reader."""
    program = tmp_path / "program.py"
    program.write_text(code)
    monkeypatch.setattr(raw_layers, "__file__", str(program))
    path = tmp_path / "a.h5"
    h5py.File(path, "w").close()
    return path


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "reader crashed: Segmentation"),
        ("import os; os.abort()", "its reader crashed: Aborted"),
        ("raise RuntimeError('such a thing')", "its reader failed: RuntimeError: such a thing"),
        ("import sys; sys.exit(7)", "its reader failed: exit code 7"),
        ("print('no document')", "can't be read as Keras weights"),
        ("", "can't be read as Keras weights"),
    ],
)
def test_every_end_of_a_reader_is_a_sentence(tmp_path, monkeypatch, code, cause):
    path = run_instead(monkeypatch, tmp_path, code)
    with pytest.raises(InputError, match=cause) as caught:
        read_weights(path, model="vgg19")
    assert "get the file again, or give another --weights" in str(caught.value)


def test_a_reader_that_hangs_is_ended(tmp_path, monkeypatch):
    file = tmp_path / "pid"
    path = run_instead(
        monkeypatch,
        tmp_path,
        f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)",
    )
    monkeypatch.setattr(reader_process, "MOST_SECONDS", 1.0)
    with pytest.raises(InputError, match="its reader did not end within 1 seconds"):
        read_weights(path, model="vgg19")
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_where_no_process_can_be_started_a_sentence_says_so(tmp_path, monkeypatch):
    path = run_instead(monkeypatch, tmp_path, "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(InputError, match="its reader can't be started: "):
        read_weights(path, model="vgg19")


def test_a_file_is_read_once_to_find_its_model(tmp_path, monkeypatch):
    path = write_layout("legacy h5", tmp_path, "resnet50", shrink=1)
    count = []
    monkeypatch.setattr(
        "neuart_jax.models.params.formats.reader_process.read_in_process",
        lambda kind, path: count.append(path) or read_here(kind, path),
    )
    assert find_model(path) == "resnet50"
    assert count == [path]


def test_failures_are_remembered(tmp_path, monkeypatch):
    path = run_instead(monkeypatch, tmp_path, "raise SystemExit('once')")
    read = remember_readings()
    with pytest.raises(ValueError, match="once"):
        read("keras", path)
    run_instead(monkeypatch, tmp_path, "raise SystemExit('twice')")
    with pytest.raises(ValueError, match="once"):
        read("keras", path)


def test_attributes_of_names_may_be_stored_in_any_way(tmp_path):
    names = ["conv1", "", "a" * 300, "Grüße", "conv1"]
    stored = (
        np.array([name.encode() for name in names]),
        np.array(names, object),
        np.array([name.encode() for name in names], object),
    )
    for libver in ("earliest", "v108", "latest"):
        for values in stored:
            with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
                file.attrs["layer_names"] = values
                file.attrs["none"] = np.zeros(0)
                assert raw_layers._names(file, "layer_names") == names
                assert raw_layers._names(file, "none") == []


@pytest.mark.parametrize("value", [3, [1.5, 2], np.array([(1, 2)], "i4,i4"), h5py.Empty("f")])
def test_what_is_no_name_is_refused(tmp_path, value):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = value
    with pytest.raises(ValueError, match="layer_names holds no names"):
        read_here("keras", tmp_path / "a.h5")


def test_whole_numbers_that_a_mat_file_stores_narrower_are_weights(tmp_path):
    """MATLAB stores numbers in the smallest format that holds them; scipy.io.savemat does not."""
    kernel = matrix(7, (3, 3, 3, 2), element(2, bytes(range(54))))
    bias = matrix(6, (1, 2), element(3, struct.pack("<2h", -1, 300)))
    fields = {
        b"name": matrix(4, (1, 7), element(16, b"conv1_1")),
        b"type": matrix(4, (1, 4), element(16, b"conv")),
        b"weights": matrix(1, (1, 2), kernel, bias),
    }
    names = b"".join(name.ljust(8, b"\0") for name in fields)
    names = element(5, struct.pack("<i", 8)) + element(1, names)
    layer = matrix(2, (1, 1), names, *fields.values())
    other = matrix(2, (1, 1), names, fields[b"name"], *[matrix(4, (1, 1), element(16, b"x"))] * 2)
    path = write_elements(tmp_path / "a", matrix(1, (1, 2), layer, other, name=b"layers"))
    (found,) = read_here("matconvnet", path)["layers"]
    assert (found["kernel"].dtype, found["bias"].dtype) == (np.float32, np.float64)
    expected = np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2, order="F")
    np.testing.assert_array_equal(found["kernel"], expected)
    np.testing.assert_array_equal(found["bias"], [-1, 300])


def test_reading_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = write_layout("legacy h5", tmp_path, "vgg19")
    read_in_process("keras", path)
    assert not list((tmp_path / "temporary").iterdir())
