"""The order of painting: frames in one pass or several."""

from typing import NamedTuple


class Unit(NamedTuple):
    """A frame in one of the passes.

    Attributes:
      number: number of the unit, from 0.
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


def plan_units(num_frames: int, passes: int) -> list[Unit]:
    """List the units of all passes.

    With several passes, the first paints every frame alone, and the others alternate in direction.
    """
    units: list[Unit] = []
    for sweep in range(passes):
        backward = sweep > 0 and sweep % 2 == 0
        for place in range(num_frames):
            units.append(
                Unit(
                    number=len(units),
                    sweep=sweep,
                    frame=num_frames - 1 - place if backward else place,
                    step=-1 if backward else 1,
                    alone=passes > 1 and sweep == 0,
                    is_last=sweep == passes - 1,
                )
            )
    return units
