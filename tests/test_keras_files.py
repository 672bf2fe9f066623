"""Keras' weights files in every spelling and in every state of damage."""

import functools
import zipfile

import h5py
import numpy as np
import pytest
from weights_files import (
    assert_same_bits,
    expected_variables,
    random_layers,
    read_here,
    write_keras,
    write_keras_3,
)

from neuart_jax.config.errors import InputError
from neuart_jax.models.params.canonical import check_variables
from neuart_jax.models.params.catalog import CAFFE
from neuart_jax.models.params.conventions import TORCH
from neuart_jax.models.params.formats import keras_files

read_keras_file = functools.partial(keras_files.read_keras_file, read=read_here)

SPELLINGS = {
    "published": {},
    "names as text": {"as_bytes": False},
    "layer names in two parts": {"num_parts": 2},
    "layer names in five parts": {"num_parts": 5, "as_bytes": False},
    "with a header": {"header": True},
    "current": {"spelling": "current", "as_bytes": False, "header": True},
    "whole model": {"nested": True, "header": True},
    "whole model with its top": {"nested": True, "top": True, "spelling": "current"},
    "published with its top": {"top": True},
    "in double precision": {"dtype": np.float64},
    "compressed": {"compression": "gzip"},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("model", ["vgg19", "vgg16", "resnet50"])
def test_every_spelling_gives_the_same_bits(tmp_path, model, spelling):
    path = write_keras(tmp_path / "weights.h5", model, **SPELLINGS[spelling])
    weights = read_keras_file(path, model=model)
    assert_same_bits(weights.variables, expected_variables(model))
    assert weights.normalization == CAFFE
    assert weights.stride_on == ("1x1" if model == "resnet50" else "")


def test_the_published_names_are_the_published_ones(tmp_path):
    with h5py.File(write_keras(tmp_path / "vgg19.h5", "vgg19")) as file:
        assert file["/block1_conv1/block1_conv1_W_1:0"].shape == (3, 3, 3, 2)
        assert isinstance(file.attrs["layer_names"][0], bytes)
        assert "keras_version" not in file.attrs
    with h5py.File(write_keras(tmp_path / "resnet50.h5", "resnet50")) as file:
        assert file["/conv1_conv/conv1_conv/kernel:0"].shape == (7, 7, 3, 2)
        assert file["/conv1_bn/conv1_bn/moving_variance:0"].shape == (2,)


def check(path, *, model="vgg19"):
    """Read a file and compare it with the network that `random_layers` makes."""
    shapes = expected_variables(model)
    variables = read_keras_file(path, model=model).variables
    check_variables(variables, needed=shapes, known=shapes, source=str(path))


def keras_error(path, model="vgg19"):
    with pytest.raises(InputError) as caught:
        read_keras_file(path, model=model)
    message = str(caught.value)
    assert message.startswith(f"{path} can't be read as Keras weights (")
    assert f"expected a Keras .h5 weights file of {model}; get the file again, or" in message
    return message


@pytest.mark.parametrize("content", [b"", b"no such thing", b"\x89HDF\r\n\x1a\n", bytes(4096)])
def test_what_is_not_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "weights.h5"
    path.write_bytes(content)
    keras_error(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    keras_error(tmp_path / "none.h5")
    keras_error(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_keras_file_is_refused(tmp_path, share):
    path = write_keras(tmp_path / "weights.h5", "resnet50")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    keras_error(path, "resnet50")


def write_nothing(file):
    pass


def write_missing_layer(file):
    file.attrs["layer_names"] = [b"block1_conv1"]


def write_missing_array(file):
    file.attrs["layer_names"] = [b"block1_conv1"]
    file.create_group("block1_conv1").attrs["weight_names"] = [b"kernel"]


def write_missing_names(file):
    file.attrs["layer_names"] = [b"block1_conv1"]
    file.create_dataset("block1_conv1/kernel", data=np.ones((3, 3, 3, 4)))


def write_group_for_array(file):
    write_missing_array(file)
    file["block1_conv1/kernel/kernel"] = np.ones((3, 3, 3, 4))


def write_text_for_array(file):
    write_missing_array(file)
    file["block1_conv1/kernel"] = "three"


def write_link_to_another_file(file):
    write_missing_array(file)
    file["block1_conv1/kernel"] = h5py.ExternalLink("/etc/passwd", "kernel")


def write_link_in_the_same_file(file):
    write_missing_array(file)
    file["block1_conv1/kernel"] = h5py.SoftLink("/block1_conv1")


def write_array_in_another_file(file):
    write_missing_array(file)
    external = [("/etc/passwd", 0, 12)]
    file["block1_conv1"].create_dataset("kernel", (3,), "f4", external=external)


def write_array_of_pieces_elsewhere(file):
    write_missing_array(file)
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (3,))
    file["block1_conv1"].create_virtual_dataset("kernel", layout)


def write_huge_array_of_nothing(file):
    write_missing_array(file)
    file["block1_conv1"].create_dataset("kernel", (10**6, 10**6), "f4", chunks=(100, 100))


def write_whole_numbers(file):
    file.attrs["layer_names"] = [b"block1_conv1"]
    group = file.create_group("block1_conv1")
    group.attrs["weight_names"] = [b"kernel", b"bias"]
    group["kernel"], group["bias"] = np.ones((3, 3, 3, 2), int), np.ones(2, "f4")


def write_number_for_names(file):
    file.attrs["layer_names"] = 3


def write_array_for_model(file):
    file["model_weights"] = np.ones(3)


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (write_nothing, "'layer_names'"),
        (write_link_to_another_file, "'kernel'"),
        (write_link_in_the_same_file, "'kernel'"),
        (write_array_in_another_file, "is in another file"),
        (write_array_of_pieces_elsewhere, "is in another file"),
        (write_huge_array_of_nothing, "would be 4,000,000,000,000 bytes"),
        (write_whole_numbers, "weights can't have the dtype int64"),
        (write_missing_layer, "block1_conv1"),
        (write_missing_array, "kernel"),
        (write_missing_names, "'weight_names'"),
        (write_group_for_array, ""),
        (write_text_for_array, ""),
        (write_number_for_names, "layer_names holds no names"),
        (write_array_for_model, "'layer_names'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_another_layout_is_refused(tmp_path, write, cause):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        write(file)
    assert cause in keras_error(path)


def test_weights_of_another_model_are_refused_with_both_sides(tmp_path):
    path = write_keras(tmp_path / "weights.h5", "resnet50")
    with pytest.raises(InputError) as caught:
        check(path)
    assert str(caught.value) == (
        f"{path} doesn't fit the network (not in the file: params/conv1_1/bias, "
        "params/conv1_1/kernel, params/conv1_2/bias, params/conv1_2/kernel and 28 more; only in "
        "the file: batch_stats/conv1_bn/mean, batch_stats/conv1_bn/var, "
        "batch_stats/conv2_block1_0_bn/mean, batch_stats/conv2_block1_0_bn/var and 314 more); "
        "expected 32 arrays of the network's shapes; check that --model and --weights belong "
        "together."
    )


@pytest.mark.parametrize("arrays", [1, 3, 5])
def test_a_layer_with_another_number_of_arrays_is_told(tmp_path, arrays):
    layers = random_layers("vgg19")
    path = tmp_path / "weights.h5"
    with h5py.File(write_keras(path, "vgg19", layers=layers), "a") as file:
        names = [f"w{index}" for index in range(arrays)]
        file["block2_conv1"].attrs["weight_names"] = names
        for name in names:
            file["block2_conv1"][name] = np.ones(3)
    with pytest.raises(InputError, match=f"only in the file: params/conv2_1/{arrays} arrays"):
        check(path)


def test_a_first_kernel_of_another_rank_is_told_as_it_is(tmp_path):
    layers = random_layers("vgg19")
    layers["block1_conv1"][0] = np.ones((3, 4), np.float32)
    path = write_keras(tmp_path / "weights.h5", "vgg19", layers=layers)
    with pytest.raises(InputError, match=r"conv1_1/kernel is \(3, 4\) but should be \(3, 3, 3, 2"):
        check(path)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, number):
    layers = random_layers("resnet50")
    layers["conv1_bn"][3][1] = number
    path = write_keras(tmp_path / "weights.h5", "resnet50", layers=layers)
    with pytest.raises(InputError) as caught:
        check(path, model="resnet50")
    assert str(caught.value) == (
        f"{path} has numbers that are not finite in batch_stats/conv1_bn/var; expected finite "
        "weights; get the file again."
    )


KERAS_3_SPELLINGS = {
    "with names": ("w.weights.h5", {}),
    "without names": ("w.weights.h5", {"names": False}),
    "with names and the top": ("w.weights.h5", {"top": True}),
    "without names and with the top": ("w.weights.h5", {"names": False, "top": True}),
    "under another file name": ("weights.bin", {}),
    "archive": ("w.keras", {}),
    "archive without names": ("w.keras", {"names": False}),
}


@pytest.mark.parametrize("spelling", KERAS_3_SPELLINGS)
@pytest.mark.parametrize("model", ["vgg19", "vgg16", "resnet50"])
def test_every_spelling_of_keras_3_gives_the_same_bits(tmp_path, model, spelling):
    name, options = KERAS_3_SPELLINGS[spelling]
    path = write_keras_3(tmp_path / name, model, **options)
    weights = read_keras_file(path, model=model)
    assert_same_bits(weights.variables, expected_variables(model))
    assert weights.normalization == CAFFE
    assert weights.stride_on == ("1x1" if model == "resnet50" else "")


def test_numbers_of_layers_are_counted_in_the_order_of_the_model(tmp_path):
    """The alphabet puts 10 before 2, and a stage's first shortcut comes after the 3x3."""
    path = write_keras_3(tmp_path / "w.weights.h5", "resnet50", names=False)
    layers = random_layers("resnet50")
    with h5py.File(path) as file:
        assert list(file["layers"])[:5] != sorted(file["layers"], key=len)[:5]
        for key, layer in {
            "conv2d": "conv1_conv",
            "conv2d_1": "conv2_block1_1_conv",
            "conv2d_2": "conv2_block1_2_conv",
            "conv2d_3": "conv2_block1_0_conv",
            "conv2d_4": "conv2_block1_3_conv",
            "conv2d_10": "conv2_block3_3_conv",
            "conv2d_13": "conv3_block1_0_conv",
            "batch_normalization_13": "conv3_block1_0_bn",
            "conv2d_52": "conv5_block3_3_conv",
        }.items():
            np.testing.assert_array_equal(file[f"layers/{key}/vars/0"], layers[layer][0])


def test_a_layers_name_counts_more_than_its_number(tmp_path):
    """A model made of the same layers in another order has other numbers."""
    layers = random_layers("resnet50")
    path = write_keras_3(
        tmp_path / "w.weights.h5", "resnet50", layers=dict(reversed(layers.items()))
    )
    variables = read_keras_file(path, model="resnet50").variables
    assert_same_bits(variables, expected_variables("resnet50"))


def test_other_layers_and_more_of_them_are_told(tmp_path):
    path = write_keras_3(tmp_path / "w.weights.h5", "vgg19", names=False)
    with h5py.File(path, "a") as file:
        for key in ("conv2d_16", "conv2d_99999", "depthwise_conv2d"):
            file[f"layers/{key}/vars/0"], file[f"layers/{key}/vars/1"] = np.ones(3), np.ones(2)
        file["layers/dense_7/vars/0"] = np.ones(3)
    with pytest.raises(InputError) as caught:
        check(path)
    extra = [
        f"params/{key}/{kind}"
        for key in ("conv2d_16", "conv2d_99999", "depthwise_conv2d")
        for kind in ("bias", "kernel")
    ]
    told = f"(only in the file: {', '.join(extra[:4])} and 2 more)"
    assert told in str(caught.value)


def test_torchvisions_weights_in_keras_layout_are_read_as_told(tmp_path):
    """As in keras/vgg_19_imagenet on Hugging Face; the layout is no different."""
    path = write_keras_3(tmp_path / "w.weights.h5", "vgg19")
    weights = read_keras_file(path, model="vgg19", preprocessing="torch")
    expected = expected_variables("vgg19")
    expected["params/conv1_1/kernel"] = expected["params/conv1_1/kernel"][:, :, ::-1]
    assert_same_bits(weights.variables, expected)
    assert weights.normalization == TORCH
    same = read_keras_file(path, model="vgg19", preprocessing="caffe")
    assert_same_bits(same.variables, expected_variables("vgg19"))


def archive(path, content, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("model.weights.h5", content)
    return path


def test_an_archive_packed_anew_is_read(tmp_path):
    content = write_keras_3(tmp_path / "w.h5", "vgg19").read_bytes()
    path = archive(tmp_path / "w.keras", content, compression=zipfile.ZIP_DEFLATED)
    assert_same_bits(read_keras_file(path, model="vgg19").variables, expected_variables("vgg19"))


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path):
    path = archive(tmp_path / "w.keras", bytes(10**7), compression=zipfile.ZIP_DEFLATED)
    assert "model.weights.h5 would be 10,000,000 bytes" in keras_error(path)


def test_a_changed_byte_in_an_archive_is_refused(tmp_path):
    path = write_keras_3(tmp_path / "w.keras", "vgg19")
    content = bytearray(path.read_bytes())
    kernel = random_layers("vgg19")["block3_conv2"][0].tobytes()
    content[content.index(kernel) + 5] ^= 1
    path.write_bytes(content)
    assert "Bad CRC-32" in keras_error(path)
