"""The package indexes that the user's pip is configured for, from pip's own configuration.

Source: pip's documentation, "Configuration" (the files and their order) and "Network" (the
variables), and `pip._internal.configuration` for details. Of uv's settings only two variables are
read, if pip has no configuration.
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
"""Sections of the configuration; later ones take precedence, whichever file they are in."""

_VARIABLE_PREFIX = "PIP_"
_UV_NAME = re.compile(r"[\w.-]+=(?=[a-z]+://)")

Credentials = tuple[str, str]
"""User name and password."""


class Address(NamedTuple):
    """An address, with its credentials split off.

    Attributes:
      url: the address without user name and password.
      credentials: the credentials in the address, if any.
    """

    url: str
    credentials: Credentials | None


class PipSettings(NamedTuple):
    """pip's indexes and network settings.

    Attributes:
      indexes: indexes in order of precedence; empty if pip is configured to use none.
      find_links: additional folders, or pages with links.
      cert: file or folder of trusted certificates; empty for the default ones.
      client_cert: file with the client certificate; empty for none.
      trusted_hosts: "host" or "host:port" whose certificates aren't verified.
      proxy: proxy for all addresses; empty for the system's settings.
    """

    indexes: tuple[Address, ...]
    find_links: tuple[Address, ...]
    cert: str = ""
    client_cert: str = ""
    trusted_hosts: tuple[str, ...] = ()
    proxy: str = ""


def split_credentials(url: str) -> Address:
    """Split user name and password off an address."""
    parts = urlsplit(url)
    user_info, at, host = parts.netloc.rpartition("@")
    if not at:
        return Address(url, None)
    user, _, password = user_info.partition(":")
    return Address(urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password)))


def read_pip_settings() -> PipSettings:
    """Read pip's configuration files and variables; unreadable files are ignored."""
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
        # uv allows a name before each address.
        words = tuple(_UV_NAME.sub("", word) for word in os.environ.get(variable, "").split())
        if words:
            return words
    return ()


def _read_options() -> Iterator[tuple[str, str]]:
    """Yield name and value of every option, in order of increasing precedence."""
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
    """Return pip's configuration files, in order of increasing precedence."""
    own = os.environ.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return []
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    files = [folder / name for folder in _global_folders()]
    # As in pip, PIP_CONFIG_FILE replaces the user's file.
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
