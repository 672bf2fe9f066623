"""What leaves a run: reports on the way, and the result."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from neuart_jax.engine.step import Status


class Progress(NamedTuple):
    """What leaves the loop after every chunk.

    Attributes:
      num_steps: updates made so far.
      num_evaluations: calls of the objective so far.
      losses: name to value of the loss terms at the current image, "total" among them.
      best_loss: smallest total so far.
      seconds: wall-clock time since the run began, compilation included.
      total_steps: updates at the most, of the whole run.
      size: (height, width) of the image that the losses belong to, in pixels.
      status: `Status.RUNNING` while more is to come.
      image: current image, float32[height, width, 3]; fetched from the device when called, which
        has to be within the callback.
      seconds_to_first_step: as in `Result`; 0 before that step.
      share: of the whole run's work that is done, from 0 to 1; a step counts as many times as the
        image has pixels.
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
        """Return all numbers as one flat record, ready for JSON."""
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
"""The same for a batch, with the number of the pair; returning True stops that pair."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a run gives.

    Attributes:
      image: the image with the smallest loss seen, or the mean over the images where one was asked
        for, float32[height, width, 3], clipped to [0, 1].
      losses: name to value of the loss terms at that image, as clipped.
      status: why the run ended.
      num_steps: updates made.
      num_evaluations: calls of the objective, the one for `losses` not counted.
      step_losses: total loss at the start and after every step, float32[num_steps + 1]; the
        objective of a coarser scale is another one.
      history: the figures of every report, in order; see `Progress.figures`.
      seconds: wall-clock time of the whole run.
      seconds_to_first_step: wall-clock time until the first step was made, mostly compilation.
      seconds_per_evaluation: at full size, the median over the chunks after the first; of the
        first where it is the only one.
      layer_weights: term to layer to its weight, balanced if that was asked for, at full size.
      parameters: what was optimized where the image is parametrized, as at `image`; else None.
      sizes: (height, width) of every stage that was begun, in pixels, coarsest first.
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
