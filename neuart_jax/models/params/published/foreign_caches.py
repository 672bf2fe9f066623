"""Locations of published weights in the caches of other programs and in installed packages."""

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from neuart_jax.models.params.catalog import PublishedFile


def paths_in_foreign_caches(file: PublishedFile) -> Iterator[Path]:
    """Yield paths where Keras, PyTorch, Hugging Face or an installed package may have a file.

    A file there isn't necessarily the published one: old versions have the same name.

    Sources: `keras.utils.get_file`, `torch.hub.get_dir`, huggingface_hub's `constants.py`.
    """
    if file.layout == "keras":
        yield _folder("KERAS_HOME", "~/.keras") / "models" / file.name
    if file.layout == "torch":
        yield _folder("TORCH_HOME", _xdg_cache("torch")) / "hub" / "checkpoints" / file.name
    if file.hub:
        home = _folder("HF_HOME", _xdg_cache("huggingface"))
        repository = _folder("HF_HUB_CACHE", str(home / "hub")) / (
            "models--" + file.hub.replace("/", "--")
        )
        name = urlsplit(file.url).path.rpartition("/")[2]
        yield from sorted(repository.glob(f"snapshots/*/{name}"))
    if file.package is not None:
        # Any installed version will do, as the hash is verified. Nothing is imported.
        for distribution in importlib.metadata.distributions(name=file.package.project):
            yield Path(str(distribution.locate_file(file.package.path)))


def _folder(variable: str, default: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(os.environ.get(variable) or default)))


def _xdg_cache(name: str) -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", name)
