"""VGG16 and VGG19 of Simonyan & Zisserman 2014 (arXiv 1409.1556), without their classifiers."""

import functools
from collections.abc import Iterable

import flax.linen as nn
import jax
from jax import Array

from neuart_jax.models.layers import (
    Convolution,
    FitConvolution,
    NamedLayers,
    collect_layers,
    convolution_shapes,
    layer_channels,
    pool,
)
from neuart_jax.models.receptive_field import PIXELS, Reach

BLOCKS = {
    "vgg16": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "vgg19": ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}
"""(channels, convolutions) of each block, by model: Table 1, columns D and E."""


def layer_names(model: str) -> tuple[str, ...]:
    """Return all layers in the order of computation: conv1_1, relu1_1, conv1_2, ... pool5."""
    names = []
    for block, (_, num_convolutions) in enumerate(BLOCKS[model], 1):
        for index in range(1, num_convolutions + 1):
            names += [f"conv{block}_{index}", f"relu{block}_{index}"]
        names.append(f"pool{block}")
    return tuple(names)


def keras_aliases(model: str) -> dict[str, str]:
    """Map Keras' names to ours. Keras' convolutions include the ReLU: block4_conv2 is relu4_2."""
    aliases = {}
    for name in layer_names(model):
        kind, place = name[:4], name[4:]
        if kind == "relu":
            block, index = place.split("_")
            aliases[f"block{block}_conv{index}"] = name
        elif kind == "pool":
            aliases[f"block{place}_pool"] = name
    return aliases


@functools.cache
def layer_reaches(model: str) -> dict[str, Reach]:
    """Return every layer's receptive field."""
    reach, reaches = PIXELS, {}
    for block, (_, num_convolutions) in enumerate(BLOCKS[model], 1):
        for index in range(1, num_convolutions + 1):
            reach = reach.slide(3, margin=1)
            reaches[f"conv{block}_{index}"] = reaches[f"relu{block}_{index}"] = reach
        reach = reaches[f"pool{block}"] = reach.slide(2, stride=2)
    return reaches


def layer_stride(model: str, layer: str) -> int:
    """Return a layer's stride in image pixels."""
    return layer_reaches(model)[layer].stride


def variable_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Map every variable's path, such as "params/conv1_1/kernel", to its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    depth = 3
    for block, (channels, num_convolutions) in enumerate(BLOCKS[model], 1):
        for index in range(1, num_convolutions + 1):
            shapes |= convolution_shapes(f"conv{block}_{index}", 3, depth, channels)
            depth = channels
    return shapes


def layer_shapes(
    model: str, *, height: int, width: int, pooling: str = "max"
) -> dict[str, tuple[int, int, int]]:
    """Map every layer to (height', width', channels) for an image of `height` x `width`."""
    del pooling  # Either kind drops an odd last row or column.
    channels = layer_channels(layer_names(model), variable_shapes(model))
    return {
        name: (height // reach.stride, width // reach.stride, channels[name])
        for name, reach in layer_reaches(model).items()
    }


class VGG(nn.Module):
    """VGG16 or VGG19 as a feature network.

    ``conv4_2`` is the convolution's output before the ReLU, ``relu4_2`` after it (called conv4_2 in
    papers on style transfer, and block4_conv2 in Keras), ``pool4`` the pooled block.

    Attributes:
      model: key of `BLOCKS`.
      pooling: "max" as trained, or "average" (Gatys et al. 2015, section 2).
      padding: "zero" as trained, or "reflect", which avoids dark borders in the image.
      fit: chooses kernels at `init`; see `Convolution`.
    """

    model: str = "vgg19"
    pooling: str = "max"
    padding: str = "zero"
    fit: FitConvolution | None = None

    def layer_reaches(self) -> dict[str, Reach]:
        """Return every layer's receptive field."""
        return layer_reaches(self.model)

    @nn.compact
    def __call__(self, image: Array, *, layers: Iterable[str] | None = None) -> dict[str, Array]:
        """Compute the features of a normalized image or of a batch.

        Args:
          image: float[..., height, width, 3], normalized for the parameters.
          layers: names of the layers to return; the pass ends at the deepest. None returns all.

        Returns:
          Names and features, float[..., height', width', channels].
        """

        def walk(features: Array) -> NamedLayers:
            for block, (channels, num_convolutions) in enumerate(BLOCKS[self.model], 1):
                for index in range(1, num_convolutions + 1):
                    name = f"{block}_{index}"
                    features = Convolution(
                        channels, 3, padding=self.padding, fit=self.fit, name=f"conv{name}"
                    )(features)
                    yield f"conv{name}", features
                    features = jax.nn.relu(features)
                    yield f"relu{name}", features
                features = pool(features, kind=self.pooling)
                yield f"pool{block}", features

        batched = image.ndim == 4
        return collect_layers(walk(image if batched else image[None]), layers, batched=batched)
