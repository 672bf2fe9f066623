"""Weights files of others, in every spelling and in every state of damage."""

import json
import struct

import h5py
import numpy as np
import pytest
import safetensors.numpy

from neuart_jax.errors import InputError
from neuart_jax.params.catalog import CAFFE, FITTED
from neuart_jax.params.convert import (
    Weights,
    check_variables,
    flatten,
    nest,
    read_keras_h5,
    read_safetensors,
    write_safetensors,
)

EPSILON_EXCESS = 1e-8
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
TOP_LAYERS = ("fc1", "fc2", "predictions", "probs", "fc1000")


def random_layers(model):
    """Keras' layers in its order, with few channels: name to arrays in the order of the file."""
    rng = np.random.default_rng(4)

    def convolution(size, in_channels, out_channels):
        kernel = rng.standard_normal((size, size, in_channels, out_channels), np.float32)
        return [kernel, rng.standard_normal(out_channels, np.float32)]

    def batch_norm(channels):
        return list(rng.random((4, channels), np.float32) + np.float32(0.5))

    if model == "vgg19":
        return {
            "input_1": [],
            "block1_conv1": convolution(3, 3, 5),
            "block1_conv2": convolution(3, 5, 4),
            "block1_pool": [],
            "block2_conv1": convolution(3, 4, 6),
        }
    return {
        "input_1": [],
        "conv1_pad": [],
        "conv1_conv": convolution(7, 3, 5),
        "conv1_bn": batch_norm(5),
        "conv1_relu": [],
        "conv2_block1_0_conv": convolution(1, 5, 8),
        "conv2_block1_0_bn": batch_norm(8),
        "conv2_block1_2_conv": convolution(3, 5, 5),
        "conv2_block1_2_bn": batch_norm(5),
        "conv2_block1_add": [],
    }


def expected_variables(model):
    variables = {}
    for layer, arrays in random_layers(model).items():
        name = layer.replace("block", "conv").replace("_conv", "_") if model == "vgg19" else layer
        if len(arrays) == 2:
            kernel, bias = arrays
            first = kernel.shape[2] == 3
            variables[f"params/{name}/kernel"] = kernel[:, :, ::-1] if first else kernel
            variables[f"params/{name}/bias"] = bias
        elif arrays:
            scale, bias, mean, var = arrays
            variables[f"params/{name}/scale"] = scale
            variables[f"params/{name}/bias"] = bias
            variables[f"batch_stats/{name}/mean"] = mean
            variables[f"batch_stats/{name}/var"] = var + np.float32(EPSILON_EXCESS)
    return variables


def array_names(model, layer, num_arrays, spelling):
    if spelling == "published" and model == "vgg19":
        return [f"{layer}_{kind}_1:0" for kind in ("W", "b")][:num_arrays]
    kinds = BATCH_NORM if num_arrays == 4 else ("kernel", "bias")[:num_arrays]
    return [f"{layer}/{kind}{':0' if spelling == 'published' else ''}" for kind in kinds]


def set_names(group, name, values, *, as_bytes, num_parts=1):
    if not values:
        group.attrs[name] = np.zeros(0)
        return
    values = np.array(values, "S") if as_bytes else np.array(values, object)
    if num_parts == 1:
        group.attrs[name] = values
        return
    for index, part in enumerate(np.array_split(values, num_parts)):
        group.attrs[f"{name}{index}"] = part


