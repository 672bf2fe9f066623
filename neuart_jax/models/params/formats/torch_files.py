"""torchvision's and timm's weights files: .safetensors with numpy alone, .pth with torch.

Both use the same layer names, except for the classifier, which is left out.
"""

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from neuart_jax.config.errors import InputError
from neuart_jax.models import MODELS
from neuart_jax.models.params.canonical import CanonicalParams, reading
from neuart_jax.models.params.conventions import (
    PREPROCESSING,
    Convention,
    canonicalize,
    find_preprocessing,
)
from neuart_jax.models.resnet50 import BATCH_NORM_EPSILON

_CONVENTION = Convention(
    layout="torchvision",
    kernel_axes="OIHW",
    preprocessing=PREPROCESSING["torch"],
    epsilon=BATCH_NORM_EPSILON,
    stride_on="3x3",
    has_biases=True,
)
# torchvision's classifiers, and timm's for VGG; the counters are only used in training.
_IGNORED = re.compile(r"(classifier|fc|head|pre_logits)\..*|.*\.num_batches_tracked")
_PREFIX = "module."  # Prefix of all names from torch.nn.DataParallel.
_WRAPPERS = ("state_dict", "model")  # Keys under which training scripts save weights.
_BATCH_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def read_torch_safetensors(path: Path, *, model: str, preprocessing: str = "") -> CanonicalParams:
    """Read torchvision's or timm's weights from a .safetensors file.

    Args:
      path: the file; its name doesn't matter.
      model: key of `models.MODELS`.
      preprocessing: "caffe", "torch", or empty for the usual one of this layout, "torch". The file
        doesn't state it.

    Raises:
      InputError: the file is damaged or of another format.
    """
    convention = _find_convention(model, preprocessing, "torchvision .safetensors")
    with reading(
        path,
        kind="torchvision weights",
        expected=f"a .safetensors file of {model} from torchvision or timm",
        remedy="get the file again, or give another --weights",
    ):
        with safetensors.safe_open(path, framework="np") as file:
            names = _wanted(file.keys())
            arrays = {ours: file.get_tensor(name) for ours, name in names.items()}
        return canonicalize(_name_arrays(arrays, model), convention, model=model)


def read_pth(path: Path, *, model: str, preprocessing: str = "") -> CanonicalParams:
    """Read torchvision's weights from a .pth file, in the old stream container or in a zip.

    Such a file is a pickle, which could run any program, so it is only read by torch's
    weights-only loader.

    Args:
      path: the file; its name doesn't matter.
      model: key of `models.MODELS`.
      preprocessing: see `read_torch_safetensors`.

    Raises:
      InputError: torch is not installed, or the file is damaged, of another format, or contains
        anything but weights.
    """
    convention = _find_convention(model, preprocessing, "torchvision .pth")
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} is a .pth file, which only torch can read",
            expected="PyTorch to be installed, or another kind of file",
            remedy="run pip install 'neuart_jax[torch]', or give timm's .safetensors file instead",
        ) from error
    with reading(
        path,
        kind="torchvision weights",
        expected=f"a .pth file of {model} with nothing but weights",
        remedy="get the file again, or give timm's .safetensors file instead",
    ):
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _check_sums(path)
        with warnings.catch_warnings():
            # torch warns that the storages of the old container are deprecated.
            warnings.simplefilter("ignore")
            # mmap keeps torch from allocating the sizes stated by a zip's pickle; _check_sums
            # verifies the bytes.
            document = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        tensors = _unwrap(document)
        size = path.stat().st_size
        arrays = {ours: _to_numpy(tensors[name], size) for ours, name in _wanted(tensors).items()}
        return canonicalize(_name_arrays(arrays, model), convention, model=model)


def _find_convention(model: str, preprocessing: str, layout: str) -> Convention:
    return _CONVENTION._replace(
        layout=layout,
        preprocessing=find_preprocessing(preprocessing, _CONVENTION.preprocessing),
        has_biases=MODELS[model].family != "resnet",
    )


def _check_sums(path: Path) -> None:
    """Check a zip's checksums, which torch ignores."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")


def _unwrap(document: Any) -> Mapping[str, Any]:
    for name in _WRAPPERS:
        if isinstance(document, Mapping) and isinstance(document.get(name), Mapping):
            document = document[name]
    if not isinstance(document, Mapping) or not all(isinstance(name, str) for name in document):
        raise ValueError("it contains no table of names and arrays")
    return document


def _wanted(names: Iterable[str]) -> dict[str, str]:
    """Map names without the prefix to those in the file, leaving out unneeded arrays."""
    bare = {name.removeprefix(_PREFIX): name for name in names}
    return {ours: name for ours, name in bare.items() if not _IGNORED.fullmatch(ours)}


def _to_numpy(tensor: Any, size: int) -> np.ndarray:
    """Convert a dense tensor to numpy; a shape that exceeds `size` bytes is refused."""
    if tensor.numel() * tensor.element_size() > size:
        raise ValueError(f"an array would have {tensor.numel():,} numbers")
    if not tensor.is_floating_point():
        raise ValueError(f"weights can't have the dtype {tensor.dtype}")
    return np.asarray(tensor.detach().float().numpy())


def _name_arrays(arrays: Mapping[str, np.ndarray], model: str) -> dict[str, np.ndarray]:
    """Map arrays to canonical variables; unknown arrays keep their names."""
    places = _places(model)
    return {places.get(name, name): array for name, array in arrays.items()}


def _places(model: str) -> dict[str, str]:
    """Map torchvision's names to canonical paths.

    VGG's `features` are numbered like our layers: convolution, ReLU, ..., pool. ResNet50's blocks
    correspond one to one, `layer1.0` to conv2_block1 and its `downsample` to the shortcut.
    """
    layers = MODELS[model].layer_names
    places = {}
    if MODELS[model].family == "vgg":
        for index, layer in enumerate(layers):
            places[f"features.{index}.weight"] = f"params/{layer}/kernel"
            places[f"features.{index}.bias"] = f"params/{layer}/bias"
        return places
    for layer in layers:
        stem, _, kind = layer.rpartition("_")
        if kind not in ("conv", "bn"):
            continue
        match = re.fullmatch(r"conv(\d)_block(\d)_(\d)", stem)
        if match is None:
            name = f"{kind}1"
        elif match[3] == "0":
            part = f"downsample.{('conv', 'bn').index(kind)}"
            name = f"layer{int(match[1]) - 1}.{int(match[2]) - 1}.{part}"
        else:
            name = f"layer{int(match[1]) - 1}.{int(match[2]) - 1}.{kind}{match[3]}"
        if kind == "conv":
            places[f"{name}.weight"] = f"params/{layer}/kernel"
            places[f"{name}.bias"] = f"params/{layer}/bias"
        else:
            for word, (collection, variable) in _BATCH_NORM.items():
                places[f"{name}.{word}"] = f"{collection}/{layer}/{variable}"
    return places
