import signal

import pytest

from neuart_jax.console import StopRequest


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
