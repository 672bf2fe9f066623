"""Shots of a clip, painted at the same time on several devices."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

import jax

from neuart_jax.runs.video.film_progress import FilmReporter
from neuart_jax.runs.video.motion import Motion
from neuart_jax.runs.video.passes import Painter, num_finders
from neuart_jax.runs.video.prepare import PreparedClip
from neuart_jax.runs.video.sources import follow


def find_shots(prepared: PreparedClip) -> list[range]:
    """Find the frames of every shot, by the cuts that painting in order finds, too.

    Args:
      prepared: prepared clip.

    Returns:
      Numbers of each shot's frames, in the order of the clip.
    """
    every = range(prepared.clip.num_frames)
    starts, pending = [0], deque[tuple[int, Future[Motion]]]()
    with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(num_finders()) as finders:

        def settle() -> None:
            frame, motion = pending.popleft()
            if motion.result().is_cut:
                starts.append(frame)

        for source in follow(
            prepared, frames=every, first=0, distances=[1], readers=readers, finders=finders
        ):
            pending.extend((source.number, motion) for motion in source.motions.values())
            while len(pending) > num_finders():
                settle()
        while pending:
            settle()
    ends = [*starts[1:], len(every)]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def paint_shots(
    painters: Sequence[Painter],
    params: Any,
    reporter: FilmReporter,
    *,
    devices: Sequence[jax.Device],
) -> None:
    """Paint shots, each on one device, the longest first.

    A failure stops the other devices at their next chunk of steps, with a checkpoint.

    Args:
      painters: a painter per shot.
      params: parameters of the network.
      reporter: reporter of the progress of all painters.
      devices: devices to use; one paints in the order of the clip.
    """
    if len(devices) == 1:
        for painter in painters:
            painter.paint(params, reporter)
        return
    waiting = deque(sorted(painters, key=lambda painter: -len(painter.units)))

    def work(device: jax.Device) -> None:
        with jax.default_device(device):
            # Not bound to the device, so that its programs are those of a single device.
            own = jax.device_put(jax.device_get(params))
            while not reporter.stopped:
                try:
                    painter = waiting.popleft()
                except IndexError:
                    return
                painter.paint(own, reporter)

    with ThreadPoolExecutor(len(devices)) as workers:
        futures = [workers.submit(work, device) for device in devices]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            reporter.stopped = True
            raise
