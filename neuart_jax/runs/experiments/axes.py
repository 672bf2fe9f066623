"""Axes of a grid: growing sets of layers, and numbers."""

import math

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import LayerWeights


def grow_layers(layer_weights: LayerWeights) -> list[LayerWeights]:
    """Return the first layer, the first two, and so on up to all.

    The total weight of each set is that of all layers, in the same proportions. For equal weights
    this is w_l = 1 / (number of active layers), Gatys et al. 2015, arXiv 1508.06576.

    Args:
      layer_weights: layers with their weights; those with weight 0 are left out.

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
    """Return a short name for a set, from its first and last layer."""
    names = [name for name, _ in layer_weights]
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"


def read_numbers(
    text: str, *, flag: str, example: str, at_most: float = math.inf
) -> tuple[float, ...]:
    """Parse comma-separated numbers; an empty text gives none.

    Args:
      text: numbers such as 1e-5,1e-4.
      flag: name of the flag in messages.
      example: a valid value, for messages.
      at_most: largest allowed number.

    Raises:
      InputError: an entry is not a finite number from 0 to `at_most`, or is repeated.
    """
    try:
        numbers = tuple(float(entry) for entry in text.split(",") if entry.strip())
    except ValueError:
        numbers = (math.nan,)
    if not all(math.isfinite(number) and 0 <= number <= at_most for number in numbers):
        limits = f"from 0 to {at_most:g}" if math.isfinite(at_most) else "of at least 0"
        raise InputError(
            f"--{flag}={text}",
            expected=f"finite numbers {limits} with commas between them",
            remedy=f"write --{flag}={example}, say",
        )
    written = [write_number(number) for number in numbers]
    if len(set(written)) < len(written):
        raise InputError(
            f"--{flag}={text} has the same number twice",
            expected="numbers that differ when rounded to three digits",
            remedy="leave one out",
        )
    return numbers


def write_number(number: float) -> str:
    """Format a number with three digits, for use in a folder's name."""
    return f"{number:.3g}"
