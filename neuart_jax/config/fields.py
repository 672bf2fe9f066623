"""Declaration, validation and parsing of a single setting."""

import dataclasses
import difflib
import math
import numbers
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from neuart_jax.config.errors import InputError

LayerWeights = tuple[tuple[str, float], ...]
"""Layers and their weights, in the order given: ``(("relu1_1", 0.5), ("relu2_1", 0.5))``."""


Texts = tuple[str, ...]
"""Any number of strings, such as files, given by repeating the flag."""

Words = tuple[Annotated[str, "no comma"], ...]
"""Any number of words, written ``red,blue``."""

Numbers = tuple[float, ...]
"""Any number of numbers, written ``3,1``."""

Steps = tuple[int, ...]
"""Any number of step counts, written ``200,400``."""


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """Return the `known` names closest to a misspelled one, as "'a', 'b' or 'c'"."""
    known = list(known)
    if not known:
        return "nothing"
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    close = close or known[: len(known) if len(known) <= 12 else count]
    quoted = [repr(candidate) for candidate in close]
    return " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def parse_layer_weights(value: str | Mapping[str, float] | Iterable[Any]) -> LayerWeights:
    """Parse layers and their weights.

    Args:
      value: ``"relu1_1:0.2,relu2_1:0.8"``, ``{"relu1_1": 0.2}``, pairs, or bare names. Bare names
        share a total weight of 1 equally: w_l = 1 / (number of active layers), Gatys et al. 2015.

    Returns:
      Pairs of name and weight; an empty tuple for an empty value.

    Raises:
      InputError: a weight is not a finite number of at least 0, a layer is repeated, or only some
        layers have a weight.
    """
    if isinstance(value, str):
        entries: list[Any] = [entry.strip() for entry in value.split(",") if entry.strip()]
    elif isinstance(value, Mapping):
        entries = list(value.items())
    else:
        entries = list(value) if isinstance(value, Iterable) else [value]
    pairs: list[tuple[str, float | None]] = []
    for entry in entries:
        try:
            name, weight = entry.partition(":")[::2] if isinstance(entry, str) else entry
            name = name.strip()
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"layers are written as {value!r}",
                expected="text such as relu1_1:0.5,relu2_1:2, or names with weights",
                remedy="write them that way",
            ) from error
        has_weight = not isinstance(entry, str) or ":" in entry
        pairs.append((name, _parse_layer_weight(name, weight) if has_weight else None))
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"layer {name!r} comes {names.count(name)} times",
                expected="every layer once",
                remedy="give it once, with the sum of the weights",
            )
    given = [weight for _, weight in pairs if weight is not None]
    if given and len(given) < len(pairs):
        bare = [name for name, weight in pairs if weight is None]
        raise InputError(
            f"layers {', '.join(bare)} carry no weight and others do",
            expected="a weight for every layer or for none",
            remedy=f"write {bare[0]}:1, say, or leave all the weights out",
        )
    return tuple((n, 1.0 / len(pairs) if w is None else w) for n, w in pairs)


def _parse_layer_weight(name: str, weight: Any) -> float:
    try:
        number = float(weight)
    # An integer from JSON may be too large for a float.
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or isinstance(weight, bool):
        raise InputError(
            f"layer {name!r} has the weight {weight!r}",
            expected="a finite number of at least 0",
            remedy=f"write {name}:1, say",
        )
    return number


Known = typing.TypeVar("Known")


def known(value: Known | None) -> Known:
    """Return a setting that may be empty in a configuration but not in a resolved one."""
    assert value is not None, "the configuration is not resolved"
    return value


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare a field, with the help of its flag and the rules for its validation."""
    metadata = {
        "help": help,
        "choices": choices,
        "at_least": at_least,
        "at_most": at_most,
    }
    return dataclasses.field(default=default, metadata=metadata)


class Section:
    """Base class of the sections: validates every field against its declaration."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _check_value(field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)


def _check_value(field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    name, rules = field.name, field.metadata
    if hint == LayerWeights:
        return parse_layer_weights(value)
    if hint == Words:
        return _check_words(name, value)
    if hint == Texts:
        return _check_texts(name, value)
    if hint in (Numbers, Steps):
        return _check_numbers(name, value, whole=hint == Steps)
    if field.default in ("", None) and value in ("", None):
        return field.default
    remedy = "see --help for what it does"
    if field.default not in ("", None):
        remedy = f"leave it out for the default, {field.default}"
    if is_boolean(hint):
        if not isinstance(value, bool):
            raise InputError(f"{name}={value!r}", expected="true or false", remedy=remedy)
        return value
    if hint is str:
        if not isinstance(value, str):
            raise InputError(f"{name}={value!r}", expected="a text", remedy=remedy)
        if rules["choices"] and value not in rules["choices"]:
            raise InputError(
                f"{name}={value!r} is not known",
                expected="one of " + ", ".join(rules["choices"]),
                remedy=f"did you mean {nearest(value, rules['choices'])}",
            )
        return value
    is_whole = hint in (int, int | None)
    kind = "a whole number" if is_whole else "a finite number"
    for key, words in (("at_least", "of at least"), ("at_most", "and at most")):
        if rules[key] is not None:
            kind += f" {words} {rules[key]}"
    good = isinstance(value, numbers.Real) and not isinstance(value, bool)
    whole = isinstance(value, numbers.Integral)
    # An integer from JSON may be too large for a float or for an array.
    good = good and (abs(value) < 2**63 if whole else math.isfinite(value))
    good = good and (not is_whole or whole or float(value).is_integer())
    good = good and (rules["at_least"] is None or value >= rules["at_least"])
    good = good and (rules["at_most"] is None or value <= rules["at_most"])
    if not good:
        raise InputError(f"{name}={value!r}", expected=kind, remedy=remedy)
    return int(value) if is_whole else float(value)


def is_boolean(hint: Any) -> bool:
    """Return whether a field's type is bool, possibly with None."""
    return hint in (bool, bool | None)


def _check_texts(name: str, value: Any) -> Texts:
    # A single string is not split: file names may contain commas.
    texts = ((value,) if value else ()) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) and t for t in texts):
        raise InputError(
            f"{name}={value!r}",
            expected="a text, or a list of texts that aren't empty",
            remedy=f"repeat the flag for several: --{name}=A --{name}=B",
        )
    return tuple(texts)


def _check_words(name: str, value: Any) -> Words:
    words = value.split(",") if isinstance(value, str) and value.strip() else value or ()
    if not isinstance(words, list | tuple) or not all(
        isinstance(word, str) and word.strip() for word in words
    ):
        raise InputError(
            f"{name}={value!r}",
            expected="words with commas between them",
            remedy=f"write --{name}=red,blue, say",
        )
    return tuple(word.strip() for word in words)


def _check_numbers(name: str, value: Any, *, whole: bool) -> tuple[Any, ...]:
    entries = [e for e in value.split(",") if e.strip()] if isinstance(value, str) else value
    if isinstance(entries, numbers.Real) and not isinstance(entries, bool):
        entries = [entries]
    try:
        parsed = tuple(math.nan if isinstance(e, bool) else float(e) for e in entries)
    except (TypeError, ValueError, OverflowError):
        parsed = (math.nan,)
    good = all(math.isfinite(number) and number >= 0 for number in parsed)
    if not good or (whole and not all(number.is_integer() for number in parsed)):
        kind = "whole" if whole else "finite"
        raise InputError(
            f"{name}={value!r}",
            expected=f"{kind} numbers of at least 0 with commas between them",
            remedy=f"write --{name}=3,1, say",
        )
    return tuple(int(number) for number in parsed) if whole else parsed
