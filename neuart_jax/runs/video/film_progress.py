"""Progress reports of a film."""

from collections.abc import Callable
from typing import NamedTuple

from neuart_jax.engine.result import Progress


class FilmProgress(NamedTuple):
    """Progress of a film.

    Attributes:
      num_units: number of frames to paint, each counted once per pass.
      num_done: number of these that are painted.
      num_found: number of these that an earlier run painted.
      frame: number of the current frame, from 1.
      part: finished share of the current frame, in [0, 1].
      seconds: seconds since this run began to paint.
      seconds_per_frame: mean over frames that continue from another one; 0 before the first.
      progress: progress of the current frame.
    """

    num_units: int
    num_done: int
    num_found: int
    frame: int
    part: float
    seconds: float
    seconds_per_frame: float
    progress: Progress

    @property
    def seconds_left(self) -> float | None:
        """Seconds left at the current pace; None before a pace is known."""
        left = self.num_units - self.num_done - self.part
        return left * self.seconds_per_frame if self.seconds_per_frame else None


FilmObserver = Callable[[FilmProgress], bool | None]
"""Called with the progress after every chunk of steps; returning True stops the run."""
