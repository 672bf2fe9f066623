"""torchvision's and timm's weights: the same bits from every container, torch's own features."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from weights_files import (
    assert_same_bits,
    expected_variables,
    torch_state,
    write_torch_safetensors,
)

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS, NetworkParams, resnet50, vgg
from neuart_jax.models.features import make_feature_fn
from neuart_jax.models.params.canonical import check_variables, nest, variable_shapes
from neuart_jax.models.params.catalog import CAFFE
from neuart_jax.models.params.conventions import TORCH
from neuart_jax.models.params.formats.torch_files import read_pth, read_torch_safetensors

pytestmark = pytest.mark.slow

MODEL_NAMES = ["vgg19", "vgg16", "resnet50"]


def random_state(model, **options):
    """Torch's names and arrays, and the canonical variables that they are."""
    expected = expected_variables(model, biases=model != "resnet50")
    return torch_state(expected, model, **options), expected


@pytest.mark.parametrize("options", [{}, {"top": False}, {"counters": True}], ids=str)
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_safetensors_give_the_canonical_bits(tmp_path, model, options):
    state, expected = random_state(model, **options)
    weights = read_torch_safetensors(write_torch_safetensors(tmp_path / "w", state), model=model)
    assert_same_bits(weights.variables, expected)
    assert weights.normalization == TORCH
    assert weights.stride_on == ("3x3" if model == "resnet50" else "")


def test_the_names_are_the_published_ones():
    state, _ = random_state("resnet50", top=False)
    assert len(state) == 265  # torchvision's 267 with its classifier's two.
    assert state["conv1.weight"].shape == (2, 3, 7, 7)
    assert state["layer1.0.downsample.0.weight"].shape == (8, 2, 1, 1)
    assert {"bn1.running_mean", "layer4.2.bn3.running_var", "layer2.0.downsample.1.bias"} < {*state}
    features = random_state("vgg19", top=False)[0]
    indices = sorted({int(name.split(".")[1]) for name in features})
    assert indices == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    features = random_state("vgg16", top=False)[0]
    indices = sorted({int(name.split(".")[1]) for name in features})
    assert indices == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def test_caffes_weights_in_torchs_layout_are_read_as_told(tmp_path):
    state, expected = random_state("vgg19")
    path = write_torch_safetensors(tmp_path / "w", state)
    weights = read_torch_safetensors(path, model="vgg19", preprocessing="caffe")
    expected["params/conv1_1/kernel"] = expected["params/conv1_1/kernel"][:, :, ::-1]
    assert_same_bits(weights.variables, expected)
    assert weights.normalization == CAFFE


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=str)
def test_other_widths_become_float32(tmp_path, dtype):
    state, expected = random_state("vgg19")
    state = {name: array.astype(dtype) for name, array in state.items()}
    path = write_torch_safetensors(tmp_path / "w", state)
    variables = read_torch_safetensors(path, model="vgg19").variables
    narrowed = {name: np.float32(array.astype(dtype)) for name, array in expected.items()}
    assert_same_bits(variables, narrowed)


def check(path, *, model="vgg19", read=read_torch_safetensors):
    shapes = expected_variables(model)
    variables = read(path, model=model).variables
    check_variables(variables, needed=shapes, known=shapes, source=str(path))


def test_missing_and_other_layers_are_told(tmp_path):
    state, _ = random_state("vgg19")
    state["features.1.running_mean"] = state.pop("features.0.bias")
    with pytest.raises(InputError) as caught:
        check(write_torch_safetensors(tmp_path / "w", state))
    assert (
        "(not in the file: params/conv1_1/bias; only in the file: features.1.running_mean)"
    ) in str(caught.value)


def test_another_model_is_told(tmp_path):
    state, _ = random_state("resnet50")
    with pytest.raises(InputError, match=r"only in the file: bn1\.bias, bn1\.running_mean"):
        check(write_torch_safetensors(tmp_path / "w", state))


def test_whole_numbers_are_refused(tmp_path):
    state, _ = random_state("vgg19")
    state["features.0.bias"] = np.ones(2, np.int32)
    path = write_torch_safetensors(tmp_path / "w", state)
    with pytest.raises(InputError) as caught:
        check(path)
    assert str(caught.value) == (
        f"{path} can't be read as torchvision weights (weights can't have the dtype "
        "int32); expected a .safetensors file of vgg19 from torchvision or timm; get the file "
        "again, or give another --weights."
    )


def test_without_torch_a_pth_file_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError) as caught:
        read_pth(tmp_path / "w.pth", model="vgg19")
    assert str(caught.value) == (
        f"{tmp_path}/w.pth is a .pth file, which only torch can read; expected "
        "PyTorch to be installed, or another kind of file; run pip install 'neuart_jax[torch]', or "
        "give timm's .safetensors file instead."
    )


