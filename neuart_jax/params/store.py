"""Find, check and load the weights that a run asks for, or fit them."""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import platformdirs

from neuart_jax.config import NetworkConfig
from neuart_jax.errors import InputError
from neuart_jax.models import Architecture, NetworkParams, find_architecture
from neuart_jax.params.canonical import (
    Weights,
    check_variables,
    flatten,
    nest,
    read_safetensors,
    variable_shapes,
    write_safetensors,
)
from neuart_jax.params.catalog import FITTED, PUBLISHED, PublishedFile
from neuart_jax.params.convert import READABLE, read_weights
from neuart_jax.params.fitted import VERSION, FitRecipe, fit_variables, make_fit_batch

logger = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]

NAMED_WEIGHTS = ("auto", "imagenet", "fitted")
"""What `weights` may be, besides the name of a file."""

_CACHED_FITS = 16
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


class Network(NamedTuple):
    """A network ready for use.

    Attributes:
      module: the linen module.
      params: its arrays.
      identity: what made it, for the record of a result: "name", "file", "sha256".
      message: one line that says which weights these are.
    """

    module: Any
    params: NetworkParams
    identity: dict[str, str]
    message: str


def load_network(
    config: NetworkConfig,
    *,
    layers: Iterable[str],
    content_image: Float32,
    style_image: Float32,
    seed: int = 0,
) -> Network:
    """Load or fit the weights that `config` asks for.

    Args:
      config: model, weights, and the model's options.
      layers: the layers that will be read; `fitted` weights end at the deepest.
      content_image: float32[height, width, 3], sRGB in [0, 1]; read by `fitted` only.
      style_image: float32[height', width', 3]; likewise.
      seed: of the fit.

    Raises:
      InputError: no such weights, or they are damaged or don't fit the model.
    """
    architecture = find_architecture(config.model)
    layers = tuple(layers)
    if config.weights in ("auto", "imagenet"):
        found = _find_published(config)
        if found is not None:
            return _load_published(config, architecture, layers, *found)
        if config.weights == "imagenet":
            wanted = _published(config.model)[0]
            raise InputError(
                f"--weights=imagenet found no ImageNet weights of {config.model} in "
                f"{' or '.join(map(str, _weights_folders(config)))}",
                expected=f"the file {wanted.name}",
                remedy=f"get it from {wanted.url} and put it there, or use --weights=fitted",
            )
        return _fit(config, architecture, layers, content_image, style_image, seed)
    if config.weights == "fitted":
        return _fit(config, architecture, layers, content_image, style_image, seed)
    return _load_file(config, architecture, layers, Path(os.path.expanduser(config.weights)))


def _published(model: str) -> list[PublishedFile]:
    return [file for file in PUBLISHED if file.model == model]


def _weights_folders(config: NetworkConfig) -> list[Path]:
    """Where --weights_dir may be: below the working folder, and in the source tree."""
    given = Path(os.path.expanduser(config.weights_dir))
    return list(dict.fromkeys([given.resolve(), (_PACKAGE_PARENT / given).resolve()]))


def _find_published(config: NetworkConfig) -> tuple[PublishedFile, Path] | None:
    for file in _published(config.model):
        for folder in _weights_folders(config):
            if os.path.isfile(folder / file.name):
                return file, folder / file.name
    return None


def _digest(path: Path, algorithm: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror})",
            expected="a readable weights file",
            remedy="check the name and the permissions, or give another --weights",
        ) from error


def _make_network(
    config: NetworkConfig,
    architecture: Architecture,
    weights: Weights,
    *,
    identity: dict[str, str],
    message: str,
) -> Network:
    mean, std = weights.normalization
    variables = jax.tree.map(jnp.asarray, nest(weights.variables))
    params = NetworkParams(variables, jnp.asarray(mean), jnp.asarray(std))
    module = _module_factory(config, architecture, weights.stride_on)()
    return Network(module, params, identity, message)


def _module_factory(
    config: NetworkConfig, architecture: Architecture, stride_on: str
) -> Callable[..., Any]:
    values = {"pooling": config.pooling, "padding": config.padding, "stride_on": stride_on}
    # A file that doesn't say where the stride is leaves the model its default.
    chosen = {name: values[name] for name in architecture.options if values[name]}
    return lambda **more: architecture.make_module(**chosen, **more)


def _checked(
    weights: Weights, architecture: Architecture, layers: tuple[str, ...], source: str
) -> Weights:
    check_variables(
        weights.variables,
        needed=variable_shapes(architecture, layers),
        known=variable_shapes(architecture),
        source=source,
    )
    return weights


