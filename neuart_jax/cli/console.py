"""Terminal output and interrupts: progress bars, summaries, and a stop that keeps the result."""

import codecs
import functools
import io
import logging
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from neuart_jax.cli.streams import flush_stdout
from neuart_jax.config.config import describe_first_settings, describe_flag, describe_settings
from neuart_jax.config.errors import counted
from neuart_jax.config.presets import describe_presets
from neuart_jax.engine.result import Progress, Result
from neuart_jax.runs.batch import BatchProgress, BatchResult
from neuart_jax.runs.batch.names import GALLERY_NAME
from neuart_jax.runs.profile import Profile
from neuart_jax.runs.video import Film, FilmProgress

_T = TypeVar("_T")

SECONDS_TO_FIRST_LINE, SECONDS_BETWEEN_LINES = 10.0, 30.0
"""Longest silence before the first line, and between lines, where stderr is not a terminal."""


class _Pulse:
    """Prints a status line at intervals where stderr is not a terminal and shows no bar.

    Args:
      describe: seconds since the start -> the line.
    """

    def __init__(self, describe: Callable[[float], str]) -> None:
        self._describe, self._began = describe, time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if not sys.stderr.isatty():
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def _beat(self) -> None:
        wait = SECONDS_TO_FIRST_LINE
        while not self._ended.wait(wait):
            tqdm.write(self._describe(time.monotonic() - self._began), file=sys.stderr)
            wait = SECONDS_BETWEEN_LINES

    def end(self) -> None:
        """Stop printing."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()


class ProgressBar:
    """Shows steps, time left and losses: a bar in a terminal, elsewhere a line at intervals.

    Args:
      print_losses: also print a line with the losses at every report, terminal or not.
    """

    def __init__(self, print_losses: bool = False) -> None:
        self._bar: Any = None
        self._print_losses = print_losses
        self._first: Progress | None = None
        self._pace: float | None = None
        self._last: Progress | None = None
        self._shown_at = 0.0
        self._pulse = _Pulse(self._describe)

    def __call__(self, progress: Progress) -> None:
        """Show the progress of the run."""
        self._shown_at = time.monotonic()
        if self._last is None or progress.size != self._last.size:
            # Its first report came after compilation, which must not count as pace.
            self._first = progress
        self._last = progress
        if self._bar is None:
            # Not earlier: a line printed during set-up would cut the bar in two.
            self._bar = _open_bar(total=1.0, bar_format="{l_bar}{bar}| {postfix}")
        losses = [f"{name} {value:.4g}" for name, value in progress.losses.items()]
        steps = f"step {progress.num_steps}/{progress.total_steps}{self._wait()}"
        self._bar.set_postfix_str(", ".join([steps, *losses]), refresh=False)
        self._bar.n = progress.share
        self._bar.refresh()
        if self._print_losses:
            numbers = ", ".join(f"{name} {value:.8g}" for name, value in progress.losses.items())
            tqdm.write(f"Step {progress.num_steps}: {numbers}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands and end its line."""
        self._pulse.end()
        if self._bar is not None:
            self._bar.close()

    def _describe(self, elapsed: float) -> str:
        last = self._last
        if last is None or not last.num_steps:
            return f"Still preparing after {elapsed:.0f} s: images, weights, compilation."
        total = f"total {last.losses['total']:.4g}"
        return f"At step {last.num_steps} of {last.total_steps}: {total}{self._wait()}."

    def _wait(self) -> str:
        """Format the time left. Progress counts pixels: a full-size step takes longer."""
        first, last = self._first, self._last
        if first is not None and last is not None and last.share > first.share:
            self._pace = (last.seconds - first.seconds) / (last.share - first.share)
        if last is None or self._pace is None:
            return ""
        # A large image's report is older than a line in a log.
        since = time.monotonic() - self._shown_at
        return _format_wait(max(0.0, self._pace * (1 - last.share) - since))


class _CountBar:
    """Shows a count and a text: a bar in a terminal, elsewhere a line at intervals.

    Args:
      unit: what is counted.
      waiting: what still goes on before the first count.
    """

    def __init__(self, unit: str, waiting: str) -> None:
        self._bar: Any = None
        self._unit, self._waiting = unit, waiting
        self._text = ""
        self._pulse = _Pulse(self._describe)

    def _describe(self, elapsed: float) -> str:
        return self._text or self._waiting.format(f"after {elapsed:.0f} s")

    def _show(self, num_done: float, total: int, text: str) -> None:
        if self._bar is None:
            self._bar = _open_bar(
                total=total, unit=self._unit, bar_format="{l_bar}{bar}| {postfix}"
            )
        self._text = text
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.n = num_done
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it stands and end its line."""
        self._pulse.end()
        if self._bar is not None:
            self._bar.close()


class BatchBar(_CountBar):
    """Shows pairs done, pairs per hour and time left."""

    def __init__(self) -> None:
        super().__init__("pair", "Still checking the images {}.")

    def __call__(self, progress: BatchProgress) -> None:
        """Show the progress of the batch."""
        pace = f"{progress.pairs_per_hour:.3g} pairs/h"
        wait = _format_wait(progress.seconds_left)
        count = f"{progress.num_done}/{progress.num_pairs} pairs, {pace}{wait}"
        text = f"{count}, {progress.name}".rstrip(", ")
        self._show(progress.num_done + progress.part, progress.num_pairs, text)


class FilmBar(_CountBar):
    """Shows frames done and time left."""

    def __init__(self) -> None:
        super().__init__("frame", "Still preparing {}: the clip, weights, compilation.")

    def __call__(self, progress: FilmProgress) -> None:
        """Show the progress of the film."""
        now, wait = progress.progress, _format_wait(progress.seconds_left)
        steps = f"step {now.num_steps}/{now.total_steps} of frame {progress.frame}"
        text = f"{progress.num_done}/{progress.num_units} frames{wait}, {steps}"
        self._show(progress.num_done + progress.part, progress.num_units, text)


def _format_wait(seconds_left: float | None) -> str:
    if seconds_left is None or seconds_left < 1:
        return ""
    return f", about {tqdm.format_interval(round(seconds_left))} left"


def _open_bar(**options: Any) -> Any:
    # Disabled where stderr is not a terminal.
    return tqdm(file=sys.stderr, disable=None, dynamic_ncols=True, **options)


class StopRequest:
    """Turns SIGINT and SIGTERM into a request to stop with the best image so far.

    A second signal quits at once, as does the first while there is no image yet: during a download
    or a fit.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._has_image = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def wanted(self) -> bool:
        """Return whether to stop. Call this only once there is an image worth keeping."""
        self._has_image = True
        return self.signal != 0

    def after(self, show: Callable[[_T], object]) -> Callable[[_T], bool]:
        """Return a callback that shows the progress and then returns whether to stop."""

        def report(progress: _T) -> bool:
            show(progress)
            return self.wanted()

        return report

    def _remember(self, number: int, frame: Any) -> None:
        if self.signal or not self._has_image:
            sys.unraisablehook = functools.partial(_quit_soon, number, sys.unraisablehook)
            sys.exit(128 + number)
        self.signal = number
        print(
            "Stopping after the current steps; press Ctrl-C again to quit at once.", file=sys.stderr
        )


