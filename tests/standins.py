"""Small files of the published layouts, filled with random numbers.

They hold a network's first convolution only, which is all that its first layer needs.
"""

import hashlib

import h5py
import numpy as np

from neuart_jax.models.params import catalog
from neuart_jax.models.params.canonical import CanonicalParams, write_safetensors
from neuart_jax.models.params.catalog import CAFFE

FIRST_LAYER = {"vgg19": "relu1_1", "vgg16": "relu1_1", "resnet50": "conv1_conv"}
FIRST_CONVOLUTION = {
    "vgg19": "block1_conv1",
    "vgg16": "block1_conv1",
    "resnet50": "conv1_conv",
}
PATH = {
    "vgg19": "params/conv1_1",
    "vgg16": "params/conv1_1",
    "resnet50": "params/conv1_conv",
}


def first_convolution(model, *, seed=0):
    rng = np.random.default_rng(seed)
    size = {"vgg19": 3, "vgg16": 3, "resnet50": 7}[model]
    kernel = rng.standard_normal((size, size, 3, 64), np.float32)
    return kernel, rng.standard_normal(64, np.float32)


def write_keras(path, model, *, seed=0, **more_layers):
    with h5py.File(path, "w") as file:
        layers = {FIRST_CONVOLUTION[model]: first_convolution(model, seed=seed)} | more_layers
        file.attrs["layer_names"] = np.array(list(layers), "S")
        for layer, arrays in layers.items():
            names = [f"{layer}_{kind}_1:0" for kind in ("W", "b")]
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array(names, "S")
            for name, array in zip(names, arrays, strict=True):
                group[name] = array
    return path


def write_converted(path, model, *, seed=0, stride_on="", normalization=CAFFE):
    kernel, bias = first_convolution(model, seed=seed)
    variables = {f"{PATH[model]}/kernel": kernel[:, :, ::-1], f"{PATH[model]}/bias": bias}
    write_safetensors(path, CanonicalParams(variables, normalization, stride_on), model=model)
    return path


def digest(path, algorithm="sha256"):
    return hashlib.new(algorithm, path.read_bytes()).hexdigest()


def publish(monkeypatch, path):
    """Let the catalog state the size and the hash of a file that stands in for a published one."""
    facts = {"num_bytes": path.stat().st_size, "md5": digest(path, "md5"), "sha256": ""}
    replaced = [
        file._replace(**facts) if file.name == path.name else file for file in catalog.PUBLISHED
    ]
    assert tuple(replaced) != catalog.PUBLISHED
    monkeypatch.setattr(catalog, "PUBLISHED", tuple(replaced))