def test_torch_is_not_imported_before_it_is_needed():
    code = (
        "import sys, neuart_jax.main, neuart_jax.models.params.formats.convert;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


def save(torch, path, document, *, container):
    torch.save(document, path, _use_new_zipfile_serialization=container == "zip")
    return path


def to_torch(torch, state):
    return {name: torch.tensor(array) for name, array in state.items()}


CONTAINERS = ["stream", "zip"]
WRAPPINGS = {
    "bare": lambda state: state,
    "in state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "in model": lambda state: {"model": state},
    "data parallel": lambda state: {f"module.{name}": array for name, array in state.items()},
    "both": lambda state: {"state_dict": {f"module.{name}": x for name, x in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_pth_gives_the_canonical_bits(torch, tmp_path, model, container, wrapping):
    state, expected = random_state(model, counters=True)
    document = WRAPPINGS[wrapping](to_torch(torch, state))
    path = save(torch, tmp_path / "w.pth", document, container=container)
    assert path.read_bytes().startswith(b"PK" if container == "zip" else b"\x80\x02\x8a\nl\xfc\x9c")
    weights = read_pth(path, model=model)
    assert_same_bits(weights.variables, expected)
    assert weights.normalization == TORCH
    assert weights.stride_on == ("3x3" if model == "resnet50" else "")


@pytest.mark.parametrize("container", CONTAINERS)
def test_parameters_and_half_precision_are_read(torch, tmp_path, container):
    state, expected = random_state("vgg19")
    document = {
        name: torch.nn.Parameter(array.to(torch.bfloat16))
        for name, array in to_torch(torch, state).items()
    }
    path = save(torch, tmp_path / "w.pth", document, container=container)
    narrowed = {
        name: np.float32(array.astype(ml_dtypes.bfloat16)) for name, array in expected.items()
    }
    assert_same_bits(read_pth(path, model="vgg19").variables, narrowed)


class Hostile:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["alone", "beside weights", "as an array"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_hostile_pickle_is_refused_and_not_run(torch, tmp_path, container, where):
    mark = tmp_path / "mark"
    state = to_torch(torch, random_state("vgg19")[0])
    documents = {
        "alone": Hostile(mark),
        "beside weights": {"state_dict": state, "more": Hostile(mark)},
        "as an array": state | {"features.0.bias": Hostile(mark)},
    }
    path = save(torch, tmp_path / "w.pth", documents[where], container=container)
    with pytest.raises(InputError, match="can't be read as torchvision weights .*Weights only"):
        read_pth(path, model="vgg19")
    assert not mark.exists()
    # The mark would have been made by a loader without care.
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("document", ["list", "text", "number", "names that are numbers", "texts"])
def test_a_pth_file_without_arrays_is_refused(torch, tmp_path, document):
    documents = {
        "list": [1, 2],
        "text": "weights",
        "number": 3,
        "names that are numbers": {1: torch.ones(3)},
        "texts": {"features.0.weight": "three"},
    }
    path = save(torch, tmp_path / "w.pth", documents[document], container="zip")
    with pytest.raises(InputError, match="can't be read as torchvision weights"):
        read_pth(path, model="vgg19")


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_array_with_more_numbers_than_the_file_is_refused(torch, tmp_path, container):
    document = {"features.0.weight": torch.ones(1).expand(10**6, 10**6)}
    path = save(torch, tmp_path / "w.pth", document, container=container)
    with pytest.raises(InputError, match="an array would have 1,000,000,000,000 numbers"):
        read_pth(path, model="vgg19")


def test_sparse_arrays_and_whole_numbers_are_refused(torch, tmp_path):
    for array in (torch.eye(3).to_sparse(), torch.ones(3, dtype=torch.int32)):
        path = save(torch, tmp_path / "w.pth", {"features.0.weight": array}, container="zip")
        with pytest.raises(InputError, match="can't be read as torchvision weights"):
            read_pth(path, model="vgg19")


def test_a_changed_byte_in_a_zip_is_refused(torch, tmp_path):
    state, _ = random_state("vgg19")
    path = save(torch, tmp_path / "w.pth", to_torch(torch, state), container="zip")
    content = bytearray(path.read_bytes())
    content[content.index(state["features.10.weight"].tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="data/.* is damaged"):
        read_pth(path, model="vgg19")


def test_a_compressed_zip_is_refused(torch, tmp_path):
    state, _ = random_state("vgg19")
    path = save(torch, tmp_path / "w.pth", to_torch(torch, state), container="zip")
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="is compressed"):
        read_pth(tmp_path / "packed.pth", model="vgg19")


def test_a_bare_pickle_is_not_unpickled(tmp_path):
    """`read_weights` would not even call this reader."""
    pytest.importorskip("torch")
    mark = tmp_path / "mark"
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(InputError):
        read_pth(path, model="vgg19")
    assert not mark.exists()


def make_torch_vgg(nn, deep):
    """Configuration D or E of Simonyan & Zisserman 2014 as torchvision builds it."""
    modules, in_channels = [], 3
    for channels, num_convolutions in ((64, 2), (128, 2), (256, deep), (512, deep), (512, deep)):
        for _ in range(num_convolutions):
            modules += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
            in_channels = channels
        modules.append(nn.MaxPool2d(2, 2))
    model = nn.Module()
    model.features = nn.Sequential(*modules)
    return model


def make_torch_resnet50(nn):
    """ResNet50 version 1.5 as torchvision builds it: the stride on the 3x3, no biases."""

    class Bottleneck(nn.Module):
        def __init__(self, in_channels, width, stride, has_downsample):
            super().__init__()
            out = 4 * width
            self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out)
            if has_downsample:
                convolution = nn.Conv2d(in_channels, out, 1, stride=stride, bias=False)
                self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(out))

        def forward(self, x):
            y = self.bn1(self.conv1(x)).relu()
            y = self.bn2(self.conv2(y)).relu()
            shortcut = self.downsample(x) if hasattr(self, "downsample") else x
            return (self.bn3(self.conv3(y)) + shortcut).relu()

    model = nn.Module()
    model.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(64)
    in_channels = 64
    for index, (width, num_blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        blocks = []
        for block in range(num_blocks):
            stride = 2 if block == 0 and index > 1 else 1
            blocks.append(Bottleneck(in_channels, width, stride, block == 0))
            in_channels = 4 * width
        setattr(model, f"layer{index}", nn.Sequential(*blocks))
    model.fc = nn.Linear(2048, 10)
    return model


def torch_features(torch, model, name, inputs):
    """Name to activation [channels, height, width] of VGG's layers or of ResNet50's blocks."""
    x, features = inputs, {}
    if name in vgg.BLOCKS:
        for layer, module in zip(vgg.layer_names(name), model.features, strict=True):
            x = features[layer] = module(x)
        return features
    x = features["conv1_conv"] = model.conv1(x)
    x = features["conv1_bn"] = model.bn1(x)
    x = features["conv1_relu"] = x.relu()
    x = features["pool1_pool"] = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    for stage, (_, num_blocks) in enumerate(resnet50.STAGES, 2):
        for block in range(num_blocks):
            x = getattr(model, f"layer{stage - 1}")[block](x)
            features[f"conv{stage}_block{block + 1}_out"] = x
    return features


@pytest.fixture(scope="module", params=MODEL_NAMES)
def torch_model(request, torch):
    """A full-size network with numbers under which activations stay near 1."""
    model = {
        "vgg19": lambda: make_torch_vgg(torch.nn, 4),
        "vgg16": lambda: make_torch_vgg(torch.nn, 3),
        "resnet50": lambda: make_torch_resnet50(torch.nn),
    }[request.param]()
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, torch.nn.BatchNorm2d):
            # Some variances are so small that the epsilon matters.
            for kind, low, high in (("weight", 0.5, 1.5), ("bias", -0.2, 0.2)):
                torch.nn.init.uniform_(getattr(module, kind), low, high)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data[::7] *= 1e-3
            module.running_var[::7] *= 1e-5
    return request.param, model.eval()


def test_a_torch_model_gives_torchs_features_from_every_container(torch, torch_model, tmp_path):
    name, model = torch_model
    state = {key: np.asarray(array) for key, array in model.state_dict().items()}
    path = write_torch_safetensors(tmp_path / "w.safetensors", state)
    weights = read_torch_safetensors(path, model=name)
    shapes = variable_shapes(name)
    check_variables(weights.variables, needed=shapes, known=shapes, source="it")
    for container in CONTAINERS:
        path = save(torch, tmp_path / "w.pth", model.state_dict(), container=container)
        assert_same_bits(read_pth(path, model=name).variables, weights.variables)
    image = np.random.default_rng(0).random((67, 93, 3), np.float32)
    with torch.no_grad():
        mean, std = (torch.tensor(numbers).reshape(3, 1, 1) for numbers in TORCH)
        inputs = (torch.tensor(image).permute(2, 0, 1) - mean) / std
        references = torch_features(torch, model, name, inputs[None])
    options = {"stride_on": weights.stride_on} if weights.stride_on else {}
    feature_fn = jax.jit(make_feature_fn(MODELS[name].make_module(**options), tuple(references)))
    variables = jax.tree.map(jnp.asarray, nest(weights.variables))
    normalization = (jnp.asarray(numbers) for numbers in weights.normalization)
    with jax.default_matmul_precision("highest"):
        features = feature_fn(NetworkParams(variables, *normalization), image)
    for layer, reference in references.items():
        expected = reference[0].permute(1, 2, 0).numpy()
        assert np.std(expected) > 0.01, layer
        assert features[layer].shape == expected.shape, layer
        error = np.abs(features[layer] - expected).max() / np.abs(expected).max()
        assert error < 1e-5, f"{layer}: {error:.2e}"
