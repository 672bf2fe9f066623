"""The canonical form: names, checks, and its own files in every state of damage."""

import hashlib
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from weights_files import assert_same_bits, expected_variables

from neuart_jax.config.errors import InputError
from neuart_jax.models import find_architecture
from neuart_jax.models.params.canonical import (
    CanonicalParams,
    check_variables,
    flatten,
    nest,
    read_safetensors,
    to_float32,
    variable_shapes,
    write_safetensors,
)
from neuart_jax.models.params.catalog import CAFFE, FITTED


def make_weights(*, stride_on="", normalization=FITTED):
    rng = np.random.default_rng(8)
    variables = {
        "params/conv1_1/kernel": rng.standard_normal((3, 3, 3, 4), np.float32),
        "params/conv1_1/bias": rng.standard_normal(4, np.float32),
        "batch_stats/conv1_bn/var": rng.random(4, np.float32),
    }
    return CanonicalParams(variables, normalization, stride_on)


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
    assert_same_bits(read.variables, weights.variables)
    assert (read.normalization, read.stride_on) == (normalization, stride_on)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_half_precision_is_widened(tmp_path):
    path = tmp_path / "half.safetensors"
    content = {name: array.astype(np.float16) for name, array in make_weights().variables.items()}
    path.write_bytes(safetensors.numpy.save(content, metadata=METADATA))
    for name, array in read_safetensors(path, model="vgg19").variables.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, content[name])


def test_nesting_and_flattening_undo_each_other():
    flat = {"params/a/kernel": 1, "params/a/bias": 2, "batch_stats/a/mean": 3}
    tree = {"params": {"a": {"kernel": 1, "bias": 2}}, "batch_stats": {"a": {"mean": 3}}}
    assert nest(flat) == tree
    assert flatten(tree) == flat


def test_weights_for_a_folder_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="can't be written"):
        write_safetensors(tmp_path / "none" / "w.safetensors", make_weights(), model="vgg19")


def check(variables, *, model="vgg19", needed=None, known=None, source="the file"):
    expected = expected_variables(model)
    check_variables(variables, needed=needed or expected, known=known or expected, source=source)


def test_the_right_variables_pass():
    check(expected_variables("vgg19"))
    shallow = dict(list(expected_variables("vgg19").items())[:2])
    check(expected_variables("vgg19"), needed=shallow)
    check(shallow, needed=shallow)


def test_missing_unknown_and_misshapen_arrays_are_all_told_at_once():
    variables = expected_variables("vgg19")
    del variables["params/conv1_2/bias"]
    variables["params/extra/kernel"] = np.ones(3, np.float32)
    variables["params/conv1_1/bias"] = np.ones(7, np.float32)
    with pytest.raises(InputError) as caught:
        check(variables)
    assert (
        "the file doesn't fit the network (not in the file: params/conv1_2/bias; only in the file: "
        "params/extra/kernel; of another shape: params/conv1_1/bias is (7,) but should be (2,)); "
    ) in str(caught.value)


METADATA = {"model": "vgg19", "mean": "0.5 0.5 0.5", "std": "1 1 1", "stride_on": ""}


def safetensors_error(path, model="vgg19"):
    with pytest.raises(InputError) as caught:
        read_safetensors(path, model=model)
    message = str(caught.value)
    assert message.startswith(f"{path} can't be read as weights of this project (")
    assert "expected a .safetensors file with the metadata model, mean, std and str" in message
    assert message.endswith("give a file converted by this project, or convert it again.")
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
        ({"std": "1 0 1"}, "not positive"),
        ({"std": "1 -1 1"}, "not positive"),
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


def test_the_metadata_say_all_and_the_hashes_are_those_of_the_bytes(tmp_path):
    provenance = {"source": "vgg19.h5", "licence": "CC BY 4.0, VGG", "name": "Gr\u00fc\u00dfe"}
    weights = make_weights(normalization=CAFFE)._replace(provenance=provenance)
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, weights, model="vgg19")
    # Read with the library that others would use.
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    hashes = json.loads(metadata.pop("sha256"))
    words = json.dumps(metadata, sort_keys=True).encode()
    assert hashes.pop("metadata") == hashlib.sha256(words).hexdigest()
    assert hashes == {name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in arrays.items()}
    assert_same_bits(arrays, weights.variables)
    own = {"model": "vgg19", "stride_on": "", "format_version": "2"}
    assert metadata.items() >= (own | provenance).items()
    assert [float(x) for x in metadata["mean"].split()] == list(CAFFE[0])
    assert dict(read_safetensors(path, model="vgg19").provenance) == provenance


