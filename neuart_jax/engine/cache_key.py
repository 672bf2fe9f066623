"""Cache keys of compiled programs: equal keys mean equal programs."""

import dataclasses
import enum
from typing import Any

_OWN = __name__.partition(".")[0]


def cache_key(*parts: Any) -> str:
    """Return a string that is equal for equal parts, or "" if a part can't be identified.

    Numbers, strings, None, and tuples, mappings and dataclasses of this package's classes made of
    these can be identified; this package's code is part of a cached program's name, see
    `program_cache`. Objects from user code can't: their text may stay the same when the code
    changes.
    """
    try:
        return repr([_plain(part) for part in parts])
    except TypeError:
        return ""


def _plain(value: Any) -> Any:
    """Convert a value to plain tuples, which are equal only for equal values.

    Raises:
      TypeError: the value is a function, or of a class outside this package.
    """
    # Exact types: a subclass may have another meaning.
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
        raise TypeError(f"{name} doesn't expose its content")
    return name, tuple((field, _plain(getattr(value, field))) for field in fields)
