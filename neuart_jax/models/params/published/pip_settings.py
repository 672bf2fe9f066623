"""Which package indexes the user's pip is set up for, read from where pip reads it.

Source: pip's documentation, "Configuration" (the files and their order) and "Network" (the
variables), and `pip._internal.configuration` where that is silent. Of uv only its two variables are
read, where pip is told nothing.
"""

import configparser
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

import platformdirs

DEFAULT_INDEX = "https://pypi.org/simple"

_SECTIONS = ("global", "install", "download")
"""The later ones count more, whichever file they are in."""

_VARIABLE_PREFIX = "PIP_"
_UV_NAME = re.compile(r"[\w.-]+=(?=[a-z]+://)")

Credentials = tuple[str, str]
"""User and password, as they are sent."""


class Address(NamedTuple):
    """Where something is, without the secrets that an address may hold.

    Attributes:
      url: without user and password.
      credentials: what was there of them.
    """

    url: str
    credentials: Credentials | None


class PipSettings(NamedTuple):
    """What pip would ask, and how.

    Attributes:
      indexes: first asked first; none where pip is told to use none.
      find_links: folders, or pages with links, which pip asks besides.
      cert: file or folder of certificates to trust; empty for the usual ones.
      client_cert: file with the certificate to show; empty for none.
      trusted_hosts: "host" or "host:port", asked without looking at their certificates.
      proxy: for every address; empty for what the system says.
    """

    indexes: tuple[Address, ...]
    find_links: tuple[Address, ...]
    cert: str = ""
    client_cert: str = ""
    trusted_hosts: tuple[str, ...] = ()
    proxy: str = ""


def split_credentials(url: str) -> Address:
    """Take user and password out of an address."""
    parts = urlsplit(url)
    user_info, at, host = parts.netloc.rpartition("@")
    if not at:
        return Address(url, None)
    user, _, password = user_info.partition(":")
    return Address(urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password)))


def read_pip_settings() -> PipSettings:
    """Read pip's configuration files and variables; what can't be read counts as not there."""
    options = dict(_read_options())
    words = {name: tuple(text.split()) for name, text in options.items()}
    first = words.get("index-url") or _from_uv("UV_DEFAULT_INDEX", "UV_INDEX_URL")
    more = words.get("extra-index-url") or _from_uv("UV_INDEX", "UV_EXTRA_INDEX_URL")
    indexes = dict.fromkeys((*(first[:1] or (DEFAULT_INDEX,)), *more))
    if options.get("no-index", "").lower() in ("y", "yes", "t", "true", "on", "1"):
        indexes = {}
    return PipSettings(
        indexes=tuple(map(split_credentials, indexes)),
        find_links=tuple(map(split_credentials, words.get("find-links", ()))),
        cert=os.path.expanduser(options.get("cert", "")),
        client_cert=os.path.expanduser(options.get("client-cert", "")),
        trusted_hosts=words.get("trusted-host", ()),
        proxy=options.get("proxy", ""),
    )


def _from_uv(*variables: str) -> tuple[str, ...]:
    for variable in variables:
        # Names before the addresses are uv's own matter.
        words = tuple(_UV_NAME.sub("", word) for word in os.environ.get(variable, "").split())
        if words:
            return words
    return ()


def _read_options() -> Iterator[tuple[str, str]]:
    """Yield name and value of every option, those that count more later."""
    files = [_read_file(path) for path in _configuration_files()]
    for section in _SECTIONS:
        for file in files:
            yield from _normalize(file.get(section, {}))
    prefix = len(_VARIABLE_PREFIX)
    yield from _normalize(
        {
            name[prefix:]: value
            for name, value in os.environ.items()
            if name.startswith(_VARIABLE_PREFIX)
        }
    )


def _normalize(options: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if value and value.strip():
            yield name.lower().replace("_", "-").removeprefix("--"), value.strip()


def _read_file(path: Path) -> Mapping[str, Mapping[str, str]]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, ValueError, configparser.Error):
        return {}
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _configuration_files() -> list[Path]:
    """Return pip's configuration files, those that count more later."""
    own = os.environ.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return []
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    files = [folder / name for folder in _global_folders()]
    # As in pip, one's own file takes the place of the user's.
    if not (own and os.path.exists(own)):
        home = Path(os.path.expanduser("~"))
        files += [home / ("pip" if sys.platform == "win32" else ".pip") / name]
        files += [_user_folder(home) / name]
    files += [Path(sys.prefix) / name]
    return files + ([Path(own)] if own else [])


def _global_folders() -> list[Path]:
    if sys.platform == "win32":
        return [Path(platformdirs.site_config_dir("pip", appauthor=False))]
    if sys.platform == "darwin":
        return [Path("/Library/Application Support/pip")]
    folders = platformdirs.site_config_dir("pip", multipath=True).split(os.pathsep)
    return [*map(Path, folders), Path("/etc")]


def _user_folder(home: Path) -> Path:
    if sys.platform == "win32":
        return Path(platformdirs.user_config_dir("pip", appauthor=False, roaming=True))
    if sys.platform == "darwin":
        folder = home / "Library" / "Application Support" / "pip"
        return folder if folder.is_dir() else home / ".config" / "pip"
    return Path(platformdirs.user_config_dir("pip", appauthor=False))
