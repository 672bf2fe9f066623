"""Scope of a device check, and limits on its errors."""

from typing import NamedTuple

from neuart_jax.runs.tables import Row

LOSS_LIMIT = {"float32": 1e-4, "tensorfloat32": 1e-2, "bfloat16": 5e-2}
"""Limit on the relative error of a loss against float64, by precision: a few times the unit
roundoff of 6e-8, 5e-4 and 4e-3, as sums of squared differences magnify it."""

GRADIENT_LIMIT = {"float32": 1e-2, "tensorfloat32": 5e-2, "bfloat16": 3e-1}
"""The same for gradients, which change if a single ReLU is on instead of off. In bfloat16 ours and
that of PyTorch's autocast were both off by 0.25 at 48x48 pixels."""

SAME_LOSS, SAME_PIXELS = 1e-3, 1 / 255
"""Limits on the difference of a pair in a batch from the pair alone, relative and in colors."""

MEMORY_LIMIT = 0.25
"""Limit on the relative error of a memory prediction."""

_TESTS = "losses objective gaussians features convolution winograd line_search loop stylize".split()


class Scope(NamedTuple):
    """Scope of a check.

    Attributes:
      models: names of the networks.
      agreement_size: side of the images compared with float64, in pixels.
      sizes: sides of the images whose evaluations are timed, in pixels.
      batches: numbers of pairs per batch.
      evaluations: number of evaluations timed together.
      most_pixels: largest number of pixels of a batch; larger cells are left out.
      product_side: side of the matrices whose products are timed.
      run_sizes: sizes of images painted from the shell.
      torch_size: size of the pair evaluated by torch, in pixels.
      tests: names of test modules, without "test_" and extension.
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
"""Scope to test on a CPU that every part works."""


COLUMNS = ("part", "what", "value", "unit", "limit", "verdict")
"""Columns of the table."""


def make_row(what: str, value: float | None, unit: str, *, limit: float | None = None) -> Row:
    """Return a figure's row, with the verdict "ok" up to the limit, if any, and else "WRONG"."""
    verdict = ""
    if limit is not None:
        # Not `value > limit`, which is false for NaN.
        verdict = "ok" if value is not None and value <= limit else "WRONG"
    return {"what": what, "value": value, "unit": unit, "limit": limit, "verdict": verdict}


def left_out(part: str, why: str) -> Row:
    """Return the row of a part that was left out."""
    return {"part": part, "what": "not measured", "value": why, "verdict": "left out"}
