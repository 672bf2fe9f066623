"""ResNet50, version 1, of He et al. 2015 (arXiv 1512.03385, Table 1), without its classifier."""

import functools
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from neuart_jax.models.layers import (
    Convolution,
    FitConvolution,
    NamedLayers,
    collect_layers,
    convolution_shapes,
    layer_channels,
    pool,
    pool_overlapping,
)
from neuart_jax.models.receptive_field import PIXELS, Reach

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""(bottleneck width, blocks) of the stages conv2 ... conv5: Table 1, column 50-layer."""

EXPANSION = 4
"""Ratio of the channels of a block's output to the width of its bottleneck."""

BATCH_NORM_EPSILON = 1e-5
"""As in torchvision. Keras has 1.001e-5; its converter adds the difference to the variances."""


def _block_layers(name: str, *, has_shortcut: bool) -> list[str]:
    parts = ["0_conv", "0_bn"] if has_shortcut else []
    for index in (1, 2, 3):
        parts += [f"{index}_conv", f"{index}_bn"] + ([f"{index}_relu"] if index < 3 else [])
    return [f"{name}_{part}" for part in [*parts, "add", "out"]]


def layer_names() -> tuple[str, ...]:
    """Return all layers in the order of computation, named as in Keras."""
    names = ["conv1_pad", "conv1_conv", "conv1_bn", "conv1_relu", "pool1_pad", "pool1_pool"]
    for stage, (_, num_blocks) in enumerate(STAGES, 2):
        for block in range(1, num_blocks + 1):
            names += _block_layers(f"conv{stage}_block{block}", has_shortcut=block == 1)
    return tuple(names)


