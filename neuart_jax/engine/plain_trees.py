"""Trees of containers as plain JSON, and back, without running anything that a file asks for."""

import importlib
from typing import Any

# The packages whose named tuples are made again by name; a class of another one is refused.
_PACKAGES = (__name__.partition(".")[0], "optax")


def to_plain(tree: Any) -> Any:
    """Describe numbers, texts and containers of these as JSON.

    Args:
      tree: of dicts with text keys, lists, tuples, named tuples of this package's and of Optax, and
        None; its leaves are bool, int, float or str.

    Raises:
      TypeError: there is something else in it.
    """
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": [[key, to_plain(value)] for key, value in tree.items()]}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [to_plain(value) for value in tree]}
    kind = type(tree)
    if isinstance(tree, tuple) and _find_class(kind.__module__, kind.__qualname__) is kind:
        return {"named": [kind.__module__, kind.__qualname__, [to_plain(each) for each in tree]]}
    raise TypeError(f"{kind} is no plain tree")


def from_plain(plain: Any) -> Any:
    """Undo `to_plain`.

    Raises:
      Exception: of nearly any kind, where it isn't what `to_plain` gives.
    """
    if not isinstance(plain, dict):
        return plain
    [(kind, value)] = plain.items()
    if kind == "dict":
        return {key: from_plain(each) for key, each in value}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](from_plain(each) for each in value)
    module, name, values = value
    return _find_class(module, name)(*(from_plain(each) for each in values))


def _find_class(module: str, name: str) -> Any:
    """Return a class of named tuples."""
    if module.partition(".")[0] not in _PACKAGES:
        raise TypeError(f"{module}.{name} is a class of others")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise TypeError(f"{module}.{name} is no named tuple")
    return found