def write_keras(
    path,
    model,
    *,
    layers=None,
    spelling="published",
    as_bytes=True,
    num_parts=1,
    header=False,
    nested=False,
    top=False,
    dtype=np.float32,
):
    layers = dict(random_layers(model) if layers is None else layers)
    if top:
        layers |= {name: [np.ones((2, 3)), np.ones(3)] for name in TOP_LAYERS}
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        if nested:
            file.attrs["model_config"] = json.dumps({"class_name": "Functional"})
            root.create_group("top_level_model_weights").attrs["weight_names"] = np.zeros(0)
        if header:
            root.attrs["keras_version"], root.attrs["backend"] = "2.1.0", b"tensorflow"
        set_names(root, "layer_names", list(layers), as_bytes=as_bytes, num_parts=num_parts)
        for layer, arrays in layers.items():
            group = root.create_group(layer)
            names = array_names(model, layer, len(arrays), spelling)
            set_names(group, "weight_names", names, as_bytes=as_bytes)
            # Written last to first: what counts is the order of the names.
            for name, array in reversed(list(zip(names, arrays, strict=True))):
                group.create_dataset(name, data=np.asarray(array, dtype))
    return path


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
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("model", ["vgg19", "resnet50"])
def test_every_spelling_gives_the_same_bits(tmp_path, model, spelling):
    path = write_keras(tmp_path / "weights.h5", model, **SPELLINGS[spelling])
    weights = read_keras_h5(path, model=model)
    expected = expected_variables(model)
    assert sorted(weights.variables) == sorted(expected)
    for name, array in weights.variables.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert weights.normalization == CAFFE
    assert weights.stride_on == ("1x1" if model == "resnet50" else "")


def test_the_published_names_are_the_published_ones(tmp_path):
    with h5py.File(write_keras(tmp_path / "vgg19.h5", "vgg19")) as file:
        assert file["/block1_conv1/block1_conv1_W_1:0"].shape == (3, 3, 3, 5)
        assert isinstance(file.attrs["layer_names"][0], bytes)
        assert "keras_version" not in file.attrs
    with h5py.File(write_keras(tmp_path / "resnet50.h5", "resnet50")) as file:
        assert file["/conv1_conv/conv1_conv/kernel:0"].shape == (7, 7, 3, 5)
        assert file["/conv1_bn/conv1_bn/moving_variance:0"].shape == (5,)


def make_weights(*, stride_on="", normalization=FITTED):
    rng = np.random.default_rng(8)
    variables = {
        "params/conv1_1/kernel": rng.standard_normal((3, 3, 3, 4), np.float32),
        "params/conv1_1/bias": rng.standard_normal(4, np.float32),
        "batch_stats/conv1_bn/var": rng.random(4, np.float32),
    }
    return Weights(variables, normalization, stride_on)


@pytest.mark.parametrize("stride_on", ["", "1x1", "3x3"])
@pytest.mark.parametrize("normalization", [FITTED, CAFFE], ids=["fitted", "caffe"])
def test_safetensors_come_back_bit_for_bit(tmp_path, stride_on, normalization):
    weights = make_weights(stride_on=stride_on, normalization=normalization)
    # A view with its axes turned around is what a converter may hold.
    kernel = weights.variables["params/conv1_1/kernel"]
    weights.variables["params/conv1_1/kernel"] = kernel[:, :, ::-1].transpose(1, 0, 2, 3)
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, weights, model="vgg19")
    read = read_safetensors(path, model="vgg19")
    assert sorted(read.variables) == sorted(weights.variables)
    for name, array in weights.variables.items():
        assert read.variables[name].dtype == np.float32
        np.testing.assert_array_equal(read.variables[name], array)
    assert (read.normalization, read.stride_on) == (normalization, stride_on)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_half_precision_is_widened(tmp_path):
    path = tmp_path / "half.safetensors"
    write_safetensors(path, make_weights(), model="vgg19")
    content = {name: array.astype(np.float16) for name, array in make_weights().variables.items()}
    path.write_bytes(safetensors.numpy.save(content, metadata=METADATA))
    for name, array in read_safetensors(path, model="vgg19").variables.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, content[name])


def test_a_keras_file_survives_the_conversion(tmp_path):
    weights = read_keras_h5(write_keras(tmp_path / "in.h5", "resnet50"), model="resnet50")
    write_safetensors(tmp_path / "out.safetensors", weights, model="resnet50")
    read = read_safetensors(tmp_path / "out.safetensors", model="resnet50")
    assert sorted(read.variables) == sorted(weights.variables)
    for name, array in weights.variables.items():
        np.testing.assert_array_equal(read.variables[name], array)
    assert read[1:] == weights[1:]


