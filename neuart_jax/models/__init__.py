"""The table of feature networks, and their interface to the rest of the package.

The interface: ``module.apply(variables, image, layers=names) -> {name: features}``, pure, for one
image float[height, width, 3] or a batch. It computes nothing beyond the deepest requested layer.
``module.layer_reaches() -> {name: Reach}`` gives the receptive field of every layer.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jax import Array

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest
from neuart_jax.models import resnet50, vgg


class Architecture(NamedTuple):
    """A row of the table of networks.

    Attributes:
      family: "vgg" or "resnet"; readers of weights files distinguish networks by family.
      make_module: builds the linen module from the options named in `options`.
      options: the settings that this network supports.
      layer_names: all layers, in the order of computation.
      aliases: alternative names of layers.
      layer_stride: layer -> image pixels between neighboring positions.
      variable_shapes: path of every variable, such as "params/conv1_1/kernel", and its shape.
      layer_shapes: (height, width, pooling) of an image -> (height', width', channels) of every
        layer, in the order of computation.
    """

    family: str
    make_module: Callable[..., Any]
    options: tuple[str, ...]
    layer_names: tuple[str, ...]
    aliases: dict[str, str]
    layer_stride: Callable[[str], int]
    variable_shapes: Callable[[], dict[str, tuple[int, ...]]]
    layer_shapes: Callable[..., dict[str, tuple[int, int, int]]]


def _vgg(model: str) -> Architecture:
    return Architecture(
        family="vgg",
        make_module=functools.partial(vgg.VGG, model=model),
        options=("pooling", "padding"),
        layer_names=vgg.layer_names(model),
        aliases=vgg.keras_aliases(model),
        layer_stride=functools.partial(vgg.layer_stride, model),
        variable_shapes=functools.partial(vgg.variable_shapes, model),
        layer_shapes=functools.partial(vgg.layer_shapes, model),
    )


MODELS = {
    "vgg19": _vgg("vgg19"),
    "vgg16": _vgg("vgg16"),
    "resnet50": Architecture(
        family="resnet",
        make_module=resnet50.ResNet50,
        options=("stride_on", "pooling", "padding"),
        layer_names=resnet50.layer_names(),
        aliases={"stem": "conv1_relu"},
        layer_stride=resnet50.layer_stride,
        variable_shapes=resnet50.variable_shapes,
        layer_shapes=resnet50.layer_shapes,
    ),
}


DEFAULT_MODEL = "vgg19"
"""The model assumed for weights that fit several models."""


class NetworkParams(NamedTuple):
    """All arrays of a network: an argument of every compiled function, never a constant in it.

    Attributes:
      variables: variables for linen's `apply`: {"params": ...}, with "batch_stats" for ResNet50.
      mean: float32[3], subtracted from the sRGB image in [0, 1].
      std: float32[3], by which the difference is divided.
    """

    variables: Any
    mean: Array
    std: Array


def find_architecture(model: str) -> Architecture:
    """Return a model's row in the table of networks.

    Raises:
      InputError: there is no such model.
    """
    if model not in MODELS:
        raise InputError(
            f"model {model!r} is not known",
            expected="one of " + ", ".join(MODELS),
            remedy=f"did you mean {nearest(model, MODELS)}",
        )
    return MODELS[model]


def resolve_layers(model: str, layers: Iterable[str]) -> tuple[str, ...]:
    """Return the canonical names of layers, with aliases resolved.

    Raises:
      InputError: the model has no such layer; the message names the nearest ones.
    """
    architecture = find_architecture(model)
    resolved = tuple(architecture.aliases.get(layer, layer) for layer in layers)
    for layer in resolved:
        if layer not in architecture.layer_names:
            near = nearest(layer, (*architecture.layer_names, *architecture.aliases))
            others = [
                m for m, other in MODELS.items() if layer in (*other.layer_names, *other.aliases)
            ]
            raise InputError(
                f"{model} has no layer {layer!r}",
                expected=f"a name such as {', '.join(architecture.layer_names[1:4])}",
                remedy=f"choose --model={others[0]}, which has it, or a layer such as {near}"
                if others
                else f"did you mean {near}",
            )
    return resolved


def check_image_size(
    model: str, layers: Iterable[str], *, height: int, width: int, padding: str, name: str
) -> None:
    """Check that every layer has at least one position, or two with reflection padding.

    Raises:
      InputError: the image called `name` is too small for the deepest layer.
    """
    architecture = find_architecture(model)
    deepest = max(layers, key=architecture.layer_stride)
    positions = 2 if padding == "reflect" and "padding" in architecture.options else 1
    smallest = positions * architecture.layer_stride(deepest)
    if min(height, width) < smallest:
        raise InputError(
            f"{name} is {width}x{height} pixels",
            expected=f"at least {smallest} pixels per side for the layer {deepest} of {model}",
            remedy="use a larger image, a larger --size with --enlarge, or shallower layers",
        )
