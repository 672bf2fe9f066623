"""A film of how an image came to be, of the frames that its run wrote."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import OutputConfig
from neuart_jax.engine.result import Result
from neuart_jax.io.clips.animation_writing import check_animation, save_animation
from neuart_jax.io.clips.pace import find_durations
from neuart_jax.io.images import load_image
from neuart_jax.runs.destination import PLOT_NAME


def check_progress_film(output: OutputConfig, *, height: int, width: int) -> None:
    """Check that a run's film can be written, if there is to be one.

    Args:
      output: names it.
      height: of the run's image, in pixels.
      width: the same.

    Raises:
      InputError: its name is no plain one, or taken, or ends in no kind that can be written.
    """
    name = output.animation
    if not name:
        return
    if Path(name).name != name or name in (output.image_name, PLOT_NAME):
        raise InputError(
            f"--animation={name} is no name that is free in the result's folder",
            expected="a name such as progress.webp",
            remedy="put the folder into --output, and give the film a name of its own",
        )
    factor = min(1.0, output.animation_size / max(height, width))
    check_animation(
        f"--animation={name}",
        height=max(1, round(height * factor)),
        width=max(1, round(width * factor)),
    )


def save_progress(
    path: Path, *, frames: Sequence[Path], result: Result, output: OutputConfig
) -> None:
    """Write the film: the frames one after the other, and the finished image, which is held.

    Args:
      path: of the film.
      frames: their files, in order.
      result: of the run.
      output: how long it is, and how large.

    Raises:
      InputError: a frame can't be read, or the film not be written.
    """

    def images() -> Iterator[npt.NDArray[np.float32]]:
        for frame in frames:
            yield load_image(frame).image
        yield result.image

    save_animation(
        path,
        images(),
        find_durations(len(frames) + 1, seconds=output.animation_seconds),
        size=output.animation_size,
    )