def _load_published(
    config: NetworkConfig,
    architecture: Architecture,
    layers: tuple[str, ...],
    file: PublishedFile,
    path: Path,
) -> Network:
    digest = _digest(path, "md5")
    if digest != file.md5:
        raise InputError(
            f"{path} has the md5 sum {digest}",
            expected=f"{file.md5}, the published one",
            remedy=f"delete it and get it again from {file.url}",
        )
    weights = _checked(read_weights(path, model=config.model), architecture, layers, str(path))
    return _make_network(
        config,
        architecture,
        weights,
        identity={"name": "imagenet", "file": file.name, "sha256": _digest(path, "sha256")},
        message=f"Weights: ImageNet {config.model} from {path} ({file.licence}).",
    )


def _load_file(
    config: NetworkConfig, architecture: Architecture, layers: tuple[str, ...], path: Path
) -> Network:
    # Unlike Path.is_file, this is also false for a name too long or a folder that is closed.
    if not os.path.isfile(path):
        raise InputError(
            f"--weights={config.weights} is not a file",
            expected=f"auto, imagenet, fitted, or the path of {READABLE}",
            remedy="check the spelling",
        )
    digest = _digest(path, "sha256")
    weights = read_weights(path, model=config.model)
    return _make_network(
        config,
        architecture,
        _checked(weights, architecture, layers, str(path)),
        identity={"name": "file", "file": path.name, "sha256": digest},
        message=f"Weights: {config.model} from {path} (sha256 {digest[:12]}…).",
    )


def _fit(
    config: NetworkConfig,
    architecture: Architecture,
    layers: tuple[str, ...],
    content_image: Float32,
    style_image: Float32,
    seed: int,
) -> Network:
    began = time.perf_counter()
    recipe = FitRecipe()
    factory = _module_factory(config, architecture, "")
    batch = make_fit_batch(content_image, style_image, longest_side=recipe.longest_side)
    key = hashlib.sha256(batch.tobytes())
    depth = max(map(architecture.layer_names.index, layers))
    key.update(repr((VERSION, recipe, factory(), architecture.layer_names[depth], seed)).encode())
    path = _fit_cache_folder() / f"{config.model}-{key.hexdigest()[:32]}.safetensors"
    weights = _read_cached_fit(path, config, architecture, layers)
    source = "from the cache" if weights is not None else ""
    if weights is None:
        variables = fit_variables(factory, batch, layers=layers, seed=seed, recipe=recipe)
        arrays = {name: np.asarray(array) for name, array in flatten(variables).items()}
        weights = Weights(arrays, FITTED, "")
        _cache_fit(path, weights, config.model)
        source = f"in {time.perf_counter() - began:.0f} s"
    # By name, since a file gives them in another order than a fit.
    in_order = [array.tobytes() for _, array in sorted(weights.variables.items())]
    digest = hashlib.sha256(b"".join(in_order)).hexdigest()
    wanted = _published(config.model)[0]
    hint = (
        f"; for ImageNet weights put {wanted.name} into weights/"
        if config.weights == "auto"
        else ""
    )
    return _make_network(
        config,
        architecture,
        weights,
        identity={"name": f"fitted, version {VERSION}", "file": "", "sha256": digest},
        message=f"Weights: fitted to the two pictures {source}{hint}.",
    )


def _fit_cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("neuart_jax")) / "fitted"


def _read_cached_fit(
    path: Path, config: NetworkConfig, architecture: Architecture, layers: tuple[str, ...]
) -> Weights | None:
    if not os.path.isfile(path):
        return None
    try:
        weights = read_safetensors(path, model=config.model)
        weights = _checked(weights, architecture, layers, str(path))
    except InputError as error:
        logger.warning("Fitting anew, since a cached fit is damaged: %s", error)
        return None
    with contextlib.suppress(OSError):
        path.touch()
    return weights


def _cache_fit(path: Path, weights: Weights, model: str) -> None:
    """Keep a fit for the next run with the same pictures, and only the last few of them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, weights, model=model)
        kept = sorted(path.parent.glob("*.safetensors"), key=lambda p: -p.stat().st_mtime)
        for old in kept[_CACHED_FITS:]:
            old.unlink(missing_ok=True)
    # A cache that can't be written costs time, never the run.
    except (OSError, InputError) as error:
        logger.warning("The fitted weights could not be cached: %s", error)
