import io
import logging
import signal

import pytest

from neuart_jax import console
from neuart_jax.batch import BatchProgress
from neuart_jax.console import BatchBar, StopRequest


@pytest.fixture
def request_to_stop():
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
    assert "once more to quit at once" in capsys.readouterr().err
    with pytest.raises(SystemExit) as quitting:
        signal.raise_signal(number)
    assert quitting.value.code == 128 + number


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
    assert "4/10 pairs, 100 pairs/h, 03:18 left, cat__waves" in console.sys.stderr.getvalue()
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
