"""Join the processes of several machines, or fail within a minute with a reason."""

import logging
import socket
import time

import jax

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause

logger = logging.getLogger(__name__)

_SECONDS_TO_FIND = 60.0
_SECONDS_BETWEEN_TRIES = 0.5


def join_machines(address: str, *, num_processes: int, process_id: int) -> None:
    """Combine the devices of several processes, before any device is used.

    Args:
      address: HOST:PORT at which the first process listens; equal for all.
      num_processes: number of processes on all machines.
      process_id: index of this process, from 0.

    Raises:
      InputError: the address is invalid, can't be bound, or no process listens there.
    """
    # Checked before, as the runtime aborts for an unavailable address.
    try:
        host, port = parse_address(address)
        if process_id == 0:
            _check_free(host, port)
        else:
            _wait_for(host, port)
    except (OSError, ValueError) as error:
        raise _refusal(address, brief_cause(error)) from error
    if process_id == 0 and num_processes > 1:
        logger.info("Waiting at %s until all %d processes have joined.", address, num_processes)
    try:
        jax.distributed.initialize(address, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise _refusal(address, brief_cause(error)) from error


def parse_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
      ValueError: the text has another form.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _check_free(host: str, port: int) -> None:
    """Try to bind a port; the host's name elsewhere may be unknown on this machine."""
    socket.getaddrinfo(host, port)
    socket.create_server(("", port)).close()


def _wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + _SECONDS_TO_FIND
    while True:
        try:
            socket.create_connection((host, port), timeout=_SECONDS_TO_FIND).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_SECONDS_BETWEEN_TRIES)
        else:
            return


def _refusal(address: str, cause: str) -> InputError:
    return InputError(
        f"--coordinator={address} can't be joined ({cause})",
        expected="the HOST:PORT of the first machine, where it can listen",
        remedy="check the address, and that all machines are started",
    )
