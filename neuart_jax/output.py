"""A run's folder: the picture, its record, its metrics, a plot of the losses, frames."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuart_jax.destination import PLOT_NAME, check_image_name
from neuart_jax.errors import InputError
from neuart_jax.files import dump_json, make_folder, write_atomically
from neuart_jax.images import save_image
from neuart_jax.record import METADATA_KEY, RECORD_NAME, Record
from neuart_jax.result import Progress, Result

_SECONDS_BETWEEN_WRITES = 2.0


class RunFolder:
    """Writes one run's files; every file appears whole or not at all.

    Args:
      path: the folder. It is made if need be.
      image_name: the picture's file name; the extension picks the format.
      overwrite: replace the files of an earlier run.

    Raises:
      InputError: the folder can't be written, holds an earlier result, or the name has an
        extension that no format goes by.
    """

    def __init__(self, path: Path, *, image_name: str, overwrite: bool):
        self.path = path
        check_image_name(image_name)
        self.image_path = path / image_name
        self._metrics: list[dict[str, Any]] = []
        self._last_write = 0.0
        self._make(overwrite)

    def _make(self, overwrite: bool) -> None:
        taken = [p for p in (self.path / RECORD_NAME, self.image_path) if p.exists()]
        if taken and not overwrite:
            raise InputError(
                f"{self.path} already holds a result",
                expected="a folder without one",
                remedy="give another --output, or add --overwrite",
            )
        make_folder(self.path)
        # Better now than after minutes of work.
        probe = self.path / ".probe"
        with write_atomically(probe):
            pass
        probe.unlink()

    def report(self, progress: Progress) -> None:
        """Add a line to metrics.jsonl; a run's first one clears away an earlier run's frames."""
        if not self._metrics:
            for frame in (self.path / "frames").glob("*.png"):
                frame.unlink()
        self._metrics.append(progress.figures())
        if time.monotonic() - self._last_write >= _SECONDS_BETWEEN_WRITES:
            self._write_metrics()

    def resume(self, history: Sequence[dict[str, Any]]) -> None:
        """Go on with a run that was cut, after these reports."""
        self._metrics = list(history)

    def _write_metrics(self) -> None:
        lines = "".join(dump_json(line) + "\n" for line in self._metrics)
        _write_text(self.path / "metrics.jsonl", lines)
        self._last_write = time.monotonic()

    def save_frame(
        self,
        num_steps: int,
        image: npt.NDArray[np.float32],
        alpha: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Write an image as frames/NNNNNN.png, numbered by its step, with the content's alpha."""
        folder = self.path / "frames"
        folder.mkdir(exist_ok=True)
        save_image(folder / f"{num_steps:06d}.png", np.clip(image, 0, 1), alpha=alpha)

    def save(
        self,
        result: Result,
        record: Record,
        *,
        coefficients: Mapping[str, float],
        alpha: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Write the picture, config.json, metrics.jsonl and losses.png.

        Args:
          result: what the run gave.
          record: what made it.
          coefficients: loss term to its coefficient, for the plot.
          alpha: float32[height, width], the content's transparency.
        """
        text = record.to_json(result)
        save_image(self.image_path, result.image, alpha=alpha, metadata={METADATA_KEY: text})
        _write_text(self.path / RECORD_NAME, text + "\n")
        self._write_metrics()
        save_loss_plot(self.path / PLOT_NAME, result, coefficients)


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as file:
        file.write(text.encode())


def save_loss_plot(path: Path, result: Result, coefficients: Mapping[str, float]) -> None:
    """Plot the total after every step and the weighted terms at every report, as a PNG.

    Args:
      path: where to.
      result: with at least the loss of the start.
      coefficients: loss term to its coefficient; a term without one is shown as it is.
    """
    # Half a second of start-up that only a finished run has to pay.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(result.step_losses, color="black", linewidth=1.5, label="total")
    steps = [line["step"] for line in result.history]
    for name in result.losses:
        if name == "total":
            continue
        weight = coefficients.get(name, 1.0)
        axes.plot(
            steps,
            # Zero, the content's loss at a start from the content, has no place on a log axis, and
            # a stage doesn't have every term.
            [weight * line.get(name, 0) or np.nan for line in result.history],
            marker=".",
            label=f"{name} × {weight:g}",
        )
    if np.all(np.isfinite(result.step_losses)) and np.all(result.step_losses > 0):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=110)


def default_folders(content: str, *styles: str) -> Iterator[Path]:
    """Yield output/CONTENT_STYLE1_STYLE2, then the same with the numbers 2, 3, ... behind it."""
    # A folder's name may have 255 bytes.
    name = "_".join(Path(path).stem for path in (content, *styles))[:60]
    yield Path("output") / name
    for number in itertools.count(2):
        yield Path("output") / f"{name}_{number}"
