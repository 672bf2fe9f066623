"""Convert trees of containers to plain JSON and back, without running code named in a file."""

import importlib
from typing import Any

# Packages whose named tuples are recreated by name; classes of other packages are refused.
_PACKAGES = (__name__.partition(".")[0], "optax")


def to_plain(tree: Any) -> Any:
    """Describe numbers, strings and containers of these as JSON.

    Args:
      tree: tree of dicts with string keys, lists, tuples, named tuples of this package and of
        Optax, and None; its leaves are bool, int, float or str.

    Raises:
      TypeError: the tree contains anything else.
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
    raise TypeError(f"{kind} is not a plain tree")


def from_plain(plain: Any) -> Any:
    """Rebuild a tree from the output of `to_plain`.

    Raises:
      Exception: the document is not from `to_plain`; exceptions of nearly any class.
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
        raise TypeError(f"{module}.{name} is a class of another package")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise TypeError(f"{module}.{name} is not a named tuple")
    return found
