"""Several machines as one: how their processes find each other, or say within a minute why not."""

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
    """Make the devices of several processes one set; before any of them is used.

    Args:
      address: HOST:PORT at which the first process listens; the same for all.
      num_processes: of all machines together.
      process_id: this one's number, from 0.

    Raises:
      InputError: the address is none, can't be listened at, or nobody does.
    """
    # Tried before: the runtime's own answer to an address that can't be had is an abort.
    try:
        host, port = parse_address(address)
        if process_id == 0:
            _check_free(host, port)
        else:
            _wait_for(host, port)
    except (OSError, ValueError) as error:
        raise _refusal(address, brief_cause(error)) from error
    if process_id == 0 and num_processes > 1:
        logger.info("Waiting at %s for the others of %d processes.", address, num_processes)
    try:
        jax.distributed.initialize(address, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise _refusal(address, brief_cause(error)) from error


def parse_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
      ValueError: it isn't that.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


def _check_free(host: str, port: int) -> None:
    """Try to listen at a port; what it is called elsewhere may be no name of this machine's own."""
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
        expected="the HOST:PORT of the first of the machines, where it can listen",
        remedy="check the address and that all of them are started",
    )
