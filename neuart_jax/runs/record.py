"""The record of a run: its provenance, with everything needed to reproduce the result."""

import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import jax

from neuart_jax.config.config import Config, get_setting
from neuart_jax.config.errors import InputError
from neuart_jax.engine.result import Result
from neuart_jax.io.clips.film_reading import load_film_metadata
from neuart_jax.io.clips.film_writing import FILM_EXTENSIONS
from neuart_jax.io.files import brief_cause, dump_json
from neuart_jax.io.images import load_metadata, pack_metadata
from neuart_jax.io.paths import read_whole
from neuart_jax.runs.prepare import UNNAMED

logger = logging.getLogger(__name__)

METADATA_KEY = "neuart_jax"
"""Key of the record, as JSON, in the metadata of an image or a film."""

RECORD_NAME = "config.json"
"""Name of the record's file in a run's folder."""

_PACKAGES = ("neuart_jax", "jax", "jaxlib", "flax", "optax", "numpy", "pillow", "scipy")
_NOT_INSTALLED = "not installed"
"""Version of a package that is used from its source tree."""
# Settings that don't change the image, and those that are compared by hash.
_FREE = {
    *("output", "overwrite", "print_losses", "weights_dir", "offline"),
    *("content", "style", "content_mask", "style_mask", "paint_mask"),
    *("film_codec", "sound"),
    *("memory_check", "compilation_cache", "checkpoint_seconds", "resume", "record_paths"),
}
# Those of them that only say where and how a command worked.
_OF_COMMANDS = (
    *("output", "overwrite", "print_losses", "offline"),
    *("memory_check", "compilation_cache", "checkpoint_seconds", "resume"),
)
# Settings that are keywords or files; compared by name, and files by hash as well.
_NAMED = ("init", "weights", "normalize_weights")
_MAX_DIFFERENCES = 5
_MOST_BYTES = 64 << 20
# A length that every film and animation holds: longer comments of MOV files are cut off.
_MOST_METADATA = 60_000
_EXPECTED = "a run's config.json, or an image or a film written by this program"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _NOT_INSTALLED


