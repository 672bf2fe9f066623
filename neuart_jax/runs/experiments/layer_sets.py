"""Sets of layers that grow by one."""

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import LayerWeights


def grow_layers(layer_weights: LayerWeights) -> list[LayerWeights]:
    """Return the first layer, the first two, and so on up to all.

    The total weight of each set is that of all layers, shared out in the same proportions. For
    equal weights that is w_l = 1 / (number of active layers), Gatys et al. 2015, arXiv 1508.06576.

    Args:
      layer_weights: those with the weight 0 are left out.

    Raises:
      InputError: no layer is left.
    """
    layer_weights = tuple(pair for pair in layer_weights if pair[1] > 0)
    if not layer_weights:
        raise InputError(
            "no style layer has a weight above 0",
            expected="at least one",
            remedy="write --style_layers=relu1_1,relu2_1, say",
        )
    total = sum(weight for _, weight in layer_weights)
    grown = []
    for count in range(1, len(layer_weights) + 1):
        active = layer_weights[:count]
        share = total / sum(weight for _, weight in active)
        grown.append(tuple((name, weight * share) for name, weight in active))
    return grown


def name_layers(layer_weights: LayerWeights) -> str:
    """Name a set in a word, by its first and its last layer."""
    names = [name for name, _ in layer_weights]
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