def test_nesting_and_flattening_undo_each_other():
    flat = {"params/a/kernel": 1, "params/a/bias": 2, "batch_stats/a/mean": 3}
    tree = {"params": {"a": {"kernel": 1, "bias": 2}}, "batch_stats": {"a": {"mean": 3}}}
    assert nest(flat) == tree
    assert flatten(tree) == flat


def test_weights_for_a_folder_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="can't be written"):
        write_safetensors(tmp_path / "none" / "w.safetensors", make_weights(), model="vgg19")


def keras_error(path, model="vgg19"):
    with pytest.raises(InputError) as caught:
        read_keras_h5(path, model=model)
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


def write_keras_3(file):
    file.create_dataset("layers/conv2d/vars/0", data=np.ones((3, 3, 3, 4)))


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


def write_number_for_names(file):
    file.attrs["layer_names"] = 3


def write_array_for_model(file):
    file["model_weights"] = np.ones(3)


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (write_keras_3, "'layer_names'"),
        (write_missing_layer, "block1_conv1"),
        (write_missing_array, "kernel"),
        (write_missing_names, "'weight_names'"),
        (write_group_for_array, ""),
        (write_text_for_array, ""),
        (write_number_for_names, "not iterable"),
        (write_array_for_model, "'layer_names'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_another_layout_is_refused(tmp_path, write, cause):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        write(file)
    assert cause in keras_error(path)


def check(variables, *, model="vgg19", needed=None, known=None, source="the file"):
    expected = expected_variables(model)
    check_variables(variables, needed=needed or expected, known=known or expected, source=source)


def test_the_right_variables_pass():
    check(expected_variables("vgg19"))
    shallow = dict(list(expected_variables("vgg19").items())[:2])
    check(expected_variables("vgg19"), needed=shallow)
    check(shallow, needed=shallow)


def test_weights_of_another_model_are_refused_with_both_sides(tmp_path):
    path = write_keras(tmp_path / "weights.h5", "resnet50")
    weights = read_keras_h5(path, model="vgg19")
    with pytest.raises(InputError) as caught:
        check(weights.variables, source=str(path))
    assert str(caught.value) == (
        f"{path} doesn't fit the network (not in the file: params/conv1_1/bias, "
        "params/conv1_1/kernel, params/conv1_2/bias, params/conv1_2/kernel and 2 more; only in "
        "the file: batch_stats/conv1_bn/mean, batch_stats/conv1_bn/var, "
        "batch_stats/conv2_block1_0_bn/mean, batch_stats/conv2_block1_0_bn/var and 14 more); "
        "expected 6 arrays of the network's shapes; check that --model and --weights belong "
        "together."
    )


def test_missing_unknown_and_misshapen_arrays_are_all_told_at_once():
    variables = expected_variables("vgg19")
    del variables["params/conv1_2/bias"]
    variables["params/extra/kernel"] = np.ones(3, np.float32)
    variables["params/conv1_1/bias"] = np.ones(7, np.float32)
    with pytest.raises(InputError) as caught:
        check(variables)
    assert (
        "the file doesn't fit the network (not in the file: params/conv1_2/bias; only in the file: "
        "params/extra/kernel; of another shape: params/conv1_1/bias is (7,) and should be (5,)); "
    ) in str(caught.value)


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
        check(read_keras_h5(path, model="vgg19").variables)


def test_a_first_kernel_of_another_rank_is_told_as_it_is(tmp_path):
    layers = random_layers("vgg19")
    layers["block1_conv1"][0] = np.ones((3, 4), np.float32)
    path = write_keras(tmp_path / "weights.h5", "vgg19", layers=layers)
    with pytest.raises(InputError, match=r"conv1_1/kernel is \(3, 4\) and should be \(3, 3, 3, 5"):
        check(read_keras_h5(path, model="vgg19").variables)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, number):
    layers = random_layers("resnet50")
    layers["conv1_bn"][3][1] = number
    path = write_keras(tmp_path / "weights.h5", "resnet50", layers=layers)
    with pytest.raises(InputError) as caught:
        check(read_keras_h5(path, model="resnet50").variables, model="resnet50")
    assert str(caught.value) == (
        "the file has numbers that are not finite in batch_stats/conv1_bn/var; expected finite "
        "weights; get the file again."
    )


