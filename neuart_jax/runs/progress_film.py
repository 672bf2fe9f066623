"""A film of a run's progress, made from its frames."""

from collections.abc import Iterator, Mapping, Sequence
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
    """Check that a run's film can be written, if one is requested.

    Args:
      output: settings with the film's name.
      height: height of the run's image, in pixels.
      width: width of the run's image, in pixels.

    Raises:
      InputError: the name isn't a plain file name, is taken, or has an extension that can't be
        written.
    """
    name = output.animation
    if not name:
        return
    if Path(name).name != name or name in (output.image_name, PLOT_NAME):
        raise InputError(
            f"--animation={name} is not an unused name in the result's folder",
            expected="a name such as progress.webp",
            remedy="put the folder into --output, and give the film another name",
        )
    factor = min(1.0, output.animation_size / max(height, width))
    check_animation(
        f"--animation={name}",
        height=max(1, round(height * factor)),
        width=max(1, round(width * factor)),
    )


def save_progress(
    path: Path,
    *,
    content: npt.ArrayLike,
    frames: Sequence[Path],
    result: Result,
    output: OutputConfig,
    metadata: Mapping[str, str],
) -> None:
    """Write the film: the photograph, all frames, then the finished image, which is held.

    Each fades into the next, as far as the time between them allows.

    Args:
      path: destination of the film.
      content: content image, float32[height, width, 3], sRGB in [0, 1].
      frames: files of the frames, in order.
      result: result of the run.
      output: settings with the film's duration, size and fades.
      metadata: metadata of the film.

    Raises:
      InputError: a frame can't be read, or the film can't be written.
    """

    def images() -> Iterator[npt.NDArray[np.float32]]:
        yield np.asarray(content, np.float32)
        for frame in frames:
            yield load_image(frame).image
        yield result.image

    save_animation(
        path,
        images(),
        find_durations(len(frames), seconds=output.animation_seconds),
        size=output.animation_size,
        fade=output.animation_fade,
        metadata=metadata,
    )