def test_the_same_weights_are_the_same_bytes(tmp_path):
    weights = make_weights()._replace(provenance={"a": "1", "b": "2"})
    shuffled = weights._replace(
        variables=dict(reversed(weights.variables.items())), provenance={"b": "2", "a": "1"}
    )
    write_safetensors(tmp_path / "1", weights, model="vgg19")
    write_safetensors(tmp_path / "2", shuffled, model="vgg19")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_provenance_cannot_pose_as_the_formats_own_entries(tmp_path):
    weights = make_weights()._replace(provenance={"mean": "0 0 0"})
    with pytest.raises(ValueError, match="mean"):
        write_safetensors(tmp_path / "w", weights, model="vgg19")
    assert not (tmp_path / "w").exists()


def change_number(header, content):
    return header, content[:-1] + bytes([content[-1] ^ 1])


def change_mean(header, content):
    header["__metadata__"]["mean"] = "0.5 0.25 0.5"
    return header, content


def change_licence(header, content):
    header["__metadata__"]["licence"] = "mine"
    return header, content


def swap_arrays(header, content):
    first, second = "params/conv1_1/bias", "batch_stats/conv1_bn/var"
    header[first], header[second] = header[second], header[first]
    return header, content


def drop_hashes(header, content):
    del header["__metadata__"]["sha256"]
    return header, content


def drop_version(header, content):
    del header["__metadata__"]["format_version"]
    return header, content


def drop_one_hash(header, content):
    hashes = json.loads(header["__metadata__"]["sha256"])
    hashes.popitem()
    header["__metadata__"]["sha256"] = json.dumps(hashes)
    return header, content


def hash_of_no_array(header, content):
    hashes = json.loads(header["__metadata__"]["sha256"]) | {"params/more": "0"}
    header["__metadata__"]["sha256"] = json.dumps(hashes)
    return header, content


def hashes_of_another_kind(header, content):
    header["__metadata__"]["sha256"] = "[]"
    return header, content


def of_the_future(header, content):
    header["__metadata__"]["format_version"] = "3"
    return header, content


CHANGES = {
    change_number: "hash doesn't match in params/conv1_1/kernel",
    change_mean: "hash doesn't match in metadata",
    change_licence: "hash doesn't match in metadata",
    swap_arrays: "hash doesn't match in batch_stats/conv1_bn/var, params/conv1_1/bias",
    drop_hashes: "'sha256'",
    drop_version: "hash doesn't match in metadata",
    drop_one_hash: "hash doesn't match in params/conv1_1/kernel",
    hash_of_no_array: "hash doesn't match in",
    hashes_of_another_kind: "",
    of_the_future: "format_version is '3', from a newer neuart_jax",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_was_changed_after_writing_is_refused(tmp_path, change):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, make_weights(), model="vgg19")
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, numbers = change(json.loads(content[8 : 8 + length]), content[8 + length :])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers)
    assert CHANGES[change] in safetensors_error(path)


def test_files_without_hashes_as_written_before_are_still_read(tmp_path):
    weights = make_weights()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.numpy.save(weights.variables, metadata=METADATA))
    read = read_safetensors(path, model="vgg19")
    assert_same_bits(read.variables, weights.variables)
    assert read.provenance == {}


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.complex64, object])
def test_only_floating_point_numbers_are_weights(dtype):
    with pytest.raises(ValueError, match="weights can't have the dtype"):
        to_float32(np.ones(3, dtype))


def test_numbers_too_large_for_float32_become_infinite():
    np.testing.assert_array_equal(
        to_float32(np.array([1e300, -1e300, 0.1])), np.float32([np.inf, -np.inf, 0.1])
    )


@pytest.mark.parametrize(("model", "total"), [("vgg19", 20_024_384), ("resnet50", 23_587_712)])
def test_a_whole_network_has_the_published_count_of_numbers(model, total):
    shapes = variable_shapes(model)
    assert sum(int(np.prod(leaf.shape)) for leaf in shapes.values()) == total


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("vgg16", None),
        ("vgg19", ["relu3_3", "conv2_1"]),
        ("resnet50", None),
        ("resnet50", ["conv3_block1_0_conv"]),
        ("resnet50", ["conv2_block3_2_relu"]),
    ],
)
def test_shapes_are_those_that_the_module_makes(model, layers):
    module = find_architecture(model).make_module()
    image, key = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32), jax.random.key(0)
    made = jax.eval_shape(lambda image: module.init(key, image, layers=layers), image)
    assert variable_shapes(model, layers) == {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in flatten(made).items()
    }
