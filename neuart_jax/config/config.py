"""The configuration of a run: one frozen dataclass of all settings, to and from JSON and flags.

The command-line flags are generated from its fields, and the resolved configuration is saved with
every result.
"""

import dataclasses
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, Self

from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import LayerWeights, Section, is_boolean, nearest
from neuart_jax.config.own_settings import OWN_SETTINGS
from neuart_jax.config.sections import (
    ComputeConfig,
    ImagesConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RealismConfig,
    RegionsConfig,
    RunConfig,
    VideoConfig,
)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """All settings of a run. Field names are unique across sections, as they name the flags."""

    images: ImagesConfig = ImagesConfig()
    network: NetworkConfig = NetworkConfig()
    regions: RegionsConfig = RegionsConfig()
    losses: LossConfig = LossConfig()
    realism: RealismConfig = RealismConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    run: RunConfig = RunConfig()
    video: VideoConfig = VideoConfig()
    compute: ComputeConfig = ComputeConfig()
    output: OutputConfig = OutputConfig()

    def __repr__(self) -> str:
        usual = Config()
        changed = {
            name: value
            for name in FIELDS
            if (value := get_setting(self, name)) != get_setting(usual, name)
        }
        text = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        return f"Config().replace({text})" if changed else "Config()"

    def replace(self, **values: Any) -> Self:
        """Return a copy with fields of any section changed: ``config.replace(steps=50)``.

        Raises:
          InputError: no section has such a field, or a value is not valid.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in FIELDS:
                raise InputError(
                    f"{name!r} is not a setting",
                    expected="the name of a flag",
                    remedy=f"did you mean {nearest(name, FIELDS)}",
                )
            changes.setdefault(FIELDS[name].section, {})[name] = value
        sections = {
            section: dataclasses.replace(getattr(self, section), **fields)
            for section, fields in changes.items()
        }
        return dataclasses.replace(self, **sections)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the settings as plain JSON types, by section; layers become {name: weight}."""
        sections = dataclasses.asdict(self)
        for fields in sections.values():
            for name in fields:
                if FIELDS[name].hint == LayerWeights:
                    fields[name] = dict(fields[name])
                elif isinstance(fields[name], tuple):
                    fields[name] = list(fields[name])
        return sections

    @classmethod
    def from_dict(cls, sections: Mapping[str, Any], *, source: str = "the configuration") -> Self:
        """Build a configuration from the output of `to_dict`. Missing fields get their defaults.

        Args:
          sections: section name to field name to value.
          source: origin of the settings, for messages.

        Raises:
          InputError: an unknown section or field, or a value that is not valid.
        """
        if not isinstance(sections, Mapping):
            raise InputError(
                f"{source} holds {type(sections).__name__} where settings should be",
                expected="sections of settings such as a run's config.json has",
                remedy="give the config.json of an earlier run",
            )
        values: dict[str, Any] = {}
        for section, fields in sections.items():
            if section not in SECTIONS or not isinstance(fields, Mapping):
                raise InputError(
                    f"{source} has {section!r} where a section should be",
                    expected="the sections " + ", ".join(SECTIONS),
                    remedy=f"did you mean {nearest(section, SECTIONS)}",
                )
            values.update(fields)
        return cls().replace(**values)


class Field(typing.NamedTuple):
    """One setting: where it lives and how it is declared."""

    section: str
    hint: Any
    default: Any
    metadata: types.MappingProxyType[Any, Any]


SECTIONS: dict[str, type[Section]] = {
    field.name: typing.cast(type[Section], field.type) for field in dataclasses.fields(Config)
}
FIELDS: dict[str, Field] = {
    field.name: Field(
        section,
        typing.get_type_hints(cls, include_extras=True)[field.name],
        field.default,
        field.metadata,
    )
    for section, cls in SECTIONS.items()
    for field in dataclasses.fields(cls)  # type: ignore[arg-type]
}


def get_setting(config: Config, name: str) -> Any:
    """Return a setting of any section."""
    return getattr(getattr(config, FIELDS[name].section), name)


def parse_setting(name: str, text: Any) -> Any:
    """Parse the text of a setting from the command line; return other values unchanged.

    A number that can't be parsed stays text, so that `Config.replace` reports it.
    """
    hint = FIELDS[name].hint
    is_whole = hint in (int, int | None)
    if not isinstance(text, str) or not (is_whole or hint in (float, float | None)):
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if is_whole and number.is_integer() else number


MATTER_FIRST = (
    *("content", "style", "output", "size", "model"),
    *("stylization", "content_weight", "color", "steps"),
)
"""The settings that most runs need; the help lists them first."""


def describe_flag(name: str, text: str) -> list[str]:
    """Format the help of one flag, as lines; values with their meanings have a line each."""
    first, *values = text.splitlines()
    lines = [f"  {name}", *_wrap(first, 6)]
    for value in values:
        lines += _wrap(value, 8, hanging=4)
    return lines


def _wrap(text: str, indent: int, *, hanging: int = 0) -> list[str]:
    following = " " * (indent + hanging)
    lines = textwrap.wrap(text, 92, initial_indent=" " * indent, subsequent_indent=following)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _describe_setting(name: str) -> list[str]:
    field = FIELDS[name]
    flag = f"--[no]{name}" if is_boolean(field.hint) else f"--{name}"
    purpose, *values = field.metadata["help"].splitlines()
    default = "by\N{NO-BREAK SPACE}weights" if name in _OWN_NAMES else field.default
    if default not in ("", (), None):
        purpose = f"{purpose.removesuffix(':')} [{default}]" + ":" * purpose.endswith(":")
    return describe_flag(flag, "\n".join([purpose, *values]))


_OWN_NAMES = {name for kinds in OWN_SETTINGS.values() for own in kinds.values() for name in own}


def describe_first_settings() -> list[str]:
    """Format the help of the settings in `MATTER_FIRST`, as lines."""
    return [line for name in MATTER_FIRST for line in _describe_setting(name)]


def describe_settings() -> str:
    """Format the help of all other settings, by section."""
    lines = []
    for section, cls in SECTIONS.items():
        lines += ["", f"{section}: {(cls.__doc__ or '').splitlines()[0]}"]
        for name, field in FIELDS.items():
            if field.section == section and name not in MATTER_FIRST:
                lines += _describe_setting(name)
    return "\n".join([*lines, *_describe_own_settings()])


def _describe_own_settings() -> list[str]:
    lines = ["", "Defaults [by weights], for each model and kind of weights:"]
    said: dict[str, list[str]] = {}
    for model, kinds in OWN_SETTINGS.items():
        for kind, own in kinds.items():
            text = ", ".join(f"{name}={value}" for name, value in own.items())
            said.setdefault(text, []).append(f"{model} {kind}")
    for text, names in said.items():
        lines.append("  " + ", ".join(names))
        lines += _wrap(text, 6)
    return lines
