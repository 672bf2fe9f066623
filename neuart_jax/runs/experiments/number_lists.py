"""Numbers of rows and columns, as they are written on a command line."""

import math

from neuart_jax.config.errors import InputError


def read_numbers(
    text: str, *, flag: str, example: str, at_most: float = math.inf
) -> tuple[float, ...]:
    """Read numbers with commas between them; none for an empty text.

    Args:
      text: such as 1e-5,1e-4.
      flag: its name, for messages.
      example: of what would have been right.
      at_most: the largest that is allowed.

    Raises:
      InputError: one of them is not a finite number from 0 to `at_most`, or one comes twice.
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
            f"--{flag}={text} has a number twice",
            expected="numbers that differ in three digits",
            remedy="leave one out",
        )
    return numbers


def write_number(number: float) -> str:
    """Write a number with three digits, fit for a folder's name."""
    return f"{number:.3g}"
