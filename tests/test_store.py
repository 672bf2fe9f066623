"""Which weights a run gets, what it says about them, and the cache of fitted ones."""

import logging
import os
from pathlib import Path

import jax
import numpy as np
import platformdirs
import pytest
from standins import (
    FIRST_LAYER,
    PATH,
    digest,
    first_convolution,
    publish,
    write_converted,
    write_keras,
)

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.io.images import save_image
from neuart_jax.models import resnet50, vgg
from neuart_jax.models.params import catalog
from neuart_jax.models.params.canonical import flatten
from neuart_jax.models.params.catalog import CAFFE, FITTED, PUBLISHED
from neuart_jax.models.params.conventions import TORCH
from neuart_jax.models.params.fitted import fit_cache
from neuart_jax.models.params.fitted.fitted import VERSION, FitRecipe
from neuart_jax.models.params.fitted.orthogonal import VERSION as RANDOM_VERSION
from neuart_jax.models.params.load import (
    NAMED_WEIGHTS,
    identify_weights,
    load_network,
    narrow_network,
    settle_network,
)
from neuart_jax.models.params.published import published


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(folder / name))
    return folder / "neuart_jax" / "fitted"


@pytest.fixture(autouse=True)
def quick_recipe(monkeypatch):
    recipe = FitRecipe(num_patches=2000, max_channel_components=16, num_rounds=2)
    monkeypatch.setattr(fit_cache, "FitRecipe", lambda: recipe)


@pytest.fixture
def weights_dir(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    return folder


@pytest.fixture
def load(weights_dir, content_image, style_image):
    def load(weights, *, layers=(), model="vgg19", seed=0, images=None, **options):
        options = {"weights_dir": str(weights_dir)} | options
        content, style = images or (content_image[:16, :20], style_image[:20, :16])
        return load_network(
            NetworkConfig(model=model, weights=str(weights), **options),
            layers=layers or (FIRST_LAYER[model],),
            images=(content, style),
            seed=seed,
        )

    return load


@pytest.fixture
def no_more_fits(monkeypatch):
    def refuse():
        def fit_variables(*_, **__):
            raise AssertionError("fitted again")

        monkeypatch.setattr(fit_cache, "fit_variables", fit_variables)

    return refuse


SPOKEN = {"vgg19": "VGG19", "vgg16": "VGG16", "resnet50": "ResNet50"}


def published_file(model, index=0):
    return [file for file in PUBLISHED if file.model == model][index]


def assert_is_the_first_convolution(network, model):
    kernel, bias = first_convolution(model)
    variables = flatten(network.params.variables)
    np.testing.assert_array_equal(variables[f"{PATH[model]}/kernel"], kernel[:, :, ::-1])
    np.testing.assert_array_equal(variables[f"{PATH[model]}/bias"], bias)
    assert all(isinstance(array, jax.Array) for array in variables.values())


def assert_equal_bits(network, other):
    ours, others = flatten(network.params.variables), flatten(other.params.variables)
    assert sorted(ours) == sorted(others)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, others[name])
    np.testing.assert_array_equal(network.params.mean, other.params.mean)
    np.testing.assert_array_equal(network.params.std, other.params.std)


@pytest.mark.parametrize("weights", ["fitted", "random"])
@pytest.mark.parametrize(
    ("model", "deep", "shallow"),
    [
        ("vgg19", ("relu1_1", "relu2_2"), ("conv1_2",)),
        ("resnet50", ("conv2_block2_out",), ("conv1_relu", "conv2_block1_1_relu")),
    ],
)
def test_a_network_narrowed_is_the_network_loaded_for_less(load, weights, model, deep, shallow):
    config = NetworkConfig(model=model, weights=weights)
    narrowed = narrow_network(load(weights, model=model, layers=deep), config, layers=shallow)
    loaded = load(weights, model=model, layers=shallow)
    assert narrowed.identity == loaded.identity
    found, expected = (flatten(n.params.variables) for n in (narrowed, loaded))
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_file_stays_the_same_file_when_a_network_is_narrowed(load, weights_dir, monkeypatch):
    publish(monkeypatch, write_keras(weights_dir / published_file("vgg19").name, "vgg19"))
    network = load("imagenet")
    config = NetworkConfig(weights="imagenet")
    assert narrow_network(network, config, layers=("conv1_1",)).identity == network.identity


