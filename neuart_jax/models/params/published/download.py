"""Download a published file from any of its servers, completely and verified, or not at all.

After a broken connection or a killed process, the bytes received are kept beside the file as
NAME.part, and the next attempt, by any process, resumes there. Hashes are computed over the whole
file.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import brief_cause
from neuart_jax.models.params.catalog import PublishedFile
from neuart_jax.models.params.fingerprint import (
    Fingerprint,
    Fingerprinter,
    difference,
    take_fingerprint,
)

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
_MOST_BYTES = 1 << 30
"""Limit on a download, so that a faulty server can't fill the disk; all files are far smaller."""


class Patience(NamedTuple):
    """Timeouts of a download, in seconds.

    Attributes:
      first_answer: until any server has answered, including name look-ups and proxies.
      connect: until one address of a server accepts a connection.
      stall: without a single byte during a transfer.
    """

    first_answer: float = 15.0
    connect: float = 10.0
    stall: float = 30.0


class DownloadError(InputError):
    """A failed download, due to the network or the servers, not to the local disk.

    Attributes:
      told: every server's reason, as in the message.
    """

    def __init__(self, came: str, *, expected: str, remedy: str, told: str):
        super().__init__(came, expected=expected, remedy=remedy)
        self.told = told


class _Failure(Exception):
    """A server's failure to provide the file, in a few words.

    Not an OSError, as network errors are, because OSErrors are attributed to the disk.
    """


class _WrongWhole(_Failure):
    """The download is complete but is another file."""


def part_path(path: Path) -> Path:
    """Return the path of a file's partial download."""
    return path.with_name(f"{path.name}.part")


def download(
    file: PublishedFile,
    path: Path,
    *,
    patience: Patience,
    open_session: Callable[[], Any] | None = None,
) -> Fingerprint:
    """Download a published file; it gets its name only once its size and hashes are verified.

    The servers are tried in order, those that answer first. A log line (level INFO) gives the file
    and the server; a progress bar is shown if stderr is a terminal.

    Args:
      file: the file to download.
      path: destination. Only one process at a time may download to a path.
      patience: timeouts.
      open_session: opens a `requests.Session` with the credentials etc. of the servers, one per
        thread; None for servers that need none.

    Returns:
      The fingerprint of the file.

    Raises:
      DownloadError: no server provided the right file; the message has every server's reason.
      InputError: `path` can't be written.
    """
    import requests

    open_session = open_session or requests.Session
    urls = (file.url, *file.mirrors)
    try:
        # A process may have been killed just before renaming the complete file.
        if file.num_bytes and _size(part_path(path)) >= file.num_bytes:
            return _finish(part_path(path), path, file)
    except _WrongWhole:
        pass
    except OSError as error:
        raise _unwritable(path, error) from error
    reasons = _knock(urls, seconds=patience.first_answer, open_session=open_session)
    answered = [url for url in urls if reasons.get(url) == ""]
    unknown = [url for url in urls if url not in reasons]
    if not answered:
        for url in unknown:
            reasons[url] = f"no answer within {patience.first_answer:g} s"
    for url in answered and (*answered, *unknown):
        had = _size(part_path(path))
        logger.info(
            "Downloading %s (%s%s) from %s%s.",
            file.name,
            f"{file.num_bytes / 1e6:.0f} MB, " if file.num_bytes else "",
            file.licence,
            urlsplit(url).hostname,
            f", resuming after {had / 1e6:.0f} MB" if had else "",
        )
        try:
            with open_session() as session:
                return _fetch(session, url, path, file, patience)
        except _Failure as failure:
            reasons[url] = str(failure)
        except OSError as error:
            # On a full disk, free the space of the partial download.
            with contextlib.suppress(OSError):
                part_path(path).unlink()
            raise _unwritable(path, error) from error
    told = "; ".join(f"{urlsplit(url).hostname}: {reasons[url]}" for url in urls)
    raise DownloadError(
        f"the {file.flavor} weights of {file.model} could not be downloaded ({told})",
        expected=f"a network on which one of these servers provides {file.name}",
        remedy=f"get it from {file.url} in another way and put it into weights/, or use "
        "--weights=fitted",
        told=told,
    )


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} can't be written ({brief_cause(error)})",
        expected="a name in an existing, writable folder with free space",
        remedy="create the folder, free some space or choose another name",
    )


