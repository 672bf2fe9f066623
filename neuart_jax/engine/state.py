"""State of a run on the host: the content of checkpoints and the results of scales."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from neuart_jax.engine.step import NUM_RECENT, Status


class ScaleResult(NamedTuple):
    """Result of one pair at one scale.

    Attributes:
      image: the image with the smallest loss, or the moving average of the iterates if requested,
        float32[height, width, 3], clipped to [0, 1].
      losses: loss terms at that image, after clipping, by name.
      status: reason for the end of the scale.
      num_steps: number of updates made.
      num_evaluations: number of evaluations of the objective, not counting the one for `losses`.
      step_losses: total loss at the initial image and after every step, float32[num_steps + 1].
      seconds_per_evaluation: the median over all chunks but the first, or that of the first if it
        is the only one.
      opt_state: last state of the optimizer, if the next scale continues with it.
      layer_weights: weight of every layer, by term and layer, balanced if requested.
      parameters: parameters of `image`, if it is parametrized.
    """

    image: np.ndarray
    losses: dict[str, float]
    status: Status
    num_steps: int
    num_evaluations: int
    step_losses: np.ndarray
    seconds_per_evaluation: float
    opt_state: Any = None
    layer_weights: Mapping[str, dict[str, float]] = {}
    parameters: Any = None


@dataclasses.dataclass
class PairState:
    """State of one pair.

    Attributes:
      scales: results of the finished scales.
      history: the figures of every report, with counts over all scales; see `Progress.figures`.
      step_losses: losses of the current scale at the initial image and after every step so far.
    """

    scales: list[ScaleResult] = dataclasses.field(default_factory=list)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    step_losses: list[float] = dataclasses.field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        """Whether the pair continues at the next scale: not stopped, and all losses finite."""
        ended = (Status.STOPPED, Status.NON_FINITE)
        return not self.scales or self.scales[-1].status not in ended

    @property
    def num_steps(self) -> int:
        """Number of updates at the finished scales."""
        return sum(scale.num_steps for scale in self.scales)

    @property
    def num_evaluations(self) -> int:
        """Number of evaluations at the finished scales."""
        return sum(scale.num_evaluations for scale in self.scales)

    def add_losses(self, num_steps: int, recent_losses: np.ndarray) -> None:
        """Append the losses of the steps since the last call; see `LoopState` for the arguments."""
        steps = np.arange(len(self.step_losses), num_steps + 1)
        self.step_losses += recent_losses[steps % NUM_RECENT].tolist()


@dataclasses.dataclass
class RunState:
    """State of a run of some pairs: everything needed to resume it, bit for bit.

    Attributes:
      pairs: state of every pair.
      arrays: leaves of the current scale's `LoopState`, in order, if the run is to be resumed from
        them.
      paces: seconds per evaluation for every chunk of the current scale.
      seconds_before: wall-clock time of the run before it was interrupted.
      seconds_to_first_step: wall-clock time until the first step was made; 0 before that step.
    """

    pairs: list[PairState]
    arrays: list[np.ndarray] | None = None
    paces: list[float] = dataclasses.field(default_factory=list)
    seconds_before: float = 0.0
    seconds_to_first_step: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.perf_counter()

    @classmethod
    def begin(cls, num_pairs: int) -> "RunState":
        """Return the state at the beginning of a run."""
        return cls([PairState() for _ in range(num_pairs)])

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run, without the time between interruption and resumption."""
        return self.seconds_before + time.perf_counter() - self._began

    @property
    def level(self) -> int:
        """Index of the current scale, from 0 for the coarsest."""
        return max(len(pair.scales) for pair in self.pairs)

    def begin_scale(self) -> None:
        """Clear the state of the previous scale."""
        self.paces = []
        for pair in self.pairs:
            pair.step_losses = []

    def note_first_step(self) -> None:
        """Record the time of the first step, if this is it."""
        self.seconds_to_first_step = self.seconds_to_first_step or self.seconds

    def copy(self, arrays: Sequence[np.ndarray]) -> "RunState":
        """Return a copy for a checkpoint, with the arrays of the current scale."""
        pairs = [
            PairState(list(pair.scales), list(pair.history), list(pair.step_losses))
            for pair in self.pairs
        ]
        return RunState(
            pairs, list(arrays), list(self.paces), self.seconds, self.seconds_to_first_step
        )


CheckpointFn = Callable[[Callable[[], RunState]], None]
"""Called after every chunk's reports, with a function that fetches the run's state."""
