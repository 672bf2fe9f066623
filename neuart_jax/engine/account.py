"""The host's own record of a run."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from neuart_jax.engine.result import Snapshot
from neuart_jax.engine.sharding import fetch
from neuart_jax.engine.step import NUM_RECENT, Status, TransferState


class Account:
    """What was reported of a run, which of its pairs go on, and how long it took.

    Args:
      num_pairs: how many.
      restored: of a run that was cut, where this one goes on.

    Attributes:
      statuses: of each pair, as last reported, or as the callback wanted it.
      histories: of each pair, the figures of all reports.
      step_losses: of each pair, the loss at the start and after every step.
      paces: seconds per evaluation of each chunk.
      seconds_to_first_step: 0 until there is one.
    """

    def __init__(self, num_pairs: int, restored: Snapshot | None) -> None:
        self.statuses = [Status.RUNNING] * num_pairs
        self.histories: list[list[dict[str, Any]]] = [[] for _ in range(num_pairs)]
        self.step_losses: list[list[float]] = [[] for _ in range(num_pairs)]
        self.paces: list[float] = []
        self.seconds_to_first_step = 0.0
        self._began = time.perf_counter()
        if restored is not None:
            self.histories = [list(history) for history in restored.histories]
            self.step_losses = [list(losses) for losses in restored.step_losses]
            self.paces = list(restored.paces)
            self.seconds_to_first_step = restored.seconds_to_first_step
            self._began -= restored.seconds

    @property
    def seconds(self) -> float:
        """Seconds since the run began, without those between a cut and its restoration."""
        return time.perf_counter() - self._began

    def add_losses(self, figures: Sequence[Any]) -> None:
        """Take the losses of the steps since the last time.

        Args:
          figures: of each pair, with the fields `num_steps` and `recent_losses` of a
            `TransferState`.
        """
        for losses, now in zip(self.step_losses, figures, strict=True):
            steps = np.arange(len(losses), int(now.num_steps) + 1)
            losses += now.recent_losses[steps % NUM_RECENT].tolist()

    def add_chunk(self, num_evaluations: int, seconds: float) -> None:
        """Count a chunk's evaluations, of all pairs, and its seconds."""
        self.paces.append(seconds / max(num_evaluations, 1))

    def note_first_step(self) -> None:
        """Say that the first step was made now."""
        self.seconds_to_first_step = self.seconds

    def snapshot(self, state: TransferState) -> Snapshot:
        """Return all that the run needs to go on from a state."""
        return Snapshot(
            [np.asarray(leaf) for leaf in fetch(jax.tree.leaves(state))],
            [list(history) for history in self.histories],
            [list(losses) for losses in self.step_losses],
            list(self.paces),
            self.seconds,
            self.seconds_to_first_step,
        )
