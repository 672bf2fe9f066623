"""The one exception for bad input: a sentence a person can act on."""


class InputError(ValueError):
    """Something the user gave can't be used.

    The message is one sentence in three parts: what came, what was expected, what to do.
    Command lines print it without a traceback and exit with code 2.

    Args:
      came: what was given, with its name and value, e.g. ``"--size=-3 is not positive"``.
      expected: what would have been right, e.g. ``"a whole number of pixels of at least 1"``.
      remedy: what to do about it, e.g. ``"leave the flag out to keep the image's own size"``.
    """

    def __init__(self, came: str, *, expected: str, remedy: str):
        self.came, self.expected, self.remedy = came, expected, remedy
        super().__init__(f"{came}; expected {expected}; {remedy}.")