class Record(NamedTuple):
    """The provenance of a result.

    Attributes:
      config: resolved configuration, with absolute paths.
      weights: identity of the network's weights.
      inputs: SHA-256 of the files, by "content", "style" etc.
      own: identity of the custom parts, which aren't in the configuration; empty without any.
      versions: versions of the packages, by name.
      device: platform and kind of the device.
      predicted_bytes: predicted peak memory of the run.
      outcome: figures of the result, once known: "status", "losses", "steps" etc.; a number that
        was not finite is None.
    """

    config: Config
    weights: Mapping[str, str] = {}
    inputs: Mapping[str, str] = {}
    own: str = ""
    versions: Mapping[str, str] = {}
    device: str = ""
    predicted_bytes: int = 0
    outcome: Mapping[str, Any] = {}

    @property
    def is_unnamed(self) -> bool:
        """Whether there are custom parts without a label, which can't be compared."""
        return self.own.startswith(UNNAMED)

    @classmethod
    def of_this_run(
        cls,
        config: Config,
        *,
        weights: Mapping[str, str],
        inputs: Mapping[str, str],
        predicted_bytes: int = 0,
        own: str = "",
        packages: Sequence[str] = (),
    ) -> Self:
        """Create a record with this machine's package versions and device.

        Args:
          config: resolved configuration.
          weights: identity of the network's weights.
          inputs: as in `Record`.
          predicted_bytes: as in `Record`.
          own: as in `Record`.
          packages: packages whose versions matter in addition to those of every run.
        """
        versions = {name: _version(name) for name in (*_PACKAGES, *packages)}
        device = jax.local_devices()[0]
        return cls(
            config,
            weights,
            inputs,
            own,
            {"python": platform.python_version(), **versions},
            f"{device.platform} {device.device_kind}",
            predicted_bytes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record without the outcome, as plain JSON types."""
        return {
            "config": self.config.to_dict(),
            "weights": dict(self.weights),
            "inputs": dict(self.inputs),
            **({"own": self.own} if self.own else {}),
            "versions": dict(self.versions),
            "device": self.device,
            "predicted_bytes": self.predicted_bytes,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, source: str = "the record") -> Self:
        """Build a record from the output of `to_dict` or `to_json`; malformed entries are dropped.

        Raises:
          InputError: the settings are not valid.
        """
        weights, inputs, versions, outcome = (
            part if isinstance(part := document.get(name), dict) else {}
            for name in ("weights", "inputs", "versions", "result")
        )
        config = Config.from_dict(document["config"], source=source)
        own, device = (str(document.get(name, "")) for name in ("own", "device"))
        return cls(config, weights, inputs, own, versions, device, outcome=outcome)

    def to_json(self, result: Result) -> str:
        """Serialize the record and the result's figures to JSON."""
        document = {
            **self.to_dict(),
            "result": {
                "status": result.status.name.lower(),
                "losses": result.losses,
                "steps": result.num_steps,
                "evaluations": result.num_evaluations,
                "seconds": round(result.seconds, 3),
                "seconds_to_first_step": round(result.seconds_to_first_step, 3),
                "seconds_per_evaluation": round(result.seconds_per_evaluation, 4),
                "layer_weights": result.layer_weights,
            },
        }
        return dump_json(document, indent=2)

    def without_command(self) -> Self:
        """Return the record without settings of the command that leave frames and sound unchanged.

        A film with equal frames is to be the same, byte for byte, whatever it is called and however
        often its run was interrupted.
        """
        usual = Config()
        return self._replace(
            config=self.config.replace(**{name: get_setting(usual, name) for name in _OF_COMMANDS})
        )

    def unlike(self, there: Self) -> list[str]:
        """List the differences that make an existing result another run's, one phrase each.

        Args:
          there: record of the existing result. Weights are only compared if both records name them.
        """
        own, others = _image_settings(self.config), _image_settings(there.config)
        phrases = [f"{n}: {others[n]} there, {own[n]} here" for n in own if others[n] != own[n]]
        phrases += [
            f"another {name} image"
            for name in {**self.inputs, **there.inputs}
            if there.inputs.get(name) != self.inputs.get(name)
        ]
        if self.weights and self.weights.get("sha256") != there.weights.get("sha256"):
            phrases.append(f"weights: {_brief(there.weights)} there, {_brief(self.weights)} here")
        if self.own != there.own:
            phrases.append(f"custom parts: {there.own or 'none'} there, {self.own or 'none'} here")
        return phrases

    def differences(self, other: Self) -> list[str]:
        """List differences between two runs other than settings, which may change pixels."""
        mine, theirs = (
            {**r.inputs, "weights": (r.weights.get("sha256"), r.weights.get("normalized"))}
            for r in (self, other)
        )
        different = [name for name in theirs if mine.get(name) != theirs[name]]
        changed = [n for n in other.versions if self.versions.get(n) != other.versions[n]]
        return different + [f"{name} {other.versions[name]}" for name in changed]


def _image_settings(config: Config) -> dict[str, Any]:
    """Return the settings that change the image, without those whose files are compared.

    Files are compared by name, as a record may have file names without folders.
    """
    return {
        name: os.path.basename(value) if name in _NAMED else value
        for section in config.to_dict().values()
        for name, value in section.items()
        if name not in _FREE
    }


def _brief(identity: Mapping[str, str]) -> str:
    return f"{identity.get('name')} {str(identity.get('sha256'))[:12]}"


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read the record from a run's config.json or from its image or film.

    A JSON file that contains only settings is accepted as well.

    Args:
      path: path of the file.

    Returns:
      The record.

    Raises:
      InputError: the file can't be read, or has no valid record.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        try:
            text = read_whole(path, most=_MOST_BYTES).decode()
        # A name with a null character raises ValueError, and so does a file that isn't text.
        except (OSError, ValueError) as error:
            reason = brief_cause(error) if isinstance(error, OSError) else "it is not text"
            raise InputError(
                f"{path} can't be read ({reason})",
                expected=_EXPECTED,
                remedy="check the name and the permissions",
            ) from error
    else:
        if path.suffix.lower() in FILM_EXTENSIONS:
            text = load_film_metadata(path).get(METADATA_KEY, "")
        else:
            text = _load_from_image(path)
        if not text:
            raise InputError(
                f"{path} has no record of a run",
                expected=_EXPECTED,
                remedy="give another --config",
            )
    return _parse(text, source=str(path))


def _load_from_image(path: Path) -> str:
    try:
        return load_metadata(path).get(METADATA_KEY, "")
    except InputError as error:
        raise InputError(
            error.came, expected=_EXPECTED, remedy="check the name and the permissions"
        ) from error


def make_film_metadata(text: str, *, name: str) -> dict[str, str]:
    """Return the metadata of a film with a record; empty, and a log line, if it is too long.

    Args:
      text: the record, as JSON.
      name: name of the film in the line.
    """
    metadata = {METADATA_KEY: text}
    if (length := len(pack_metadata(metadata))) > _MOST_METADATA:
        logger.warning(
            "%s has no record in its metadata, as it would take %d bytes, and %d is the limit; the "
            "record is in %s.",
            *(name, length, _MOST_METADATA, RECORD_NAME),
        )
        return {}
    return metadata


def _parse(text: str, *, source: str) -> Record:
    try:
        document: Any = json.loads(text)
    # Malicious nesting raises RecursionError.
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{source} is not JSON ({error})", expected=_EXPECTED, remedy="give another --config"
        ) from error
    if not isinstance(document, dict) or "config" not in document:
        return Record(Config.from_dict(document, source=source))
    return Record.from_dict(document, source=source)


def refuse(folder: Path, differences: Sequence[str]) -> NoReturn:
    """Refuse to write to a folder that has a result of another run.

    Args:
      folder: the folder.
      differences: the differences, from `Record.unlike`.

    Raises:
      InputError: always.
    """
    more = len(differences) - _MAX_DIFFERENCES
    listed = [*differences[:_MAX_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
    raise InputError(
        f"{folder} already holds the result of another run ({'; '.join(listed)})",
        expected="a folder without a result, or with one of the same settings, images and weights",
        remedy="give another --output, or add --overwrite",
    )
