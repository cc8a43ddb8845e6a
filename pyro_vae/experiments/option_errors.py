"""Errors about options, each as one line."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches

_TYPES = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text", "tuple": "a list"}


def unknown_option(name: str, known: Iterable[str], *, parent: str = "--") -> ValueError:
    """The error for an option that does not exist, with the most similar one that does.

    Args:
        name: of the option.
        known: names of the options that exist.
        parent: precedes both in the message.

    Example:
        >>> str(unknown_option("gide", ["guide", "prior"]))
        'unknown option --gide; did you mean --guide?'
    """
    advice = f"see {parent}help CLASS." if parent.endswith(".") else "see --help."
    return ValueError(unknown_name("option", name, known, advice, parent=parent))


def unknown_name(kind: str, name: str, known: Iterable[str], advice: str, *, parent: str = "") -> str:
    """The message for a name that does not exist: the most similar one that does, or the advice."""
    similar = get_close_matches(name, known, n=1)
    return f"unknown {kind} {parent}{name}; {f'did you mean {parent}{similar[0]}?' if similar else advice}"


def wrong_value(error: Exception) -> ValueError:
    r"""The error for an option whose value has the wrong type, from jsonargparse's nested report.

    Example:
        >>> str(wrong_value(TypeError("Parser key \"epochs\": Expected a <class 'int'>. Got value: x")))
        '--epochs: must be an integer, got x.'
    """
    text = " ".join(str(error).split())
    *keys, report = re.split(r'Parser key "([\w.]+)":', text)
    option = "--" + ".".join(dict.fromkeys(keys[1::2]))
    if missing := re.search(r"arguments are required: (\w+)", report):
        return ValueError(f"{option}.{missing[1]}: must have a value.")
    if base := re.search(r"Expected '([\w.]+)' to be a subclass of <class '(\w+)'>", report):
        return ValueError(f"{option}: must be a subclass of {base[2]}, got {base[1]}.")
    expected = re.search(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.+?)\]|(.+?)(?=[.:] | - ))", report)
    value = re.search(r"(?:Got|Given) value: (.+?)(?:\. Got value: |$)", report)
    if not expected or not value:
        return ValueError(f"{option}: {textwrap.shorten(report, 300)}")
    kind, choices, other = expected.groups()
    rule = _TYPES.get(kind, kind) if kind else f"one of {choices}" if choices else other
    return ValueError(f"{option}: must be {rule}, got {textwrap.shorten(value[1], 80)}.")