METADATA = {"model": "vgg19", "mean": "0.5 0.5 0.5", "std": "1 1 1", "stride_on": ""}


def safetensors_error(path, model="vgg19"):
    with pytest.raises(InputError) as caught:
        read_safetensors(path, model=model)
    message = str(caught.value)
    assert message.startswith(f"{path} can't be read as weights of this project (")
    assert "expected a .safetensors file with the metadata model, mean, std and str" in message
    assert message.endswith("give a file that this project converted, or a Keras .h5.")
    return message


def test_safetensors_with_all_metadata_are_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.ones(3)}, metadata=METADATA))
    weights = read_safetensors(path, model="vgg19")
    assert weights.normalization == ((0.5, 0.5, 0.5), (1, 1, 1))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        *(({name: None}, name) for name in METADATA),
        (dict.fromkeys(METADATA), "mean"),
        ({"mean": "0.5 0.5"}, "three numbers"),
        ({"mean": ""}, "three numbers"),
        ({"std": "1 1 1 1"}, "three numbers"),
        ({"std": "1 0 1"}, "three numbers"),
        ({"std": "1 nan 1"}, "three numbers"),
        ({"mean": "0 inf 0"}, "three numbers"),
        ({"mean": "a b c"}, "could not convert"),
        ({"stride_on": "2x2"}, "stride_on is '2x2'"),
    ],
    ids=str,
)
def test_missing_and_broken_metadata_are_refused(tmp_path, change, cause):
    metadata = {name: value for name, value in (METADATA | change).items() if value is not None}
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.ones(3)}, metadata=metadata or None))
    assert cause in safetensors_error(path)


@pytest.mark.parametrize("content", [b"", b"no such thing", bytes(64), b"\x89HDF\r\n\x1a\n" * 9])
def test_what_is_not_safetensors_is_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    safetensors_error(path)


def test_a_missing_safetensors_file_and_a_folder_are_refused(tmp_path):
    safetensors_error(tmp_path / "none.safetensors")
    safetensors_error(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_safetensors_are_refused(tmp_path, share):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, make_weights(), model="vgg19")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    safetensors_error(path)


def test_a_number_format_without_a_name_in_numpy_is_refused(tmp_path):
    header = {
        "__metadata__": METADATA,
        "a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    safetensors_error(path)


def test_safetensors_of_another_model_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, make_weights(), model="vgg19")
    with pytest.raises(InputError) as caught:
        read_safetensors(path, model="resnet50")
    assert str(caught.value) == (
        f"{path} holds weights of vgg19; expected weights of resnet50; add --model=vgg19 or give "
        "another --weights."
    )


def damage(content, rng):
    """Cut a file short, or change up to four of its bytes."""
    if rng.random() < 0.3:
        return content[: rng.integers(len(content))]
    damaged = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        damaged[rng.integers(len(damaged))] ^= int(rng.integers(1, 256))
    return bytes(damaged)


@pytest.mark.parametrize("kind", ["h5", "safetensors"])
@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_are_refused_or_give_finite_numbers(tmp_path, kind, seed):
    path = tmp_path / f"weights.{kind}"
    if kind == "h5":
        layers = {"block1_conv1": random_layers("vgg19")["block1_conv1"]}
        write_keras(path, "vgg19", layers=layers)
        read = read_keras_h5
    else:
        write_safetensors(path, make_weights(), model="vgg19")
        read = read_safetensors
    content = path.read_bytes()
    needed = read(path, model="vgg19").variables
    rng = np.random.default_rng(seed)
    num_refused = 0
    for _ in range(15):
        path.write_bytes(damage(content, rng))
        try:
            weights = read(path, model="vgg19")
            check_variables(weights.variables, needed=needed, known=needed, source=str(path))
        except InputError:
            num_refused += 1
            continue
        for name, array in weights.variables.items():
            assert array.shape == needed[name].shape
            assert np.all(np.isfinite(array))
        assert np.all(np.isfinite(weights.normalization))
    assert num_refused > 0
