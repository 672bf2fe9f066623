"""A run's folder: the image, its record, its metrics, a plot of the losses, frames.

The image is written last and contains the record: a run is finished once its image exists, and
anything left by a crash before that is written again.
"""

import functools
import itertools
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuart_jax.config.errors import InputError
from neuart_jax.engine.profiling import phase
from neuart_jax.engine.result import Progress, Result
from neuart_jax.engine.sharding import writes_files
from neuart_jax.io.files import Room, brief_cause, dump_json, remove_leftovers, write_atomically
from neuart_jax.io.images import load_image, load_metadata, save_image
from neuart_jax.runs.destination import PLOT_NAME, check_image_name
from neuart_jax.runs.own_folder import OwnFolder, check_foreign
from neuart_jax.runs.record import METADATA_KEY, RECORD_NAME, Record, make_film_metadata

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Name of the folder for checkpoints, in the folder of a run or a batch."""

_METRICS_NAME, _FRAMES_NAME = "metrics.jsonl", "frames"
_FRAME = re.compile(r"[0-9]{6,}\.png", re.ASCII)
_SECONDS_BETWEEN_WRITES = 2.0
# Space reserved for files other than images: a record has 4 to 8 kB, and is in the image as well;
# a plot has 30 to 60 kB.
_RECORD_BYTES, _PLOT_BYTES, _BYTES_OF_A_REPORT = 16 << 10, 64 << 10, 512


class RunFolder:
    """Writes a run's files, each atomically, and touches no other files.

    No other process can write there until the folder is closed. Space for the image is reserved at
    the beginning. Other files that can't be written later only cause a warning, logged once.

    Args:
      path: the folder, which is created if needed.
      image_name: file name of the image; the extension selects the format.
      frames: whether frames will be written.
      animation: name of a film of the progress; empty for none.

    Raises:
      InputError: the folder can't be written, another run writes there, files of another program
        have the names of a run's files, or the image's name has an unknown extension.
    """

    def __init__(self, path: Path, *, image_name: str, frames: bool = False, animation: str = ""):
        self.path = path
        check_image_name(image_name)
        self.image_path = path / image_name
        self._animation = animation
        self._metrics: list[dict[str, Any]] = []
        self._last_write = 0.0
        self._told: set[str] = set()
        self._rooms: dict[str, Room] = {}
        self._own: OwnFolder | None = None
        if not writes_files():
            return
        self._own = OwnFolder(path)
        try:
            check_names(path, image_name=image_name, frames=frames, animation=animation)
            self._own.claim(*_names(image_name, animation))
            remove_leftovers(path / _FRAMES_NAME, seconds=0)
        except BaseException:
            self.close()
            raise

    def holds_result(self) -> bool:
        """Return whether there is an image that must not be replaced without --overwrite."""
        return self.image_path.exists() and is_whole(self.image_path)

    def keep_room(self, height: int, width: int, *, num_reports: int) -> None:
        """Reserve disk space for the run's files.

        Args:
          height: height of the image, in pixels.
          width: width of the image, in pixels.
          num_reports: approximate number of lines in metrics.jsonl.

        Raises:
          InputError: there is not enough space for the image.
        """
        if self._own is None:
            return
        deep = self.image_path.suffix.lower() in (".tif", ".tiff")
        # With alpha. Apart from a few bytes, no format needs more than the uncompressed pixels.
        image_bytes = height * width * 4 * (2 if deep else 1)
        sizes = {
            self.image_path.name: image_bytes + image_bytes // 64 + _RECORD_BYTES,
            RECORD_NAME: _RECORD_BYTES,
            _METRICS_NAME: num_reports * _BYTES_OF_A_REPORT + 1,
            PLOT_NAME: _PLOT_BYTES,
        }
        for name, size in sizes.items():
            try:
                self._rooms[name] = Room(self.path, size)
            except OSError as error:
                if name != self.image_path.name:
                    break  # A warning follows when the file can't be written.
                raise InputError(
                    f"{self.path} has no room for the image ({brief_cause(error)})",
                    expected=f"{size >> 10} KiB of free space on its disk",
                    remedy="free some space, or give another --output",
                ) from error

    @phase("output")
    def report(self, progress: Progress) -> None:
        """Append a line to metrics.jsonl; the first one also removes an earlier run's frames."""
        if not self._metrics:
            for name in _frames(self.path):
                if self._own is not None and self._own.owns(name):
                    self._try("the frames", (self.path / name).unlink)
        self._metrics.append(progress.figures())
        if time.monotonic() - self._last_write >= _SECONDS_BETWEEN_WRITES:
            self._try(_METRICS_NAME, self._write_metrics)
            self._last_write = time.monotonic()

    def resume(self, history: Sequence[dict[str, Any]]) -> None:
        """Resume an interrupted run after these reports."""
        self._metrics = list(history)

    @phase("output")
    def save_frame(
        self,
        num_steps: int,
        image: npt.NDArray[np.float32],
        alpha: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Write a frame as frames/NNNNNN.png, numbered by its step, with the content's alpha."""
        self._try("the frames", lambda: self._save_frame(_frame_name(num_steps), image, alpha))

    def _save_frame(
        self, name: str, image: npt.NDArray[np.float32], alpha: npt.NDArray[np.float32] | None
    ) -> None:
        assert self._own is not None
        self._own.claim(f"{_FRAMES_NAME}/{name}")
        folder = self.path / _FRAMES_NAME
        folder.mkdir(exist_ok=True)
        save_image(folder / name, np.clip(image, 0, 1), alpha=alpha)

    def frame_paths(self, steps: Iterable[int]) -> list[Path]:
        """Return the paths of the existing frames after some steps."""
        paths = (self.path / _FRAMES_NAME / _frame_name(step) for step in steps)
        return [path for path in paths if path.exists()]

    def save(
        self,
        result: Result,
        record: Record,
        *,
        coefficients: Mapping[str, float],
        alpha: npt.NDArray[np.float32] | None = None,
        save_progress: Callable[..., None] | None = None,
    ) -> None:
        """Write metrics.jsonl, losses.png, config.json, the film, and finally the image.

        A folder that is gone is created again; if it can't be written, the image is saved in the
        system's temporary folder, and the error says where.

        Args:
          result: result of the run.
          record: record of the run.
          coefficients: coefficient of every loss term, for the plot.
          alpha: alpha of the content, float32[height, width].
          save_progress: writes the film of the progress, if there is one, given its path and its
            metadata, by the name "metadata".

        Raises:
          InputError: the image can't be written.
        """
        assert self._own is not None
        text = record.to_json(result)
        if self._animation and save_progress is not None:
            film = self.path / self._animation
            metadata = make_film_metadata(text, name=self._animation)
            self._try(self._animation, functools.partial(save_progress, film, metadata=metadata))

        def save_to(path: Path) -> None:
            save_image(path, result.image, alpha=alpha, metadata={METADATA_KEY: text})

        try:
            self._save(result, text, coefficients=coefficients, save_to=save_to)
        except InputError as error:
            raise _rescue(error, self.image_path.name, save_to) from error

    def _save(
        self,
        result: Result,
        text: str,
        *,
        coefficients: Mapping[str, float],
        save_to: Callable[[Path], None],
    ) -> None:
        assert self._own is not None
        self._own.make_again()
        self._try(_METRICS_NAME, self._write_metrics)
        self._try(PLOT_NAME, lambda: save_loss_plot(self.path / PLOT_NAME, result, coefficients))
        self._try(RECORD_NAME, lambda: _write_text(self.path / RECORD_NAME, text + "\n"))
        self._give_room(self.image_path.name)
        save_to(self.image_path)

    def close(self) -> None:
        """Let other processes write there, and release the space still reserved."""
        try:
            for room in self._rooms.values():
                room.give()
            self._rooms.clear()
        finally:
            if self._own is not None:
                self._own.close()

    def _write_metrics(self) -> None:
        lines = "".join(dump_json(line) + "\n" for line in self._metrics)
        _write_text(self.path / _METRICS_NAME, lines)

    def _give_room(self, name: str) -> None:
        if room := self._rooms.pop(name, None):
            room.give()

    def _try(self, name: str, write: Callable[[], None]) -> None:
        """Write an optional file; a failure is a warning, logged once per name."""
        self._give_room(name)
        try:
            write()
        # Any exception, as the plotting library may raise its own.
        except Exception as error:
            if name not in self._told:
                cause = error.came if isinstance(error, InputError) else brief_cause(error)
                logger.warning("The run continues without %s: %s.", name, cause)
            self._told.add(name)


def _rescue(error: InputError, name: str, save_to: Callable[[Path], None]) -> InputError:
    """Save an image elsewhere if its folder can't be written; return an error with the path."""
    try:
        path = Path(tempfile.mkdtemp(prefix="neuart_jax-")) / name
        save_to(path)
    except (OSError, InputError):
        return error
    return InputError(
        error.came,
        expected=error.expected,
        remedy=f"the image, with its record, is kept as {path}: move it from there",
    )


def check_names(path: Path, *, image_name: str, frames: bool, animation: str = "") -> None:
    """Check that no files of other programs in a folder have the names of a run's files.

    Args:
      path: the folder, which may be missing.
      image_name: file name of the image.
      frames: whether frames will be written.
      animation: name of a film of the progress; empty for none.

    Raises:
      InputError: there are such files.
    """
    check_foreign(path, [*_names(image_name, animation), *(_frames(path) if frames else [])])


def _names(image_name: str, animation: str) -> tuple[str, ...]:
    films = (animation,) if animation else ()
    return (image_name, RECORD_NAME, _METRICS_NAME, PLOT_NAME, CHECKPOINTS, *films)


def _frame_name(num_steps: int) -> str:
    return f"{num_steps:06d}.png"


def _frames(path: Path) -> list[str]:
    """Return all paths that look like frames, relative to the run's folder."""
    try:
        found = sorted(os.listdir(path / _FRAMES_NAME))
    except OSError:
        return []
    return [f"{_FRAMES_NAME}/{name}" for name in found if _FRAME.fullmatch(name)]


def is_whole(image_path: Path, record: Any = None) -> bool:
    """Return whether a result's image, the file that a run writes last, is complete.

    An image that was edited since, and so has lost its record, counts as complete.

    Args:
      image_path: path of the image.
      record: content of config.json, as JSON; an image with another record belongs to another run.
        None only checks the pixels.
    """
    try:
        end = _ENDS.get(image_path.suffix.lower(), b"")
        # Decoders tolerate missing bytes at the end.
        if not image_path.read_bytes().rstrip(b"\0").endswith(end):
            return False
        load_image(image_path)
        text = load_metadata(image_path).get(METADATA_KEY)
        return record is None or text is None or json.loads(text) == record
    except (InputError, OSError, ValueError, RecursionError):
        return False


# PNG ends with the chunk IEND, JPEG with the marker EOI. Other formats store their length.
_ENDS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as file:
        file.write(text.encode())


def save_loss_plot(path: Path, result: Result, coefficients: Mapping[str, float]) -> None:
    """Plot the total loss after every step and the weighted terms at every report, as a PNG.

    Args:
      path: destination.
      result: result with at least the loss of the initial image.
      coefficients: coefficient of every loss term; a term without one is shown unweighted.
    """
    # Imported here, as the import takes half a second.
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
            # A log axis can't show zero, such as the content loss of a run that starts from the
            # content; and a stage may lack some terms.
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
    """Yield output/CONTENT_STYLE1_STYLE2, then the same name with suffixes 2, 3, ..."""
    # A folder's name may have 255 bytes.
    name = "_".join(Path(path).stem for path in (content, *styles))[:60]
    yield Path("output") / name
    for number in itertools.count(2):
        yield Path("output") / f"{name}_{number}"
