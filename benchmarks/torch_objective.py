"""The default objective in PyTorch, for comparison: same network, images and targets.

It runs as a script in any interpreter with torch and numpy, and imports nothing of this project,
and in particular not jax: both would compete for the same cores. A job is read as JSON from stdin,
arrays from the .npz file named there, and the result is written to the file named there.
"""

import contextlib
import json
import math
import os
import pathlib
import platform
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Not imported, as that would import the package and jax.
peak_resident_bytes = runpy.run_path(str(pathlib.Path(__file__).with_name("memory.py")))[
    "peak_resident_bytes"
]

Tensors = dict[str, Tensor]

# As in `models.vgg` and `models.resnet50`.
_VGG_BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_RESNET50_BLOCKS = (3, 4, 6, 3)
_BATCH_NORM_EPSILON = 1e-5
_TINY = 1e-12
# Step size that changes the pixels only a little, so that no evaluation can be optimized away.
_STEP = 1e-6


class Network(NamedTuple):
    """A network's parameters and options.

    Attributes:
      model: "vgg19", "vgg16" or "resnet50".
      variables: tensors by name, kernels as [out, in, height, width].
      mean: mean of the input, [3, 1, 1].
      std: standard deviation of the input, [3, 1, 1].
      layers: layers to return; the pass ends at the deepest.
      pooling: "average" or "max".
      padding: "reflect" or "zero".
      stride_on: "1x1" or "3x3".
    """

    model: str
    variables: Tensors
    mean: Tensor
    std: Tensor
    layers: tuple[str, ...]
    pooling: str
    padding: str
    stride_on: str

    def features(self, images: Tensor) -> Tensors:
        """Map [batch, 3, height, width] in [0, 1] to features[batch, channels, h, w] by layer."""
        walk = self._walk_vgg if self.model in _VGG_BLOCKS else self._walk_resnet50
        found: Tensors = {}
        for name, features in walk((images - self.mean) / self.std):
            if name in self.layers:
                found[name] = features
            if len(found) == len(self.layers):
                break
        return found

    def _convolve(self, inputs: Tensor, name: str, *, stride: int = 1) -> Tensor:
        kernel = self.variables[f"params/{name}/kernel"]
        bias = self.variables[f"params/{name}/bias"]
        margin = kernel.shape[-1] // 2
        if self.padding == "reflect" and margin:
            inputs, margin = F.pad(inputs, (margin,) * 4, mode="reflect"), 0
        return F.conv2d(inputs, kernel, bias, stride=stride, padding=margin)

    def _walk_vgg(self, features: Tensor) -> Iterable[tuple[str, Tensor]]:
        pool = F.avg_pool2d if self.pooling == "average" else F.max_pool2d
        for block, count in enumerate(_VGG_BLOCKS[self.model], 1):
            for index in range(1, count + 1):
                features = self._convolve(features, f"conv{block}_{index}")
                yield f"conv{block}_{index}", features
                features = F.relu(features)
                yield f"relu{block}_{index}", features
            features = pool(features, 2)
            yield f"pool{block}", features

    def _convolve_and_halve(self, inputs: Tensor, name: str, *, stride: int) -> Tensor:
        if self.pooling == "max" or stride == 1:
            return self._convolve(inputs, name, stride=stride)
        if self.variables[f"params/{name}/kernel"].shape[-1] == 1:
            return self._convolve(F.avg_pool2d(inputs, 2), name)
        return F.avg_pool2d(self._convolve(inputs, name), 2)

    def _normalize_batch(self, inputs: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            inputs,
            self.variables[f"batch_stats/{name}/mean"],
            self.variables[f"batch_stats/{name}/var"],
            self.variables[f"params/{name}/scale"],
            self.variables[f"params/{name}/bias"],
            training=False,
            eps=_BATCH_NORM_EPSILON,
        )

    def _walk_resnet50(self, features: Tensor) -> Iterable[tuple[str, Tensor]]:
        features = self._convolve_and_halve(features, "conv1_conv", stride=2)
        yield "conv1_conv", features
        features = F.relu(self._normalize_batch(features, "conv1_bn"))
        yield "conv1_relu", features
        if self.pooling == "average":
            features = F.avg_pool2d(features, 2)
        else:
            features = F.max_pool2d(features, 3, stride=2, padding=1)
        yield "pool1_pool", features
        for stage, num_blocks in enumerate(_RESNET50_BLOCKS, 2):
            for block in range(1, num_blocks + 1):
                name = f"conv{stage}_block{block}"
                stride = 2 if block == 1 and stage > 2 else 1
                features = self._bottleneck(features, name, stride)
                yield f"{name}_out", features

    def _bottleneck(self, inputs: Tensor, name: str, stride: int) -> Tensor:
        def layer(features: Tensor, index: int, stride: int) -> Tensor:
            features = self._convolve_and_halve(features, f"{name}_{index}_conv", stride=stride)
            return self._normalize_batch(features, f"{name}_{index}_bn")

        strides = (stride, 1, 1) if self.stride_on == "1x1" else (1, stride, 1)
        shortcut = layer(inputs, 0, stride) if name.endswith("block1") else inputs
        features = F.relu(layer(inputs, 1, strides[0]))
        features = F.relu(layer(features, 2, strides[1]))
        return F.relu(layer(features, 3, strides[2]) + shortcut)