@functools.cache
def layer_reaches(*, stride_on: str = "1x1", pooling: str = "max") -> dict[str, Reach]:
    """Return every layer's receptive field; the arguments are attributes of `ResNet50`."""
    reaches: dict[str, Reach] = {}

    def slide(reach: Reach, size: int, stride: int, *, margin: int) -> Reach:
        if stride == 1 or pooling == "max":
            return reach.slide(size, stride=stride, margin=margin)
        return reach.slide(size, margin=margin).slide(2, stride=2)

    def bottleneck(reach: Reach, name: str, stride: int) -> Reach:
        strides = (stride, 1, 1) if stride_on == "1x1" else (1, stride, 1)
        if name.endswith("block1"):
            shortcut = slide(reach, 1, stride, margin=0)
            reaches[f"{name}_0_conv"] = reaches[f"{name}_0_bn"] = shortcut
        for index, size in enumerate((1, 3, 1)):
            reach = slide(reach, size, strides[index], margin=size // 2)
            parts = ("conv", "bn", "relu") if index < 2 else ("conv", "bn")
            reaches.update({f"{name}_{index + 1}_{part}": reach for part in parts})
        # Their receptive field contains the shortcut's.
        reaches[f"{name}_add"] = reaches[f"{name}_out"] = reach
        return reach

    reach = reaches["conv1_pad"] = PIXELS.pad(3)
    reach = slide(reach, 7, 2, margin=0)
    reaches.update({f"conv1_{part}": reach for part in ("conv", "bn", "relu")})
    if pooling == "max":
        reach = reach.pad(1)
    reaches["pool1_pad"] = reach
    reach = reach.slide(3 if pooling == "max" else 2, stride=2)
    reaches["pool1_pool"] = reach
    for stage, (_, num_blocks) in enumerate(STAGES, 2):
        for block in range(1, num_blocks + 1):
            stride = 2 if block == 1 and stage > 2 else 1
            reach = bottleneck(reach, f"conv{stage}_block{block}", stride)
    return reaches


def layer_stride(layer: str) -> int:
    """Return a layer's stride in image pixels.

    With the stride on the 3x3 convolution, a stage's first 1x1 convolution has half this stride.
    """
    return layer_reaches()[layer].stride


def variable_shapes() -> dict[str, tuple[int, ...]]:
    """Map every variable's path, such as "params/conv1_conv/kernel", to its shape."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, size: int, depth: int, channels: int) -> None:
        nonlocal shapes
        shapes |= convolution_shapes(f"{name}_conv", size, depth, channels)
        shapes |= {f"params/{name}_bn/{part}": (channels,) for part in ("scale", "bias")}
        shapes |= {f"batch_stats/{name}_bn/{part}": (channels,) for part in ("mean", "var")}

    depth = STAGES[0][0]
    add("conv1", 7, 3, depth)
    for stage, (width, num_blocks) in enumerate(STAGES, 2):
        for block in range(1, num_blocks + 1):
            name = f"conv{stage}_block{block}"
            if block == 1:
                add(f"{name}_0", 1, depth, EXPANSION * width)
            add(f"{name}_1", 1, depth, width)
            add(f"{name}_2", 3, width, width)
            add(f"{name}_3", 1, width, EXPANSION * width)
            depth = EXPANSION * width
    return shapes


def layer_shapes(
    *, height: int, width: int, pooling: str = "max", stride_on: str = "1x1"
) -> dict[str, tuple[int, int, int]]:
    """Map every layer to (height', width', channels) for an image of `height` x `width`."""
    channels = layer_channels(layer_names(), variable_shapes())

    def shape(name: str, reach: Reach) -> tuple[int, int, int]:
        margin = 6 if name == "conv1_pad" else 2 if (name, pooling) == ("pool1_pad", "max") else 0
        # Means are of complete squares only; otherwise every `stride`th position counts from 0.
        partial = 0 if pooling == "average" else reach.stride - 1
        rows, columns = ((side + partial) // reach.stride + margin for side in (height, width))
        return rows, columns, channels[name]

    reaches = layer_reaches(stride_on=stride_on, pooling=pooling)
    return {name: shape(name, reaches[name]) for name in layer_names()}


class ResNet50(nn.Module):
    """ResNet50 as a feature network, with frozen batch statistics.

    Layers have Keras' names: ``conv2_block3_out`` is the last output (after the ReLU) of the
    first stage, ``..._add`` the sum before that ReLU, ``..._2_relu`` inside the bottleneck.

    Attributes:
      stride_on: which convolution of a stage's first bottleneck halves the resolution: "1x1" as
        in the paper and in Keras, "3x3" as in torchvision ("V1.5").
      pooling: "max" as trained, or "average": the resolution is always halved by the mean of 2x2
        positions, instead of by a maximum or by skipping positions. No position is skipped then,
        and the gradient shows no grid. An odd last row or column is dropped. The idea is Gatys et
        al.'s for VGG, and ResNet-D's of He et al. 2018, arXiv 1812.01187, figure 2c.
      padding: "zero" as trained, or "reflect", which avoids dark borders in the image.
      fit: chooses kernels at `init`; see `Convolution`.
    """

    stride_on: str = "1x1"
    pooling: str = "max"
    padding: str = "zero"
    fit: FitConvolution | None = None

    def layer_reaches(self) -> dict[str, Reach]:
        """Return every layer's receptive field."""
        return layer_reaches(stride_on=self.stride_on, pooling=self.pooling)

    @nn.compact
    def __call__(self, image: Array, *, layers: Iterable[str] | None = None) -> dict[str, Array]:
        """Compute the features of a normalized image or of a batch.

        Args:
          image: float[..., height, width, 3], normalized for the parameters.
          layers: names of the layers to return; the pass ends at the deepest. None returns all.

        Returns:
          Names and features, float[..., height', width', channels].
        """

        def convolution(features: Array, channels: int, size: int, stride: int, name: str) -> Array:
            halve = self.pooling == "average" and stride > 1
            # The mean and a 1x1 convolution commute; this order is cheaper.
            if halve and size == 1:
                features = pool(features, kind="average")
            features = Convolution(
                channels,
                size,
                # 3x3 convolutions have a fast form at stride 1 only.
                stride=1 if halve and size < 7 else stride,
                padding=self.padding if size == 3 else "valid",
                average=halve and size == 7,
                fit=self.fit,
                name=name,
            )(features)
            return pool(features, kind="average") if halve and size == 3 else features

        def batch_norm(features: Array, name: str) -> Array:
            return nn.BatchNorm(use_running_average=True, epsilon=BATCH_NORM_EPSILON, name=name)(
                features
            )

        def bottleneck(shortcut: Array, name: str, width: int, stride: int) -> NamedLayers:
            strides = (stride, 1, 1) if self.stride_on == "1x1" else (1, stride, 1)
            features = shortcut
            if name.endswith("block1"):
                shortcut = convolution(shortcut, EXPANSION * width, 1, stride, f"{name}_0_conv")
                yield f"{name}_0_conv", shortcut
                shortcut = batch_norm(shortcut, f"{name}_0_bn")
                yield f"{name}_0_bn", shortcut
            channels = (width, width, EXPANSION * width)
            for index, size in enumerate((1, 3, 1)):
                prefix = f"{name}_{index + 1}"
                features = convolution(
                    features, channels[index], size, strides[index], f"{prefix}_conv"
                )
                yield f"{prefix}_conv", features
                features = batch_norm(features, f"{prefix}_bn")
                yield f"{prefix}_bn", features
                if index < 2:
                    features = jax.nn.relu(features)
                    yield f"{prefix}_relu", features
            features = features + shortcut
            yield f"{name}_add", features
            yield f"{name}_out", jax.nn.relu(features)

        def walk(features: Array) -> NamedLayers:
            features = _pad(features, 3, self.padding)
            yield "conv1_pad", features
            features = convolution(features, STAGES[0][0], 7, 2, "conv1_conv")
            yield "conv1_conv", features
            features = batch_norm(features, "conv1_bn")
            yield "conv1_bn", features
            features = jax.nn.relu(features)
            yield "conv1_relu", features
            if self.pooling == "average":
                yield "pool1_pad", features
                features = pool(features, kind="average")
            else:
                # After a ReLU, padding with zeros doesn't change a maximum.
                features = _pad(features, 1, "zero")
                yield "pool1_pad", features
                features = pool_overlapping(features)
            yield "pool1_pool", features
            for stage, (width, num_blocks) in enumerate(STAGES, 2):
                for block in range(1, num_blocks + 1):
                    stride = 2 if block == 1 and stage > 2 else 1
                    name = f"conv{stage}_block{block}"
                    for layer in bottleneck(features, name, width, stride):
                        features = layer[1]
                        yield layer

        batched = image.ndim == 4
        return collect_layers(walk(image if batched else image[None]), layers, batched=batched)


def _pad(features: Array, margin: int, padding: str) -> Array:
    # Explicit: "SAME" at stride 2 pads (0, 1) on even sizes, but the paper's network pads evenly.
    mode = "reflect" if padding == "reflect" else "constant"
    return jnp.pad(features, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode=mode)
