"""Outputs of a run: progress reports and the result."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from neuart_jax.engine.step import Status


class Progress(NamedTuple):
    """Progress of a run, reported after every chunk.

    Attributes:
      num_steps: number of updates so far.
      num_evaluations: number of evaluations of the objective so far.
      losses: loss terms at the current image by name, including "total".
      best_loss: smallest total so far.
      seconds: wall-clock time since the run began, including compilation.
      total_steps: largest number of updates of the whole run.
      size: (height, width) in pixels of the image that the losses refer to.
      status: `Status.RUNNING` until the run ends.
      image: function that returns the current image, float32[height, width, 3], fetched from the
        device; it must be called within the callback.
      seconds_to_first_step: wall-clock time until the first step was made; 0 before that step.
      share: share of the whole run's work that is done, from 0 to 1; steps are weighted by the
        number of pixels.
    """

    num_steps: int
    num_evaluations: int
    losses: dict[str, float]
    best_loss: float
    seconds: float
    total_steps: int
    size: tuple[int, int]
    status: Status
    image: Callable[[], np.ndarray]
    seconds_to_first_step: float = 0.0
    share: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Return all numbers as a flat dictionary of JSON types."""
        return {
            "step": self.num_steps,
            "evaluations": self.num_evaluations,
            "seconds": round(self.seconds, 3),
            "height": self.size[0],
            "width": self.size[1],
            "best": self.best_loss,
            **self.losses,
        }


Callback = Callable[[Progress], bool | None]
"""Called after every chunk; returning True stops the run."""

BatchCallback = Callable[[int, Progress], bool | None]
"""Called after every chunk with the number of a pair; returning True stops that pair."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a run.

    Attributes:
      image: the image with the smallest loss, or the moving average of the iterates if requested,
        float32[height, width, 3], clipped to [0, 1].
      losses: loss terms at that image, after clipping, by name.
      status: reason for the end of the run.
      num_steps: number of updates made.
      num_evaluations: number of evaluations of the objective, not counting the one for `losses`.
      step_losses: total loss at the initial image and after every step, float32[num_steps + 1];
        the objectives of different scales aren't comparable.
      history: the figures of every report, in order; see `Progress.figures`.
      seconds: wall-clock time of the whole run.
      seconds_to_first_step: wall-clock time until the first step was made, mostly compilation.
      seconds_per_evaluation: time per evaluation at full size, the median over all chunks but the
        first, or that of the first if it is the only one.
      layer_weights: weight of every layer, by term and layer, balanced if requested, at full size.
      parameters: the optimized parameters of `image`, if it is parametrized; else None.
      sizes: (height, width) in pixels of every stage that was begun, coarsest first.
    """

    image: np.ndarray
    losses: dict[str, float]
    status: Status
    num_steps: int
    num_evaluations: int
    step_losses: np.ndarray
    history: tuple[dict[str, Any], ...]
    seconds: float
    seconds_to_first_step: float
    seconds_per_evaluation: float
    layer_weights: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ()
    parameters: Any = dataclasses.field(default=None, repr=False)
