"""Progress reports of a film."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from neuart_jax.engine.result import Progress
from neuart_jax.runs.video.units import Unit


class FilmProgress(NamedTuple):
    """Progress of a film.

    Attributes:
      num_units: number of frames to paint, each counted once per pass.
      num_done: number of these that are painted.
      num_found: number of these that an earlier run painted.
      frame: number of the current frame, from 1.
      part: finished share of the current frame, in [0, 1]; the sum over frames, if several devices
        paint at the same time.
      seconds: seconds since this run began to paint.
      seconds_per_frame: mean over frames that continue from another one, divided by the number of
        devices that paint; 0 before the first.
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


class FilmReporter:
    """Reports the progress of all painters of a film; safe to share between threads.

    Args:
      observer: observer to report to, called by one thread at a time.
      num_units: see `FilmProgress`.
      num_found: see `FilmProgress`.

    Attributes:
      stopped: whether painters are to stop.
    """

    def __init__(self, observer: FilmObserver | None, *, num_units: int, num_found: int) -> None:
        self.stopped = False
        self._observer, self._num_units, self._num_found = observer, num_units, num_found
        self._num_done = num_found
        self._parts: dict[int, float] = {}
        self._paces: list[float] = []
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def tell(self, unit: Unit, progress: Progress) -> bool:
        """Report on a unit that is being painted; return whether to stop."""
        with self._lock:
            self._parts[unit.number] = progress.share
            if self._observer is None:
                return self.stopped
            pace = float(np.mean(self._paces)) if self._paces else 0.0
            told = FilmProgress(
                num_units=self._num_units,
                num_done=self._num_done,
                num_found=self._num_found,
                frame=unit.frame + 1,
                part=sum(self._parts.values()),
                seconds=time.monotonic() - self._began,
                seconds_per_frame=pace / len(self._parts),
                progress=progress,
            )
            self.stopped = bool(self._observer(told)) or self.stopped
            return self.stopped

    def finish(self, unit: Unit, *, seconds: float | None) -> None:
        """Count a painted unit.

        Args:
          unit: the unit.
          seconds: seconds that it took; None if it says nothing about those to come.
        """
        with self._lock:
            self._parts.pop(unit.number, None)
            self._num_done += 1
            if seconds is not None:
                self._paces.append(seconds)