def _knock(
    urls: tuple[str, ...], *, seconds: float, open_session: Callable[[], Any]
) -> dict[str, str]:
    """Probe all servers concurrently, until the first one in order has answered.

    A name look-up has no timeout and may block for minutes, so every server is probed from a thread
    that can be abandoned.

    Returns:
      "" for every address that answered, else the reason; addresses without a result yet are
      absent.
    """
    reasons: dict[str, str] = {}

    def ask(url: str) -> None:
        try:
            # Any answer counts, even an error for this method.
            with open_session() as session:
                session.head(url, timeout=seconds, allow_redirects=False).close()
            reasons[url] = ""
        except Exception as error:  # An exception in a thread would be lost.
            reasons[url] = describe_failure(error, seconds=seconds)

    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    for url, thread in zip(urls, threads, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if reasons.get(url) == "":
            break
    # A copy, as abandoned threads may still write to the original.
    return dict(reasons)


def _fetch(
    session: Any, url: str, path: Path, file: PublishedFile, patience: Patience
) -> Fingerprint:
    had = _size(part_path(path))
    try:
        return _fetch_rest(session, url, path, file, patience)
    except _WrongWhole:
        if not had:
            raise
    # The partial download may have been of another file: restart from the beginning.
    return _fetch_rest(session, url, path, file, patience)


def _fetch_rest(
    session: Any, url: str, path: Path, file: PublishedFile, patience: Patience
) -> Fingerprint:
    import requests
    import urllib3

    part = part_path(path)
    had = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if had:
        headers["Range"] = f"bytes={had}-"
    most = file.num_bytes or _MOST_BYTES
    timeout = (patience.connect, patience.stall)
    try:
        with session.get(url, stream=True, timeout=timeout, headers=headers) as response:
            if had and response.status_code == requests.codes.requested_range_not_satisfiable:
                return _finish(part, path, file)
            response.raise_for_status()
            if not _goes_on_at(response, had):
                had = 0
            total = file.num_bytes or had + int(response.headers.get("Content-Length", 0)) or None
            seen = Fingerprinter()
            with _open_part(part, had) as output, _make_bar(total, had) as bar:
                while had and (chunk := output.read(_CHUNK_BYTES)):
                    seen.update(chunk)
                for chunk in response.iter_content(_CHUNK_BYTES):
                    if seen.num_bytes + len(chunk) > most:
                        part.unlink()
                        raise _WrongWhole(f"it goes on after {most} bytes")
                    seen.update(chunk)
                    output.write(chunk)
                    bar.update(len(chunk))
                output.flush()
                os.fsync(output.fileno())
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Failure(describe_failure(error, seconds=patience.stall)) from error
    return _finish(part, path, file, seen.result())


def _size(path: Path) -> int:
    return path.stat().st_size if os.path.isfile(path) else 0


def _goes_on_at(response: Any, start: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
        f"bytes {start}-"
    )


def _open_part(part: Path, had: int) -> BinaryIO:
    """Open the partial download for appending, or truncate it."""
    return part.open("r+b" if had else "wb")


def _finish(
    part: Path, path: Path, file: PublishedFile, fingerprint: Fingerprint | None = None
) -> Fingerprint:
    """Rename a complete partial download to the file, or remove it if it is another file.

    Raises:
      _WrongWhole: it was another file.
    """
    fingerprint = fingerprint or take_fingerprint(part)
    wrong = difference(fingerprint, file)
    if wrong is not None:
        part.unlink()
        raise _WrongWhole(f"the download has {wrong[0]} instead of {wrong[1]}")
    os.replace(part, path)
    return fingerprint


def _make_bar(total: int | None, begun: int) -> Any:
    return tqdm(
        total=total,
        initial=begun,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        disable=None,  # Where stderr is not a terminal.
        dynamic_ncols=True,
        leave=False,
    )


def describe_failure(error: BaseException, *, seconds: float) -> str:
    """Describe a network error in a few words; the libraries' messages fill several lines."""
    import requests
    import urllib3

    causes = _causes(error)
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason or ''}".rstrip()
    for kind, words in (
        (urllib3.exceptions.NameResolutionError, "host not found"),
        (requests.exceptions.ProxyError, "the proxy refused the connection"),
        (requests.exceptions.SSLError, "no trusted connection"),
        (requests.exceptions.ConnectTimeout, "no connection in time"),
        (requests.exceptions.ReadTimeout, f"no data for {seconds:g} s"),
        (urllib3.exceptions.ReadTimeoutError, f"no data for {seconds:g} s"),
        (requests.exceptions.ChunkedEncodingError, "the connection was cut"),
        (urllib3.exceptions.ProtocolError, "the connection was cut"),
        (urllib3.exceptions.NewConnectionError, "no connection"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return words
    return brief_cause(error)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, which both libraries store in `args`."""
    found, left = [], [error]
    while left:
        one = left.pop()
        found.append(one)
        inner = [*one.args, getattr(one, "reason", None)]
        left += [x for x in inner if isinstance(x, BaseException) and x not in found]
    return found
