"""Names of what a compiled program depends on: equal texts, equal programs."""

import dataclasses
import enum
from typing import Any

_OWN = __name__.partition(".")[0]


def cache_key(*parts: Any) -> str:
    """Return a text that is equal where all parts are, or "" if one of them has no such text.

    Numbers, strings, None, and tuples, mappings and dataclasses of this package's own classes that
    hold nothing else have one; their code is part of a cached program's name, see `program_cache`.
    Whatever a user wrote has none: its text may stay the same when its code changes.
    """
    try:
        return repr([_plain(part) for part in parts])
    except TypeError:
        return ""


def _plain(value: Any) -> Any:
    """Return a value as plain tuples, of which equal ones mean equal values.

    Raises:
      TypeError: it is of a class that isn't this package's, or a function.
    """
    # Exactly: a subclass may mean something else.
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind in (tuple, list, set, frozenset, dict):
        items = value.items() if kind is dict else value
        plain = [_plain(item) for item in items]
        return name, tuple(sorted(plain, key=repr) if kind in (set, frozenset) else plain)
    if kind.__module__.partition(".")[0] != _OWN:
        raise TypeError(f"{name} isn't one of this package's classes")
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = list(value._fields)
    elif isinstance(value, enum.Enum):
        return name, value.name
    else:
        raise TypeError(f"{name} doesn't say what it holds")
    return name, tuple((field, _plain(getattr(value, field))) for field in fields)