def relative_error(values: Tensor, target: Tensor) -> Tensor:
    """Compute sum (values - target)^2 / sum target^2 for each pair of a batch."""
    axes = tuple(range(1, values.ndim))
    energy = torch.sum(target**2, axes).clamp_min(_TINY)
    return torch.sum((values - target) ** 2, axes) / energy


def smooth(features: Tensor, temperatures: Tensor, *, kind: str) -> Tensor:
    """Smooth float[batch, c, h, w] as `elementwise.smooth` and `smoothing.Smoothing` do."""
    if kind == "none":
        return features
    flat = features.flatten(1) / temperatures[:, None]
    smoothed = torch.softmax(flat, 1) * flat.shape[1]
    smoothed = smoothed.reshape(features.shape)
    return smoothed - 1 if kind == "centered_softmax" else smoothed


def gram_matrices(features: Tensor) -> Tensor:
    """Compute G / M for each pair: float32[batch, channels, channels]."""
    batch, channels, height, width = features.shape
    if features.is_contiguous(memory_format=torch.channels_last):
        positions = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        products = positions.transpose(1, 2) @ positions
    else:
        rows = features.reshape(batch, channels, height * width)
        products = rows @ rows.transpose(1, 2)
    return products / (height * width)


def total_variation(images: Tensor) -> Tensor:
    """Compute `elementwise.total_variation` for each pair."""
    rows, columns = images[:, :, 1:] - images[:, :, :-1], images[..., 1:] - images[..., :-1]
    return torch.mean(rows**2, (1, 2, 3)) + torch.mean(columns**2, (1, 2, 3))


def make_losses_fn(
    network: Network, targets: Tensors, *, smoothing: str, autocast: Callable[[], Any]
) -> Callable[[Tensor], Tensor]:
    """Make the function [batch, 3, height, width] -> each pair's loss, float32[batch].

    Args:
      network: the network.
      targets: "weights/TERM", and for each layer of content and style "values/TERM/LAYER",
        "temperatures/TERM/LAYER" and "layer_weights/TERM/LAYER".
      smoothing: "none", "softmax" or "centered_softmax".
      autocast: returns the context for computing features; losses are in the images' dtype.
    """
    compared = [path.split("/")[1:] for path in targets if path.startswith("values/")]

    def losses_fn(images: Tensor) -> Tensor:
        with autocast():
            features = network.features(images)
        features = {name: each.to(images.dtype) for name, each in features.items()}
        total = torch.zeros(len(images), device=images.device, dtype=images.dtype)
        for term, layer in compared:
            place = f"{term}/{layer}"
            found = smooth(features[layer], targets[f"temperatures/{place}"], kind=smoothing)
            if term == "style":
                found = gram_matrices(found)
            error = relative_error(found, targets[f"values/{place}"])
            weight = targets[f"weights/{term}"] * targets[f"layer_weights/{place}"]
            total = total + weight * error
        if "weights/tv" in targets:
            total = total + targets["weights/tv"] * total_variation(images)
        return total

    return losses_fn


