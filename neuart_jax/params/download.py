"""One published file from whichever of its servers has it, whole and checked, or nothing."""

import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from neuart_jax.errors import InputError
from neuart_jax.files import brief_cause, write_atomically
from neuart_jax.params.catalog import PublishedFile
from neuart_jax.params.fingerprint import Fingerprint, Fingerprinter, difference

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
_MOST_BYTES = 1 << 30
"""No file in the catalog comes near, so that a server gone wrong can't fill a disk."""


class Patience(NamedTuple):
    """For how long, in seconds, a network is given the benefit of the doubt.

    Attributes:
      first_answer: until any server has answered at all, names looked up and proxies included.
      connect: until one address of a server takes a connection.
      stall: without a single byte of a file under way.
    """

    first_answer: float = 15.0
    connect: float = 10.0
    stall: float = 30.0


class DownloadError(InputError):
    """No server gave a file; what may be wrong is the network or the servers, not this disk."""


class _Failure(Exception):
    """Why one server didn't give the file, in a few words.

    Not an OSError as the network's own are: `write_atomically` takes those for the disk's.
    """


def download(file: PublishedFile, path: Path, *, patience: Patience) -> Fingerprint:
    """Fetch a published file; it has its name only once its size and hashes are right.

    The servers are tried in turn, those that answer first. One line (level INFO) says what is
    fetched from where; where stderr is a terminal, a bar shows how far it is.

    Args:
      file: which one.
      path: where to.
      patience: how long to wait for what.

    Returns:
      What was found of it.

    Raises:
      DownloadError: no server gave the right file; every server's reason is told.
      InputError: `path` can't be written.
    """
    urls = (file.url, *file.mirrors)
    reasons = _knock(urls, seconds=patience.first_answer)
    answered = [url for url in urls if reasons.get(url) == ""]
    unknown = [url for url in urls if url not in reasons]
    if not answered:
        for url in unknown:
            reasons[url] = f"no answer within {patience.first_answer:g} s"
    for url in answered and (*answered, *unknown):
        logger.info(
            "Downloading %s (%s%s) from %s.",
            file.name,
            f"{file.num_bytes / 1e6:.0f} MB, " if file.num_bytes else "",
            file.licence,
            urlsplit(url).hostname,
        )
        try:
            with write_atomically(path) as output:
                fingerprint = _fetch(url, output, file, patience)
            return fingerprint
        except _Failure as failure:
            reasons[url] = str(failure)
    told = "; ".join(f"{urlsplit(url).hostname}: {reasons[url]}" for url in urls)
    raise DownloadError(
        f"the ImageNet weights of {file.model} could not be downloaded ({told})",
        expected=f"a network on which one of these gives {file.name}",
        remedy=f"get it from {file.url} in another way and put it into weights/, or use "
        "--weights=fitted",
    )


def _knock(urls: tuple[str, ...], *, seconds: float) -> dict[str, str]:
    """Ask all servers at once whether they are there, until the first of them in order is.

    A name look-up can't be given a deadline and may block for minutes, which is why every server
    is asked from a thread that can be left behind.

    Returns:
      Address to "", or to why it could not be reached; those that nothing is known of are absent.
    """
    import requests

    reasons: dict[str, str] = {}

    def ask(url: str) -> None:
        try:
            # Any answer will do, also one that says that it doesn't answer this.
            requests.head(url, timeout=seconds).close()
            reasons[url] = ""
        except Exception as error:  # A thread has nobody to raise to.
            reasons[url] = _describe(error, seconds=seconds)

    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    for url, thread in zip(urls, threads, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if reasons.get(url) == "":
            break
    # A thread left behind may still write into its own.
    return dict(reasons)


def _fetch(url: str, output: BinaryIO, file: PublishedFile, patience: Patience) -> Fingerprint:
    import requests
    import urllib3

    seen = Fingerprinter()
    most = file.num_bytes or _MOST_BYTES
    try:
        with requests.get(
            url,
            stream=True,
            timeout=(patience.connect, patience.stall),
            headers={"Accept-Encoding": "identity"},
        ) as response:
            response.raise_for_status()
            total = file.num_bytes or int(response.headers.get("Content-Length", 0)) or None
            with _make_bar(total) as bar:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    seen.update(chunk)
                    if seen.num_bytes > most:
                        raise _Failure(f"it goes on after {most} bytes")
                    output.write(chunk)
                    bar.update(len(chunk))
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Failure(_describe(error, seconds=patience.stall)) from error
    fingerprint = seen.result()
    wrong = difference(fingerprint, file)
    if wrong is not None:
        raise _Failure(f"what came has {wrong[0]} instead of {wrong[1]}")
    return fingerprint


def _make_bar(total: int | None) -> Any:
    return tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        disable=None,  # Where stderr is not a terminal.
        dynamic_ncols=True,
        leave=False,
    )


def _describe(error: BaseException, *, seconds: float) -> str:
    """Say in a few words what went wrong; the libraries' own words fill several lines."""
    import requests
    import urllib3

    causes = _causes(error)
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason or ''}".rstrip()
    for kind, words in (
        (urllib3.exceptions.NameResolutionError, "host not found"),
        (requests.exceptions.ProxyError, "the proxy doesn't let us through"),
        (requests.exceptions.SSLError, "no connection that can be trusted"),
        (requests.exceptions.ConnectTimeout, "no connection in time"),
        (requests.exceptions.ReadTimeout, f"nothing came for {seconds:g} s"),
        (urllib3.exceptions.ReadTimeoutError, f"nothing came for {seconds:g} s"),
        (requests.exceptions.ChunkedEncodingError, "the connection was cut"),
        (urllib3.exceptions.ProtocolError, "the connection was cut"),
        (urllib3.exceptions.NewConnectionError, "no connection"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return words
    return brief_cause(error)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error with all that it was raised for; both libraries put that into `args`."""
    found, left = [], [error]
    while left:
        one = left.pop()
        found.append(one)
        inner = [*one.args, getattr(one, "reason", None)]
        left += [x for x in inner if isinstance(x, BaseException) and x not in found]
    return found
