"""The order of painting: frames in one pass or several."""

from collections.abc import Sequence
from typing import NamedTuple


class Unit(NamedTuple):
    """A frame in one of the passes.

    Attributes:
      number: number of the unit, from 0: all frames of the first pass, in the order of the clip,
        then all frames of the second pass, and so on, whatever the order of painting.
      sweep: number of the pass, from 0.
      frame: number of the frame, from 0.
      step: 1 in a pass over the frames in order, -1 in a pass in reverse order.
      alone: whether the frame is painted like an image, independently of other frames.
      is_last: whether this is the frame's last pass.
    """

    number: int
    sweep: int
    frame: int
    step: int
    alone: bool
    is_last: bool


def plan_units(frames: Sequence[int], passes: int, *, num_frames: int) -> list[Unit]:
    """List the units of some frames in all passes, in the order of painting.

    With several passes, the first paints every frame alone, and the others alternate in direction.

    Args:
      frames: numbers of consecutive frames.
      passes: number of passes.
      num_frames: number of frames of the whole clip.
    """
    units: list[Unit] = []
    for sweep in range(passes):
        step = -1 if sweep > 0 and sweep % 2 == 0 else 1
        for frame in frames[::step]:
            units.append(
                Unit(
                    number=sweep * num_frames + frame,
                    sweep=sweep,
                    frame=frame,
                    step=step,
                    alone=passes > 1 and sweep == 0,
                    is_last=sweep == passes - 1,
                )
            )
    return units