def evaluate(losses_fn: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pair's loss and gradient."""
    images = images.detach().requires_grad_()
    losses = losses_fn(images)
    (gradients,) = torch.autograd.grad(losses.sum(), images)
    return losses.detach(), gradients


def find_errors(
    losses: Tensor, gradients: Tensor, arrays: dict[str, np.ndarray]
) -> dict[str, float]:
    """Compute the errors of losses, and gradients [batch, 3, h, w], against the reference."""
    found = {
        "loss": losses.cpu().double().numpy(),
        "gradient": gradients.permute(0, 2, 3, 1).cpu().double().numpy(),
    }
    errors = {}
    for name, value in found.items():
        reference = arrays[name].astype(np.float64)
        error = np.linalg.norm(value[arrays["pairs"]] - reference) / np.linalg.norm(reference)
        errors[f"{name}_error"] = float(error) if math.isfinite(error) else math.inf
    return errors


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Compute the objective of a job, compare it with the reference, and time it.

    Args:
      job: "npz"; "model", "pooling", "padding", "stride_on", "smoothing", "layers"; "device";
        "precision": float64, float32, tensorfloat32 or bfloat16; "channels_last"; "compile";
        "evaluations": how many to time, 0 for none.
    """
    device = torch.device(job["device"])
    arrays = dict(np.load(job["npz"]))
    if not job["evaluations"]:
        # For a comparison only, the pairs of the reference are enough.
        pairs = arrays["pairs"]
        several = [name for name in arrays if name == "images" or name.startswith("targets/")]
        arrays |= {name: arrays[name][pairs] for name in several}
        arrays["pairs"] = np.arange(len(pairs))
    layout = torch.channels_last if job["channels_last"] else torch.contiguous_format
    low = job["precision"] == "bfloat16"
    dtype = torch.float64 if job["precision"] == "float64" else torch.float32
    tensorfloat32 = job["precision"] == "tensorfloat32"
    torch.backends.cuda.matmul.allow_tf32 = tensorfloat32
    torch.backends.cudnn.allow_tf32 = tensorfloat32
    torch.backends.cudnn.benchmark = True

    def to_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)

    def to_maps(array: np.ndarray) -> Tensor:
        return to_device(np.moveaxis(array, -1, 1)).contiguous(memory_format=layout)

    variables = {}
    for path, array in _below(arrays, "variables/").items():
        is_kernel = path.endswith("/kernel")
        tensor = to_device(np.transpose(array, (3, 2, 0, 1)) if is_kernel else array)
        if is_kernel:
            tensor = tensor.contiguous(memory_format=layout)
        # Converted once, as autocast would do it at every evaluation.
        variables[path] = tensor.bfloat16() if low else tensor
    targets = {
        path: to_maps(array) if array.ndim == 4 else to_device(array)
        for path, array in _below(arrays, "targets/").items()
    }
    network = Network(
        job["model"],
        variables,
        to_device(arrays["mean"]).reshape(3, 1, 1),
        to_device(arrays["std"]).reshape(3, 1, 1),
        tuple(job["layers"]),
        job["pooling"],
        job["padding"],
        job["stride_on"],
    )

    def autocast() -> Any:
        if low:
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    losses_fn = make_losses_fn(network, targets, smoothing=job["smoothing"], autocast=autocast)
    if job["compile"]:
        losses_fn = torch.compile(losses_fn)
    images = to_maps(arrays["images"])
    product_rate = measure_product_rate(device) if job["evaluations"] else None
    began = time.perf_counter()
    losses, gradients = evaluate(losses_fn, images)
    _wait(device)
    result = {
        "first_seconds": time.perf_counter() - began,
        "product_gflops": product_rate,
        **find_errors(losses, gradients, arrays),
    }

    def descend(images: Tensor, count: int) -> Tensor:
        for _ in range(count):
            images = images - _STEP * evaluate(losses_fn, images)[1]
        _wait(device)
        return images

    if job["evaluations"]:
        # Two untimed steps: torch.compile may recompile for an image that is a result.
        images = descend(images, 2)
        began = time.perf_counter()
        descend(images, job["evaluations"])
        result["seconds"] = (time.perf_counter() - began) / job["evaluations"]
    if device.type == "cuda":
        result["device_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return result | {"peak_bytes": peak_resident_bytes()}


def measure_product_rate(device: torch.device, *, side: int = 2048) -> float:
    """Return the rate of float32 matrix products in GFLOP/s, the machine's current speed."""
    matrix = torch.ones((side, side), device=device) / side
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        matrix @ matrix
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds[1:]) / 1e9


def describe(job: dict[str, Any]) -> dict[str, Any]:
    """Describe torch's version, threads and device."""
    del job
    has_gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if has_gpu else "cpu",
        "has_gpu": has_gpu,
    }


def _below(arrays: dict[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(folder): a for n, a in arrays.items() if n.startswith(folder)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Run the job described on stdin."""
    job = json.load(sys.stdin)
    try:
        result = {"describe": describe, "measure": measure}[job["kind"]](job)
    # Any exception, as torch.compile fails in many ways; it is shown in the table.
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        result = {"error": f"{type(error).__name__}: {text}"}
    temporary = f"{job['result']}.tmp"
    pathlib.Path(temporary).write_text(json.dumps(result))
    os.replace(temporary, job["result"])


if __name__ == "__main__":
    main()
