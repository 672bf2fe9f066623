"""Where a run is, on the host: what it reports, what a checkpoint holds, and what it ends with."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from neuart_jax.engine.step import NUM_RECENT, Status


class ScaleResult(NamedTuple):
    """What one pair has when a scale ends.

    Attributes:
      image: the image with the smallest loss seen, or the mean over the images where one was asked
        for, float32[height, width, 3], clipped to [0, 1].
      losses: name to value of the loss terms at that image, as clipped.
      status: why the scale ended.
      num_steps: updates made.
      num_evaluations: calls of the objective, the one for `losses` not counted.
      step_losses: total loss at the start and after every step, float32[num_steps + 1].
      seconds_per_evaluation: the median over the chunks after the first; of the first where it is
        the only one.
      opt_state: the optimizer's last state, where the next scale carries it on.
      layer_weights: term to layer to its weight, balanced if that was asked for.
      parameters: what `image` was rendered from, where it is parametrized.
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
    """Where one pair is.

    Attributes:
      scales: what it has of the scales that are done.
      history: the figures of every report, counted over all scales; see `Progress.figures`.
      step_losses: of the scale under way, the loss at the start and after every step so far.
    """

    scales: list[ScaleResult] = dataclasses.field(default_factory=list)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    step_losses: list[float] = dataclasses.field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        """Whether there is a next scale for it: it was not stopped, and its numbers are finite."""
        ended = (Status.STOPPED, Status.NON_FINITE)
        return not self.scales or self.scales[-1].status not in ended

    @property
    def num_steps(self) -> int:
        """Updates at the scales that are done."""
        return sum(scale.num_steps for scale in self.scales)

    @property
    def num_evaluations(self) -> int:
        """Evaluations at the scales that are done."""
        return sum(scale.num_evaluations for scale in self.scales)

    def add_losses(self, num_steps: int, recent_losses: np.ndarray) -> None:
        """Take the losses of the steps since the last time; arguments as in `LoopState`."""
        steps = np.arange(len(self.step_losses), num_steps + 1)
        self.step_losses += recent_losses[steps % NUM_RECENT].tolist()


@dataclasses.dataclass
class RunState:
    """Where a run of some pairs is: all that is needed to go on with it, bit for bit.

    Attributes:
      pairs: each one's part.
      arrays: the leaves of the `LoopState` of the scale under way, in their order, where the run is
        to go on from them.
      paces: seconds per evaluation, of every chunk of the scale under way.
      seconds_before: wall-clock time of the run before it was cut.
      seconds_to_first_step: as in `Result`; 0 until there is one.
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
        """Return the state of a run that begins now."""
        return cls([PairState() for _ in range(num_pairs)])

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run, without that between a cut and its restoration."""
        return self.seconds_before + time.perf_counter() - self._began

    @property
    def level(self) -> int:
        """Number of the scale under way, from 0 for the coarsest."""
        return max(len(pair.scales) for pair in self.pairs)

    def begin_scale(self) -> None:
        """Forget what belongs to the scale before."""
        self.paces = []
        for pair in self.pairs:
            pair.step_losses = []

    def note_first_step(self) -> None:
        """Say that a step was made now, perhaps the first one."""
        self.seconds_to_first_step = self.seconds_to_first_step or self.seconds

    def copy(self, arrays: Sequence[np.ndarray]) -> "RunState":
        """Return it as it is now, for a checkpoint, with the arrays of the scale under way."""
        pairs = [
            PairState(list(pair.scales), list(pair.history), list(pair.step_losses))
            for pair in self.pairs
        ]
        return RunState(
            pairs, list(arrays), list(self.paces), self.seconds, self.seconds_to_first_step
        )


CheckpointFn = Callable[[Callable[[], RunState]], None]
"""Called after every chunk's reports, with what fetches the run's state if one is to be kept."""
