"""The exception for bad input, one sentence that tells the user what to do, and its numbers."""


class InputError(ValueError):
    """Input from the user that can't be used.

    The message is one sentence in three parts: what came, what was expected, what to do.
    Commands print it without a traceback and exit with code 2.

    Args:
      came: the input, with its name and value, e.g. ``"--size=-3 is not positive"``.
      expected: a description of valid input, e.g. ``"a whole number of pixels of at least 1"``.
      remedy: what to do about it, e.g. ``"leave the flag out to keep the image's own size"``.
    """

    def __init__(self, came: str, *, expected: str, remedy: str):
        self.came, self.expected, self.remedy = came, expected, remedy
        super().__init__(f"{came}; expected {expected}; {remedy}.")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 style image", "2 style images", "no style images"."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
