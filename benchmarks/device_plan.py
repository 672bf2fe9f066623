"""What is asked of a device, how much of it, and how far off the answers may be."""

from typing import NamedTuple

from neuart_jax.runs.tables import Row

LOSS_LIMIT = {"float32": 1e-4, "tensorfloat32": 1e-2, "bfloat16": 5e-2}
"""Relative error of a loss up to which a precision is what its name says, against float64: a few
times its unit roundoff of 6e-8, 5e-4 and 4e-3, since sums of squares of differences magnify it."""

GRADIENT_LIMIT = {"float32": 1e-2, "tensorfloat32": 5e-2, "bfloat16": 2e-1}
"""The same of gradients, which single ReLUs change that are on instead of off."""

SAME_LOSS, SAME_PIXELS = 1e-3, 1 / 255
"""How far a pair in a batch may be from the same pair alone, relatively and in colors."""

MEMORY_LIMIT = 0.25
"""How far off a prediction of memory may be, relatively."""

_TESTS = "losses objective gaussians features convolution winograd line_search loop stylize".split()


class Scope(NamedTuple):
    """How much is looked at.

    Attributes:
      models: networks.
      agreement_size: side of the images that are compared with float64, in pixels.
      sizes: sides of those that are timed.
      batches: numbers of pairs at once.
      evaluations: timed in one go.
      most_pixels: of all pairs of a batch together; larger cells are left out.
      product_side: of the matrices whose products are timed.
      run_sizes: of images that are painted from the shell.
      torch_size: of the one pair that torch gets, in pixels.
      tests: names of test modules, without "test_" and the ending.
    """

    models: tuple[str, ...] = ("vgg19", "resnet50")
    agreement_size: int = 256
    sizes: tuple[int, ...] = (512, 256, 1024, 2048)
    batches: tuple[int, ...] = (1, 16, 4)
    evaluations: int = 20
    most_pixels: int = 16 * 1024**2
    product_side: int = 8192
    run_sizes: tuple[int, ...] = (512, 1024)
    torch_size: int = 512
    tests: tuple[str, ...] = tuple(_TESTS)


SMALL = Scope(
    models=("vgg16",),
    agreement_size=48,
    sizes=(48,),
    batches=(1, 2),
    evaluations=2,
    product_side=256,
    run_sizes=(64,),
    torch_size=48,
    tests=("line_search",),
)
"""Enough to see on a CPU that every part works."""


COLUMNS = ("part", "what", "value", "unit", "limit", "verdict")
"""Of the table."""


def make_row(what: str, value: float | None, unit: str, *, limit: float | None = None) -> Row:
    """Return a figure's row; with a limit it is "ok" up to that, and else "WRONG"."""
    verdict = ""
    if limit is not None:
        # Not `value > limit`, which is false for a number that is none.
        verdict = "ok" if value is not None and value <= limit else "WRONG"
    return {"what": what, "value": value, "unit": unit, "limit": limit, "verdict": verdict}


def left_out(part: str, why: str) -> Row:
    """Return the row of a part that there was no time or nothing for."""
    return {"part": part, "what": "not measured", "value": why, "verdict": "left out"}
