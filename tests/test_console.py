import io
import logging
import signal
import sys
import time
import types

import numpy as np
import pytest

from neuart_jax.cli import console
from neuart_jax.cli.console import BatchBar, ProgressBar, StopRequest
from neuart_jax.cli.streams import lasting_streams
from neuart_jax.engine.result import Progress
from neuart_jax.engine.step import Status
from neuart_jax.runs.batch import BatchProgress


@pytest.fixture
def request_to_stop(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield StopRequest()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_is_a_picture_quits_at_once(request_to_stop, number):
    with pytest.raises(SystemExit) as quitting:
        signal.raise_signal(number)
    assert quitting.value.code == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_run_asks_first_and_the_second_quits(request_to_stop, number, capsys):
    assert not request_to_stop.wanted()
    signal.raise_signal(number)
    assert request_to_stop.wanted()
    assert request_to_stop.signal == number
    assert "again to quit at once" in capsys.readouterr().err
    with pytest.raises(SystemExit) as quitting:
        signal.raise_signal(number)
    assert quitting.value.code == 128 + number


def test_a_signal_in_a_callback_that_lets_no_exit_through_quits_a_moment_later(request_to_stop):
    class Swallowing:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    told = []
    sys.unraisablehook = told.append
    with pytest.raises(SystemExit) as quitting:
        Swallowing()
        time.sleep(5)
    assert quitting.value.code == 130 and not told


def test_a_line_of_a_signals_in_the_midst_of_another_ends_nothing(monkeypatch):
    class Busy(io.StringIO):
        def write(self, text):
            if text == "a signal's":
                raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Busy())
    with lasting_streams():
        sys.stderr.write("a signal's")
        sys.stderr.write("a line")
        assert sys.stderr.getvalue() == "a line"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress_of(num_done, part, seconds):
    return BatchProgress(10, num_done, 2, part, seconds, "cat__waves", None)


def test_one_line_says_how_far_a_batch_is(monkeypatch):
    monkeypatch.setattr(console.sys, "stderr", Terminal())
    bar = BatchBar()
    bar(progress_of(2, 0.0, 0.0))
    assert "2/10 pairs, 0 pairs/h, cat__waves" in console.sys.stderr.getvalue()
    bar(progress_of(4, 0.5, 90.0))
    assert "4/10 pairs, 100 pairs/h, about 03:18 left, cat__waves" in console.sys.stderr.getvalue()
    bar.close()


def test_one_line_says_how_far_a_run_is(monkeypatch):
    monkeypatch.setattr(console.sys, "stderr", Terminal())
    bar = ProgressBar()
    bar(run_progress(0, 10.0, 0.0))
    bar(run_progress(40, 20.0, 0.2))
    assert " 20%" in console.sys.stderr.getvalue()
    assert "step 40/80, about 00:40 left, total 2.5" in console.sys.stderr.getvalue()
    bar.close()


def test_compiling_for_another_size_is_no_pace(monkeypatch):
    monkeypatch.setattr(console.sys, "stderr", Terminal())
    bar = ProgressBar()
    bar(run_progress(0, 10.0, 0.0))
    bar(run_progress(40, 20.0, 0.2))
    # Half a minute of compilation: what was known of the pace stays, until there are steps.
    bar(run_progress(40, 50.0, 0.2, side=4))
    assert "step 40/80, about 00:40 left" in console.sys.stderr.getvalue().split("\r")[-1]
    bar(run_progress(60, 70.0, 0.6, side=4))
    assert "step 60/80, about 00:20 left" in console.sys.stderr.getvalue().split("\r")[-1]
    bar.close()


def test_log_lines_stay_above_the_line(monkeypatch):
    monkeypatch.setattr(console.sys, "stderr", Terminal())
    logger = logging.getLogger("neuart_jax")
    before = logger.handlers, logger.propagate, logger.level
    monkeypatch.setattr(logger, "handlers", [])
    try:
        console.show_own_log_lines()
        bar = BatchBar()
        bar(progress_of(4, 0.5, 90.0))
        logger.info("A line.")
        bar.close()
    finally:
        logger.handlers, logger.propagate, logger.level = before
    assert "A line." in console.sys.stderr.getvalue().replace("\r", "\n").split("\n")


def wait_for(stream, text):
    end = time.monotonic() + 60
    while text not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    return stream.getvalue()


def run_progress(num_steps, seconds, share, *, side=2):
    losses = {"total": 2.5}
    return Progress(
        *(num_steps, num_steps, losses, 2.5, seconds, 80, (side, side), Status.RUNNING, np.zeros),
        share=share,
    )


def test_without_a_terminal_lines_tell_that_something_is_going_on(monkeypatch):
    """Where a bar can't be, as in a log: before the first step, and then how far it is."""
    monkeypatch.setattr(console, "SECONDS_TO_FIRST_LINE", 0.01)
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.01)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bar = ProgressBar()
    assert "Still preparing after 0 s: images, weights" in wait_for(stream, "Still")
    bar(run_progress(0, 10.0, 0.0))
    # A quarter of the steps, at half the size: a sixteenth of the work.
    bar(run_progress(20, 20.0, 1 / 16))
    line = "At step 20 of 80: total 2.5, about 02:30 left.\n"
    assert line in wait_for(stream, line)
    # Half a minute later without a report: the time left is less.
    later = types.SimpleNamespace(monotonic=lambda: time.monotonic() + 30)
    monkeypatch.setattr(console, "time", later)
    line = "At step 20 of 80: total 2.5, about 02:00 left.\n"
    assert line in wait_for(stream, line)
    bar.close()
    said = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == said

    many = BatchBar()
    many(progress_of(4, 0.5, 90.0))
    line = "4/10 pairs, 100 pairs/h, about 03:18 left, cat__waves\n"
    assert line in wait_for(stream, line)
    many.close()


@pytest.mark.parametrize(
    ("encoding", "name", "written"),
    [
        ("cp1252", "写真.jpg", rb"\u5199\u771f.jpg"),
        ("ascii", "caf\u00e9.jpg", rb"caf\xe9.jpg"),
        ("utf-8", "caf\udce9.jpg", b"caf\xe9.jpg"),
        ("utf-8", "写真.jpg", "写真.jpg".encode()),
    ],
)
def test_every_name_can_be_printed(monkeypatch, encoding, name, written):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console.never_fail_to_print()
    print(name, flush=True)
    assert data.getvalue() == written + b"\n"
