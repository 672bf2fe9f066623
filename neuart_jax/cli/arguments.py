"""Normalize the words of a command line to flags with one value each.

Words without a flag are image files: the first is the content, unless a flag names one, and the
others are styles. Flags of other programs are refused with a sentence that names the equivalent.
"""

import glob
import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

from neuart_jax.cli.other_tools import translate_flag
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import nearest

_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "on", "1"), "true"),
    **dict.fromkeys(("false", "f", "no", "off", "0"), "false"),
}


class Flags(NamedTuple):
    """Names of the flags, by kind.

    Attributes:
      known: all flags.
      switches: boolean flags.
      lists: flags that take any number of files.
      single_files: flags that take one file and may not be repeated.
    """

    known: Collection[str]
    switches: Collection[str]
    lists: Collection[str]
    single_files: Collection[str]


def arrange_arguments(words: Sequence[str], flags: Flags) -> list[str]:
    """Rewrite all words of a command line as ``--name=value``.

    Args:
      words: the words from the shell, without the program's name.
      flags: the flags that the command knows.

    Raises:
      InputError: a flag isn't known, a word belongs to no flag, or a flag for one file got several.
    """
    arranged: list[tuple[str, str | None]] = []
    files: list[str] = []
    unknown: list[tuple[str, str | None]] = []
    rest, follows = list(words), ""
    while rest:
        word = rest.pop(0)
        if word == "--":
            files += rest
            break
        if not _is_flag(word):
            if follows in flags.lists or follows in flags.single_files:
                arranged.append((follows, word))
            else:
                files.append(_check_image_file(word))
            continue
        name, has_value, value = word.lstrip("-").partition("=")
        # Other programs write dashes.
        name = name if name in flags.known else name.replace("-", "_")
        is_switch = name in flags.switches
        is_negation = name.startswith("no") and name[2:] in flags.switches
        takes_next = bool(rest) and not has_value and not _is_flag(rest[0])
        follows = ""
        if name not in flags.known and not is_negation:
            unknown.append((word, rest.pop(0) if takes_next else value if has_value else None))
        elif is_negation or is_switch:
            if is_switch and takes_next and rest[0].lower() in _BOOLEANS:
                has_value, value = "=", rest.pop(0)
            arranged.append((name, _read_switch(name, value, is_switch) if has_value else None))
        elif has_value:
            arranged.append((name, value))
        elif takes_next:
            follows = name
            arranged.append((name, rest.pop(0)))
        else:
            raise InputError(
                f"--{name} came without a value",
                expected=f"--{name}=VALUE",
                remedy="add a value, or leave the flag out",
            )
    if unknown:
        _refuse_unknown(unknown, flags)
    for name in flags.single_files:
        _check_single(name, [value or "" for other, value in arranged if other == name])
    if files and "content" in flags.known:
        if not any(name == "content" for name, _ in arranged):
            arranged.append(("content", files.pop(0)))
        arranged += [("style", file) for file in files]
    elif files:
        raise InputError(
            f"{files[0]!r} is not a flag", expected="--name=value", remedy="see --help"
        )
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in arranged]


def _read_switch(name: str, value: str, is_switch: bool) -> str:
    if is_switch and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise InputError(
        f"--{name}={value}",
        expected=f"--{name} or --no{name}" if is_switch else f"--{name} alone",
        remedy="leave the value out",
    )


def _is_flag(word: str) -> bool:
    # A negative number is a value.
    return len(word) > 1 and word[0] == "-" and not (word[1].isdigit() or word[1] == ".")


def _check_image_file(word: str) -> str:
    looks_like_one = "." in word or os.sep in word or "~" in word or glob.has_magic(word)
    if not looks_like_one and not os.path.lexists(word):
        raise InputError(
            f"{word!r} is neither a flag nor a file",
            expected="--name=value, or two images: the content, then the style",
            remedy="see --help",
        )
    return word


def _check_single(name: str, values: Sequence[str]) -> None:
    if len(values) < 2:
        return
    many = "for many images, name their folder or a pattern in quotation marks and add --pair"
    raise InputError(
        f"--{name} has {len(values)} files: {', '.join(values[:3])}"
        + (", ..." if len(values) > 3 else ""),
        expected="one",
        remedy=f"leave the others out; {many}=cross (or zip)"
        if name == "content"
        else "keep one of them",
    )


def _refuse_unknown(unknown: Sequence[tuple[str, str | None]], flags: Flags) -> None:
    strange, advice = [], []
    for word, value in unknown:
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        strange.append(word.partition("=")[0])
        translated = translate_flag(name, value)
        if translated is None:
            advice.append(f"for {strange[-1]}, did you mean {_nearest_flags(name, flags)}")
        elif translated:
            advice.append(f"write {translated}")
        else:
            advice.append(f"leave out {strange[-1]}")
    raise InputError(
        f"{', '.join(strange)} {'is not a flag' if len(strange) == 1 else 'are not flags'} of this "
        "command",
        expected="flags that --help lists",
        remedy=", ".join(advice),
    )


def _nearest_flags(name: str, flags: Flags) -> str:
    return nearest(f"--{name}", [f"--{known}" for known in flags.known]).replace("'", "")