@pytest.mark.parametrize("model", ["vgg19", "resnet50"])
def test_auto_without_files_fits_and_says_how_to_get_better(load, model):
    network = load("auto", model=model)
    assert network.message.startswith("Weights: fitted to the two images in ")
    assert ", no ImageNet weights; no imagenet weights of " in network.message
    file = published_file(model)
    assert network.message.endswith(
        f"forbids downloads; for ImageNet weights put {file.name} into weights/ (from "
        f"{file.url}), or run once without --offline."
    )
    assert network.identity["name"] == f"fitted, version {VERSION}"
    assert network.identity["file"] == ""
    assert len(network.identity["sha256"]) == 64
    np.testing.assert_array_equal(network.params.mean, np.float32(FITTED[0]))
    np.testing.assert_array_equal(network.params.std, np.float32(FITTED[1]))


def test_fitted_is_fitted_though_files_are_there(load, weights_dir, monkeypatch):
    publish(monkeypatch, write_keras(weights_dir / published_file("vgg19").name, "vgg19"))
    network = load("fitted")
    assert network.identity["name"] == f"fitted, version {VERSION}"
    assert network.message.endswith(", no ImageNet weights.")


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
@pytest.mark.parametrize("model", ["vgg19", "vgg16", "resnet50"])
def test_a_published_file_is_used(load, weights_dir, monkeypatch, model, weights, cache):
    file = published_file(model)
    path = write_keras(weights_dir / file.name, model)
    publish(monkeypatch, path)
    network = load(weights, model=model)
    assert_is_the_first_convolution(network, model)
    assert network.identity == {"name": "imagenet", "file": file.name, "sha256": digest(path)}
    config = NetworkConfig(model=model, weights=weights, weights_dir=str(weights_dir))
    assert identify_weights(settle_network(config).config) == network.identity
    assert (
        network.message
        == f"Weights: ImageNet {SPOKEN[model]} (imagenet) from {path} ({file.licence})."
    )
    np.testing.assert_array_equal(network.params.mean, np.float32(CAFFE[0]))
    np.testing.assert_array_equal(network.params.std, np.float32(CAFFE[1]))
    assert not cache.exists()  # Nothing was fitted.


def test_a_published_file_with_its_classifier_does_as_well(load, weights_dir, monkeypatch):
    file = published_file("vgg19", index=1)
    top = {"predictions": (np.ones((4, 3), np.float32), np.ones(3, np.float32))}
    path = write_keras(weights_dir / file.name, "vgg19", **top)
    publish(monkeypatch, path)
    network = load("imagenet")
    assert_is_the_first_convolution(network, "vgg19")
    assert network.identity["file"] == file.name


def test_the_file_without_a_classifier_is_looked_for_first(load, weights_dir, monkeypatch):
    for index in (1, 0):
        path = write_keras(weights_dir / published_file("vgg19", index).name, "vgg19")
    publish(monkeypatch, path)
    assert load("auto").identity["file"] == published_file("vgg19").name


def test_weights_are_looked_for_below_the_working_folder(load, weights_dir, monkeypatch):
    path = write_keras(weights_dir / published_file("vgg19").name, "vgg19")
    publish(monkeypatch, path)
    monkeypatch.chdir(weights_dir.parent)
    assert str(path) in load("imagenet", weights_dir="weights").message


