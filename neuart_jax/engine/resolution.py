"""Resolve a configuration: give empty settings their values."""

from collections.abc import Mapping
from typing import Any

from neuart_jax.config.config import Config, get_setting
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import LayerWeights, parse_layer_weights
from neuart_jax.config.own_settings import OWN_SETTINGS
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.inputs.initial_image import STARTS
from neuart_jax.models import DEFAULT_MODEL, find_architecture, resolve_layers
from neuart_jax.models.features import resolve_precision
from neuart_jax.models.params.load import kind_of_weights, settle_network


def settle_config(config: Config) -> Config:
    """Resolve the model and weights of a configuration on this machine.

    ImageNet weights are downloaded if needed; see `settle.settle_network`.
    """
    network = settle_network(config.network).config
    return config.replace(model=network.model, weights=network.weights)


def resolve_config(config: Config, *, check_names: bool = True) -> Config:
    """Fill in the settings that depend on the weights, and replace aliases of layers.

    Args:
      config: the configuration as given. If model and weights are not resolved yet (see
        `settle_config`), VGG19's trained weights are assumed, so that everything else can be
        checked before a download; if only the model is empty, it is that of the weights.
      check_names: whether to check the layers; False for a network that isn't in the table.

    Raises:
      InputError: the model or a layer doesn't exist, the objective has no term, or settings
        conflict.
    """
    losses = config.losses
    if losses.content_weight == losses.style_weight == 0:
        raise InputError(
            "content_weight and style_weight are both 0",
            expected="at least one positive weight",
            remedy="make one of them positive",
        )
    if config.realism.realism_steps and not config.realism.realism_weight:
        raise InputError(
            f"realism_steps={config.realism.realism_steps} came without realism_weight",
            expected="a coefficient for that stage",
            remedy="add --realism_weight=1e3, say",
        )
    compute = config.compute
    if (compute.convolution, compute.precision) == ("winograd", "bfloat16"):
        raise InputError(
            "--convolution=winograd came with --precision=bfloat16",
            expected="float32, as Winograd's sums need more than the 8 bits of bfloat16",
            remedy="leave --convolution out, or use --precision=float32",
        )
    if compute.window and compute.shard_rows > 1:
        raise InputError(
            f"--window={compute.window} came with --shard_rows={compute.shard_rows}",
            expected="one way to paint a huge image",
            remedy="leave one of the two out",
        )
    if compute.convolution == "winograd" and compute.shard_rows > 1:
        raise InputError(
            f"--convolution=winograd came with --shard_rows={compute.shard_rows}",
            expected="direct convolutions, whose rows the devices can exchange",
            remedy="leave --convolution out",
        )
    if config.run.init not in STARTS and config.run.scales is None:
        # A coarser size would lose the fine strokes of the given image.
        config = config.replace(scales=1)
    config = config.replace(precision=resolve_precision(config.compute.precision))
    if not check_names:
        return _fill_in(config, OWN_SETTINGS["vgg19"]["fitted"])
    if not config.network.model:
        config = config.replace(model=_expected_model(config.network))
    find_architecture(config.network.model)
    kind = kind_of_weights(config.network)
    config = _fill_in(config, OWN_SETTINGS[config.network.model][kind])
    resolved: dict[str, LayerWeights] = {}
    for setting in ("content_layers", "style_layers"):
        given = getattr(config.losses, setting)
        names = resolve_layers(config.network.model, [name for name, _ in given])
        pairs = tuple(zip(names, (weight for _, weight in given), strict=True))
        # Parsed again, as two names may have been aliases of one layer.
        resolved[setting] = parse_layer_weights(pairs)
    return config.replace(**resolved)


def _expected_model(config: NetworkConfig) -> str:
    # For "auto", resolving would look for weights, and perhaps download them.
    return DEFAULT_MODEL if config.weights == "auto" else settle_network(config).config.model


def _fill_in(config: Config, own: Mapping[str, Any]) -> Config:
    """Fill in the empty settings."""
    empty = {name for name in own if get_setting(config, name) in ("", (), None)}
    return config.replace(**{name: own[name] for name in empty})
