"""MatConvNet's VGG16 and VGG19: the same bits as Keras' file of the same network."""

import functools

import numpy as np
import pytest
import scipy.io
from weights_files import (
    MEAN_PIXEL,
    assert_same_bits,
    expected_variables,
    random_layers,
    read_here,
    write_matconvnet,
)

from neuart_jax.config.errors import InputError
from neuart_jax.models.params.canonical import check_variables
from neuart_jax.models.params.catalog import CAFFE
from neuart_jax.models.params.conventions import TORCH
from neuart_jax.models.params.formats import matconvnet

read_matconvnet = functools.partial(matconvnet.read_matconvnet, read=read_here)


@pytest.fixture
def write(tmp_path):
    def write(*, model="vgg19", **options):
        variables = expected_variables(model)
        return write_matconvnet(tmp_path / "w.mat", variables, model=model, **options)

    return write


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("mean", ["current", "of 2014"])
@pytest.mark.parametrize("fields", ["current", "of 2014"])
@pytest.mark.parametrize("model", ["vgg19", "vgg16"])
def test_every_spelling_gives_the_same_bits(write, model, fields, mean, compress):
    path = write(model=model, fields=fields, mean=mean, compress=compress)
    weights = read_matconvnet(path, model=model)
    assert_same_bits(weights.variables, expected_variables(model))
    assert weights.normalization == CAFFE
    assert weights.stride_on == ""


def test_the_first_kernel_is_keras_own_for_the_other_order_of_colors(write):
    kernel = scipy.io.loadmat(write(), simplify_cells=True)["layers"][0]["weights"][0]
    np.testing.assert_array_equal(kernel[:, :, ::-1], random_layers("vgg19")["block1_conv1"][0])


@pytest.mark.parametrize(("name", "normalization"), [("caffe", CAFFE), ("torch", TORCH)])
def test_a_given_preprocessing_needs_no_stated_mean(write, name, normalization):
    path = write(mean=None)
    weights = read_matconvnet(path, model="vgg19", preprocessing=name)
    assert_same_bits(weights.variables, expected_variables("vgg19"))
    assert weights.normalization == normalization


def refused(path, cause, **options):
    with pytest.raises(InputError) as caught:
        read_matconvnet(path, **({"model": "vgg19"} | options))
    assert cause in str(caught.value)


def test_a_file_without_a_mean_is_refused(write):
    refused(write(mean=None), "states no mean pixel; --preprocessing=caffe takes the usual one")


def test_another_mean_is_taken_from_the_file(write, monkeypatch):
    monkeypatch.setattr("weights_files.MEAN_PIXEL", (51.0, 102.0, 153.0))
    mean, std = read_matconvnet(write(), model="vgg19").normalization
    np.testing.assert_allclose(mean, (0.2, 0.4, 0.6))
    assert std == CAFFE[1]


@pytest.mark.parametrize("pixel", [(-1, 3, 4), (1, 256, 4), (np.nan, 3, 4), (np.inf, 1, 2)])
def test_a_mean_out_of_range_is_refused(write, monkeypatch, pixel):
    monkeypatch.setattr("weights_files.MEAN_PIXEL", pixel)
    refused(write(), "averageImage is not one color from 0 to 255")


def test_a_mean_picture_of_several_colors_is_refused(write):
    path = write(mean="of 2014")
    document = {
        name: value
        for name, value in scipy.io.loadmat(path, simplify_cells=False).items()
        if name == "layers"
    }
    picture = np.tile(np.float32(MEAN_PIXEL), (4, 5, 1))
    picture[2, 2, 1] += 1
    document["normalization"] = {"averageImage": picture}
    scipy.io.savemat(path, document)
    refused(path, "averageImage is not one color from 0 to 255")


def test_only_vggs_are_read(write):
    path = write()
    with pytest.raises(InputError) as caught:
        read_matconvnet(path, model="resnet50")
    assert str(caught.value) == (
        f"{path} is a MatConvNet file, which is read only for vgg19 and vgg16; expected a Keras or "
        "torchvision file of resnet50; add --model=vgg19 or --model=vgg16, or give another "
        "--weights."
    )


def test_another_mat_file_is_refused(tmp_path):
    path = tmp_path / "w.mat"
    for document in ({"a": 1.0}, {"layers": 3.0}, {"layers": {"params": 1.0}}):
        scipy.io.savemat(path, document)
        refused(path, "can't be read as MatConvNet weights")


def test_another_network_is_told(tmp_path):
    variables = expected_variables("vgg19")
    variables["params/conv1_2/kernel"] = np.ones((3, 3, 2, 5), np.float32)
    path = write_matconvnet(tmp_path / "w.mat", variables)
    shapes = expected_variables("vgg19")
    given = read_matconvnet(path, model="vgg19").variables
    with pytest.raises(InputError, match=r"conv1_2/kernel is \(3, 3, 2, 5\) but should be"):
        check_variables(given, needed=shapes, known=shapes, source="it")
