"""The host's own record of a run."""

import time
from typing import Any

import jax
import numpy as np

from neuart_jax.engine.result import Snapshot
from neuart_jax.engine.sharding import fetch
from neuart_jax.engine.step import Status, TransferState


class Account:
    """What was reported of a run, which of its pairs go on, and how long it took.

    Args:
      num_pairs: how many.
      restored: of a run that was cut, where this one goes on.

    Attributes:
      statuses: of each pair, as last reported, or as the callback wanted it.
      histories: of each pair, the figures of all reports.
      paces: seconds per evaluation of each chunk.
      seconds_to_first_step: 0 until there is one.
    """

    def __init__(self, num_pairs: int, restored: Snapshot | None) -> None:
        self.statuses = [Status.RUNNING] * num_pairs
        self.histories: list[list[dict[str, Any]]] = [[] for _ in range(num_pairs)]
        self.paces: list[float] = []
        self.seconds_to_first_step = 0.0
        self._began = time.perf_counter()
        if restored is not None:
            self.histories = [list(history) for history in restored.histories]
            self.paces = list(restored.paces)
            self.seconds_to_first_step = restored.seconds_to_first_step
            self._began -= restored.seconds

    @property
    def seconds(self) -> float:
        """Seconds since the run began, without those between a cut and its restoration."""
        return time.perf_counter() - self._began

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
            list(self.paces),
            self.seconds,
            self.seconds_to_first_step,
        )