def test_weights_are_looked_for_in_the_source_tree(load, weights_dir, monkeypatch, tmp_path):
    path = write_keras(weights_dir / published_file("vgg19").name, "vgg19")
    publish(monkeypatch, path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(published, "_PACKAGE_PARENT", weights_dir.parent)
    assert str(path) in load("imagenet", weights_dir="weights").message


def test_a_folder_that_is_not_there_holds_no_weights(load):
    assert "fitted" in load("auto", weights_dir="~nobody-has-this/weights").message


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_another_md5_sum_is_refused_with_both(load, weights_dir, monkeypatch, weights, caplog):
    path = write_keras(weights_dir / published_file("vgg19").name, "vgg19")
    publish(monkeypatch, path)
    file = next(file for file in catalog.PUBLISHED if file.name == path.name)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if weights == "auto":
        message = load(weights).message
        assert f"; {path} has the md5 sum {digest(path, 'md5')}, and no " in message
        (told,) = caplog.messages
    else:
        with pytest.raises(InputError) as caught:
            load(weights)
        told = str(caught.value)
    assert told == (
        f"{path} has the md5 sum {digest(path, 'md5')}; expected {file.md5}, as published; "
        f"delete it and get it again from {file.url}."
    )


def test_another_size_is_refused_with_both(load, weights_dir):
    file = published_file("vgg19")
    path = weights_dir / file.name
    path.write_bytes(b"not found")
    with pytest.raises(InputError) as caught:
        load("imagenet")
    assert str(caught.value) == (
        f"{path} has 9 bytes; expected 80134624, as published; delete it and get it again from "
        f"{file.url}."
    )


@pytest.mark.parametrize("model", ["vgg19", "resnet50"])
def test_imagenet_without_a_file_says_where_to_get_it(load, weights_dir, model):
    file = published_file(model)
    with pytest.raises(InputError) as caught:
        load("imagenet", model=model)
    assert str(caught.value) == (
        f"--weights=imagenet found no ImageNet weights of {model} on this machine and may not "
        f"download any (--offline or HF_HUB_OFFLINE); expected the file {file.name} in "
        f"{weights_dir}; get it from {file.url} and put it there, or use --weights=fitted."
    )


def test_a_flavor_that_the_model_has_not_is_refused_with_those_it_has(load):
    with pytest.raises(InputError) as caught:
        load("imagenet-torchvision-v2")
    assert str(caught.value) == (
        "--weights=imagenet-torchvision-v2 has no weights of vgg19; expected one of imagenet, "
        "imagenet-torchvision, imagenet-timm, imagenet-matconvnet; choose one of these, or "
        "another --model."
    )


def test_imagenet_weights_of_one_model_are_not_those_of_another(load, weights_dir, monkeypatch):
    publish(monkeypatch, write_keras(weights_dir / published_file("resnet50").name, "resnet50"))
    with pytest.raises(InputError, match="no ImageNet weights of vgg19"):
        load("imagenet")


@pytest.mark.parametrize("model", ["vgg19", "resnet50"])
@pytest.mark.parametrize("name", ["mine.h5", "mine.H5", "mine.hdf5", "mine.safetensors"])
def test_a_file_of_the_users_own_is_used(load, tmp_path, model, name):
    write = write_converted if name.endswith("safetensors") else write_keras
    path = write(tmp_path / name, model)
    network = load(path, model=model)
    assert_is_the_first_convolution(network, model)
    assert network.identity == {"name": "file", "file": name, "sha256": digest(path)}
    assert identify_weights(NetworkConfig(model=model, weights=str(path))) == network.identity
    assert network.message == f"Weights: {model} from {path} (sha256 {digest(path)[:12]}…)."


def test_a_file_keeps_its_normalization(load, tmp_path):
    path = write_converted(tmp_path / "mine.safetensors", "vgg19", normalization=FITTED)
    np.testing.assert_array_equal(load(path).params.std, np.float32(FITTED[1]))


def test_a_tilde_is_the_home_folder(load, tmp_path, monkeypatch):
    write_converted(tmp_path / "mine.safetensors", "vgg19")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load("~/mine.safetensors").identity["name"] == "file"


@pytest.mark.parametrize("stride_on", ["", "1x1", "3x3"])
def test_a_file_says_where_the_stride_is(load, tmp_path, stride_on):
    path = write_converted(tmp_path / "mine.safetensors", "resnet50", stride_on=stride_on)
    network = load(path, model="resnet50")
    assert network.module == resnet50.ResNet50(
        stride_on=stride_on or "1x1", pooling="max", padding="reflect"
    )


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("padding", ["reflect", "zero"])
def test_the_module_has_the_options_of_the_configuration(load, tmp_path, pooling, padding):
    path = write_converted(tmp_path / "mine.safetensors", "vgg19")
    network = load(path, pooling=pooling, padding=padding)
    assert network.module == vgg.VGG(pooling=pooling, padding=padding)


@pytest.mark.parametrize(
    "name",
    ["none.h5", "folder", "folder.h5", "", "imagenet21k"],
)
def test_what_is_not_a_file_is_refused(load, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(InputError) as caught:
        load(name)
    assert str(caught.value) == (
        f"--weights={name} is not a file; expected {', '.join(NAMED_WEIGHTS)}, or the path of a "
        "weights file; check the spelling."
    )


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-has-this/w.h5"])
def test_what_can_be_no_file_is_refused(load, name):
    with pytest.raises(InputError, match=r"--weights=.* is not a valid path \("):
        load(name)


def test_a_file_that_cannot_be_opened_is_refused(load, tmp_path, monkeypatch):
    path = write_converted(tmp_path / "mine.safetensors", "vgg19")

    def refuse(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"mine.safetensors can't be read \(Permission denied\)"):
        load(path)


def test_a_file_without_the_deeper_layers_is_refused_if_they_are_wanted(load, tmp_path):
    path = write_keras(tmp_path / "mine.h5", "vgg19")
    load(path, layers=("relu1_1",))
    with pytest.raises(InputError) as caught:
        load(path, layers=("relu1_1", "pool1"))
    assert str(caught.value) == (
        f"{path} doesn't fit the network (not in the file: params/conv1_2/bias, "
        "params/conv1_2/kernel); expected 4 arrays of the network's shapes; check that --model "
        "and --weights belong together."
    )


def test_a_file_of_another_model_is_refused(load, tmp_path):
    with pytest.raises(InputError, match="doesn't fit the network .*only in the file: params/conv"):
        load(write_keras(tmp_path / "mine.h5", "resnet50"))
    with pytest.raises(InputError, match="holds weights of resnet50; .*add --model=resnet50"):
        load(write_converted(tmp_path / "mine.safetensors", "resnet50"))


@pytest.mark.parametrize("model", ["vgg19", "resnet50"])
def test_random_filters_are_made_by_the_seed_and_calibrated_on_the_pictures(load, model, cache):
    network = load("random", model=model, seed=5)
    assert network.message == (
        "Weights: random orthogonal filters, seed 5, calibrated on the images."
    )
    assert set(network.identity) == {"name", "file", "sha256"}
    assert network.identity["name"] == f"random, version {RANDOM_VERSION}"
    assert network.identity["file"] == ""
    np.testing.assert_array_equal(network.params.std, np.float32(FITTED[1]))
    assert not cache.exists()  # Cheaper to make than to keep.

    again = load("random", model=model, seed=5)
    assert_equal_bits(network, again)
    assert again.identity == network.identity
    other = load("random", model=model, seed=6)
    assert other.identity["sha256"] != network.identity["sha256"]
    kernels = [
        np.asarray(flatten(n.params.variables)[f"{PATH[model]}/kernel"]).reshape(-1, 64)
        for n in (network, other)
    ]
    # 27 or 147 inputs; the fewer of filters and inputs are orthogonal to each other up to scale.
    directions = [k / np.linalg.norm(k, axis=0) for k in kernels]
    assert np.abs(np.sum(directions[0] * directions[1], axis=0)).max() < 0.9


def test_random_filters_see_every_style(load, content_image, style_image):
    pair = (content_image[:16, :20], style_image[:20, :16])
    pictures = [pair, (*pair, style_image[20:40, :16])]
    # The fixture hands two on; a third one is a style more.
    networks = [
        load_network(NetworkConfig(weights="random"), layers=("relu1_1",), images=images, seed=0)
        for images in pictures
    ]
    assert networks[0].identity["sha256"] != networks[1].identity["sha256"]


def literal_mean_activations(kernel, bias, pictures):
    """Mean of each filter of the first layer over all positions, borders reflected."""
    total, count = 0.0, 0
    for picture in pictures:
        seen = 255 * picture.astype(np.float64) - [123.68, 116.779, 103.939]
        padded = np.pad(seen, ((1, 1), (1, 1), (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        responses = np.einsum("yxcij,ijcf->yxf", windows, kernel) + bias
        total = total + np.maximum(responses, 0).sum(axis=(0, 1))
        count += picture.shape[0] * picture.shape[1]
    return total / count


def test_weights_are_normalized_over_a_folder_of_ones_own(
    load, tmp_path, content_image, style_image, monkeypatch
):
    path = write_keras(tmp_path / "mine.h5", "vgg19")
    (tmp_path / "photos").mkdir()
    pictures = [np.round(255 * p) / 255 for p in (content_image, style_image)]
    for number, picture in enumerate(pictures):
        save_image(tmp_path / f"photos/{number}.png", picture.astype(np.float32))
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = load(path, pooling="average")
    network = load(path, pooling="average", normalize_weights="~/photos")
    kernel, bias = first_convolution("vgg19")
    means = literal_mean_activations(kernel[:, :, ::-1].astype(np.float64), bias, pictures)
    found = flatten(network.params.variables)
    np.testing.assert_allclose(
        found["params/conv1_1/kernel"], kernel[:, :, ::-1] / means, rtol=1e-4
    )
    np.testing.assert_allclose(found["params/conv1_1/bias"], bias / means, rtol=1e-4)
    how = network.identity["normalized"]
    assert how.startswith("mean activation 1 over the image set ")
    assert how.endswith(", average pooling, reflect padding")
    assert network.message == f"{plain.message[:-1]}, normalized to {how}."
    assert {**plain.identity, "normalized": how} == network.identity
    np.testing.assert_array_equal(network.params.mean, plain.params.mean)


def test_weights_are_normalized_over_the_bundled_photographs(load, tmp_path, monkeypatch):
    path = write_keras(tmp_path / "mine.h5", "vgg19")
    asked = []

    def photographs():
        asked.append(1)
        return iter([np.full((8, 8, 3), 0.7, np.float32), np.zeros((9, 7, 3), np.float32)])

    monkeypatch.setattr(
        "neuart_jax.models.params.fitted.photographs.bundled_photographs", photographs
    )
    network = load(path, normalize_weights="bundled", padding="zero", pooling="max")
    assert asked
    assert network.identity["normalized"].endswith(", max pooling, zero padding")


@pytest.mark.parametrize("weights", ["fitted", "random"])
def test_fitted_and_random_weights_are_normalized_as_well(load, tmp_path, content_image, weights):
    (tmp_path / "photos").mkdir()
    save_image(tmp_path / "photos/one.png", content_image)
    network = load(weights, normalize_weights=str(tmp_path / "photos"))
    assert ", normalized to mean activation 1 over " in network.message
    assert network.message.endswith("padding.")


@pytest.mark.parametrize("weights", ["fitted", "imagenet", "random"])
def test_only_vgg19_is_normalized_and_this_is_said_before_any_work(load, no_more_fits, weights):
    no_more_fits()
    with pytest.raises(InputError) as caught:
        load(weights, model="resnet50", normalize_weights="bundled")
    assert str(caught.value) == (
        "only vgg19 and vgg16 can be normalized, not resnet50; expected a plain chain of "
        "convolutions, for which mean activations of 1 are defined; use --model=vgg19, or leave "
        "the normalization out."
    )


def test_a_folder_that_nothing_can_be_normalized_over(load, tmp_path, no_more_fits):
    no_more_fits()
    with pytest.raises(InputError, match="nowhere can't be read .No such file or directory."):
        load("fitted", normalize_weights=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no images; expected a folder with photogr"):
        load("fitted", normalize_weights=str(tmp_path / "empty"))


TORCH_255 = (TORCH[0], (1 / 255,) * 3)


@pytest.mark.parametrize(
    ("preprocessing", "normalization", "is_turned"),
    [
        ("", CAFFE, True),
        ("caffe", CAFFE, True),
        ("torch", TORCH, False),
        ("torch255", TORCH_255, True),
    ],
)
def test_a_file_sees_what_is_asked_for(load, tmp_path, preprocessing, normalization, is_turned):
    """A Keras file said to want torch's pictures has its kernel in torch's order of the colors."""
    path = write_keras(tmp_path / "mine.h5", "vgg19")
    network = load(path, preprocessing=preprocessing)
    np.testing.assert_array_equal(network.params.mean, np.float32(normalization[0]))
    np.testing.assert_array_equal(network.params.std, np.float32(normalization[1]))
    kernel, _ = first_convolution("vgg19")
    np.testing.assert_array_equal(
        network.params.variables["params"]["conv1_1"]["kernel"],
        kernel[:, :, ::-1] if is_turned else kernel,
    )


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
@pytest.mark.parametrize(
    ("preprocessing", "normalization"), [("torch", TORCH), ("torch255", TORCH_255)]
)
def test_published_weights_see_what_is_asked_for(
    load, weights_dir, monkeypatch, weights, preprocessing, normalization
):
    publish(monkeypatch, write_keras(weights_dir / published_file("vgg19").name, "vgg19"))
    network = load(weights, preprocessing=preprocessing)
    assert_is_the_first_convolution(network, "vgg19")  # Whose colors are known.
    np.testing.assert_array_equal(network.params.mean, np.float32(normalization[0]))
    np.testing.assert_array_equal(network.params.std, np.float32(normalization[1]))


def test_a_file_of_ours_states_what_it_was_trained_on_and_may_see_something_else(load, tmp_path):
    path = write_converted(tmp_path / "mine.safetensors", "vgg19")
    network = load(path, preprocessing="torch255")
    np.testing.assert_array_equal(network.params.mean, np.float32(TORCH[0]))
    with pytest.raises(InputError, match="preprocessing 'torch' was given for .* states its own"):
        load(path, preprocessing="torch")


@pytest.mark.parametrize("weights", ["fitted", "random"])
def test_filters_made_from_the_pictures_see_them_as_they_were_made(load, weights):
    network = load(weights, preprocessing="caffe")
    np.testing.assert_array_equal(network.params.mean, np.float32(FITTED[0]))
    np.testing.assert_array_equal(network.params.std, np.float32(FITTED[1]))


def test_a_model_that_is_not_there_is_refused(load):
    with pytest.raises(InputError, match="model 'vgg17' is not known"):
        load("auto", model="vgg17", layers=("relu1_1",))


@pytest.mark.parametrize("model", ["vgg19", "resnet50"])
def test_a_fit_is_read_from_the_cache_the_second_time(load, cache, no_more_fits, model):
    layers = {"vgg19": ("conv1_2",), "resnet50": ("conv1_relu",)}[model]
    first = load("fitted", model=model, layers=layers)
    assert first.message.startswith("Weights: fitted to the two images in ")
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    no_more_fits()
    second = load("fitted", model=model, layers=layers)
    assert (
        second.message == "Weights: fitted to the two images from the cache, no ImageNet weights."
    )
    assert_equal_bits(first, second)
    assert second.identity == first.identity


def test_a_fit_serves_every_run_as_deep_as_it_is(load, no_more_fits):
    first = load("fitted", layers=("conv1_1", "relu1_1"))
    no_more_fits()
    assert_equal_bits(first, load("auto", layers=("relu1_1",)))


def another_seed(_):
    return {"seed": 1}


def another_depth(_):
    return {"layers": ("pool1",)}


def another_padding(_):
    return {"padding": "zero"}


def another_model(_):
    return {"model": "resnet50"}


def another_image(image):
    return {"images": (image[:16, :20], image[20:40, 20:36])}


@pytest.mark.parametrize(
    "change", [another_seed, another_depth, another_padding, another_model, another_image]
)
def test_another_run_gets_another_fit(load, cache, content_image, change):
    first = load("fitted")
    other = load("fitted", **change(content_image))
    assert "from the cache" not in other.message
    assert other.identity["sha256"] != first.identity["sha256"]
    assert len(list(cache.iterdir())) == 2


def cut_short(content):
    return content[: len(content) // 2]


def empty(_):
    return b""


def not_finite(content):
    return content[:-4] + np.float32(np.nan).tobytes()


@pytest.mark.parametrize("damage", [cut_short, empty, not_finite])
def test_a_damaged_cache_is_told_and_fitted_again(load, cache, caplog, no_more_fits, damage):
    first = load("fitted")
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        second = load("fitted")
    assert "from the cache" not in second.message
    assert_equal_bits(first, second)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"Fitting again, as the cached fit is damaged: {path} ")
    no_more_fits()
    assert_equal_bits(first, load("fitted"))


@pytest.mark.parametrize("blocked", ["fitted", "neuart_jax"])
def test_a_cache_that_cannot_be_made_is_told_and_done_without(load, cache, caplog, blocked):
    place = cache if blocked == "fitted" else cache.parent
    place.parent.mkdir(parents=True)
    place.write_bytes(b"a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        networks = [load("fitted") for _ in range(2)]
    assert_equal_bits(*networks)
    assert networks[1].message.startswith("Weights: fitted to the two images in ")
    assert len(caplog.records) == 2
    assert caplog.records[0].getMessage().startswith("The fitted weights could not be cached: ")


def test_a_cache_that_cannot_be_written_to_is_told_and_done_without(
    load, cache, caplog, monkeypatch
):
    def refuse(*_, **__):
        raise InputError("the disk is full", expected="room", remedy="make some")

    monkeypatch.setattr(fit_cache, "write_safetensors", refuse)
    with caplog.at_level(logging.WARNING):
        load("fitted")
    assert "could not be cached: the disk is full" in caplog.text
    assert list(cache.iterdir()) == []


def test_a_cache_that_can_only_be_read_still_serves(load, monkeypatch, no_more_fits):
    first = load("fitted")
    no_more_fits()

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    assert_equal_bits(first, load("fitted"))


def test_a_cache_that_cannot_even_be_looked_into_is_done_without(load, cache, monkeypatch, caplog):
    def refuse(path, *_, **__):
        if str(cache) in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    original = os.stat
    monkeypatch.setattr(os, "stat", refuse)
    with caplog.at_level(logging.WARNING):
        assert "from the cache" not in load("fitted").message


def fill(cache, count):
    """Make fits of earlier days, the later ones with the higher numbers."""
    cache.mkdir(parents=True)
    for index in range(count):
        path = cache / f"vgg19-{index:02}.safetensors"
        path.write_bytes(b"an earlier fit")
        os.utime(path, (1000 + index, 1000 + index))


def test_only_the_newest_fits_are_kept(load, cache):
    fill(cache, 20)
    (cache / "notes.txt").write_text("not a fit")
    load("fitted")
    names = {path.name for path in cache.iterdir()}
    kept = {name for name in names if name.startswith("vgg19-") and len(name) < 25}
    assert kept == {f"vgg19-{index:02}.safetensors" for index in range(5, 20)}
    assert len(names) == 17
    assert "notes.txt" in names


def test_a_fit_that_is_used_counts_as_new(load, cache, no_more_fits):
    load("fitted")
    (path,) = cache.iterdir()
    os.utime(path, (1, 1))
    fits = load("fitted", seed=1)
    assert fits.message
    assert path.stat().st_mtime == 1
    no_more_fits()
    load("fitted")
    assert path.stat().st_mtime > 1_000_000_000