def _quit_soon(number: int, hook: Callable[[Any], object], unraisable: Any) -> None:
    """Resend a signal whose SystemExit was swallowed, as in callbacks of the garbage collector.

    Args:
      number: the signal's number.
      hook: handler for all other unraisable exceptions.
      unraisable: the unraisable exception; see `sys.unraisablehook`.
    """
    if unraisable.exc_type is not SystemExit:
        hook(unraisable)
        return
    threading.Timer(0.01, signal.raise_signal, (number,)).start()


def print_help(usage: str, flags: Mapping[str, str]) -> None:
    """Print a command's usage and all flags: the important ones first, the rest by section.

    Args:
      usage: purpose of the command, with an example.
      flags: names of the flags that are not settings, with their help.
    """
    # `... --help | head` closes the pipe early, which is not an error.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    first = [*describe_first_settings()]
    rest = dict(flags)
    if "preset" in rest:
        first += describe_flag("--preset", rest.pop("preset") + "; they are listed below")
    own = [line for name, text in rest.items() for line in describe_flag(f"--{name}", text)]
    title = (
        "The most important settings; all others follow, by section. Brackets hold defaults;\n"
        "those [by weights] are listed at the end."
    )
    heading = ["", "this command:"] if own else []
    parts = (usage.strip(), "", title, *first, *heading, *own)
    print("\n".join((*parts, describe_presets(), describe_settings())))


class _LinesAboveBars(logging.Handler):
    """Writes plain log lines to stderr without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def never_fail_to_print() -> None:
    """Make stdout and stderr of this process escape characters that their encoding lacks.

    File names that were decoded from arbitrary bytes are written as those bytes.
    """
    codecs.register_error("neuart_jax", _write_somehow)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="neuart_jax")


def _write_somehow(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def show_own_log_lines() -> None:
    """Show the log lines of this package, and of no other, on stderr."""
    logger = logging.getLogger("neuart_jax")
    logger.addHandler(_LinesAboveBars())
    logger.setLevel(logging.INFO)
    logger.propagate = False


def print_summary(result: Result, image_path: Path) -> None:
    """Print the outcome and losses of a run to stderr, and the image's path to stdout."""
    print(result.status.message, file=sys.stderr)
    losses = ", ".join(f"{name} {value:.4g}" for name, value in result.losses.items())
    print(
        f"{counted(result.num_steps, 'step')} in {result.seconds:.0f} s: {losses}", file=sys.stderr
    )
    _print_path(image_path)


def print_profile(profile: Profile) -> None:
    """Print where the time of a command went, and the report's path, to stderr."""
    print(f"\n{profile.text}\n{profile.path}", file=sys.stderr)


def print_film_summary(film: Film) -> None:
    """Print how many frames are painted to stderr, and the film's path to stdout."""
    if film.stopped:
        print(
            f"{film.num_painted} of {film.num_frames} frames are painted; run the same command "
            "again to go on.",
            file=sys.stderr,
        )
    else:
        print(f"{film.num_frames} frames in {film.seconds:.0f} s.", file=sys.stderr)
    if film.num_failed:
        print(
            f"{counted(film.num_failed, 'frame')} ended early: the loss was no longer finite.",
            file=sys.stderr,
        )
    if film.error is not None:
        print(
            f"Flicker (warping error, less is steadier): {film.error[0]:.2g}; of the clip itself: "
            f"{film.error[1]:.2g}.",
            file=sys.stderr,
        )
    _print_path(film.path)


def _print_path(path: Path) -> None:
    print(path)
    if failure := flush_stdout():
        print(
            f"{path} is written; its name can't be printed to stdout ({failure}).", file=sys.stderr
        )


def print_batch_summary(result: BatchResult) -> None:
    """Print how many rows have which status to stderr, and the gallery's path to stdout."""
    counts = Counter(line.status or "not painted yet" for line in result.lines)
    parts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())
    print(f"{counted(len(result.lines), 'row')}: {parts}.", file=sys.stderr)
    _print_path(result.folder / GALLERY_NAME)
