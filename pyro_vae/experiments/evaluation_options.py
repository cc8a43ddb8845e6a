"""Command-line options derived from the signature and the docstring of a function."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser

from pyro_vae._core.files import read_bytes

_NOT_OPTIONS = {"data_plate", "seed", "protocol", "progress"}  # set for every method alike, or by the library's user
_COMMON_HELP = {"engine": "execution of the programs; auto compiles them if there is enough work"}
_UNMARKED = {"batch_size", "chunk_size", "engine"}  # options that affect speed only, absent from file names


@dataclass(frozen=True)
class Option:
    """An option of a method.

    Args:
        name: without the dashes.
        default: value if the option is omitted.
        help: the help text.
        type: converts the argument's text.
        choices: the accepted texts; empty if any text of the type is accepted.
        mark: format of a value other than the default in file names; empty if file names do not include it.
    """

    name: str
    default: Any
    help: str
    type: Callable[[str], Any]
    choices: tuple[str, ...] = ()
    mark: str = ""


def options_of(function: Callable[..., Any], *names: str, **changes: dict[str, Any]) -> tuple[Option, ...]:
    """Options for the keyword-only parameters of a function, with its defaults and the help of its docstring.

    Args:
        function: an evaluation.
        names: the parameters; by default all that a command line can express.
        changes: by parameter, the fields of its :class:`Option` that differ from the derived ones.
    """
    hints, parameters = get_type_hints(function), signature(function).parameters
    documentation = docstring_parser.parse(function.__doc__ or "")
    texts = {entry.arg_name: plain_text(entry.description or "") for entry in documentation.params} | _COMMON_HELP
    chosen = names or [name for name in parameters if name not in _NOT_OPTIONS]
    options = []
    for name in chosen:
        parameter = parameters[name]
        if parameter.kind is not Parameter.KEYWORD_ONLY or parameter.default is Parameter.empty:
            continue
        type_, choices = _argument_type(hints[name])
        if type_ is not None:
            option = _option(name, parameter.default, texts.get(name, ""), type_, choices)
            options.append(replace(option, **changes.get(name, {})))
    return tuple(options)


def _option(name: str, default: Any, text: str, type_: Callable[[str], Any], choices: tuple[str, ...]) -> Option:
    if isinstance(default, bool):
        default, type_, choices = "yes" if default else "no", str, ("yes", "no")
    short = name.removeprefix("num_")
    mark = "" if name in _UNMARKED else "-{}" if choices and choices != ("yes", "no") else f"-{short}{{}}"
    return Option(name, default, text, type_, choices, mark)


def _argument_type(hint: Any) -> tuple[Callable[[str], Any] | None, tuple[str, ...]]:
    """Type and choices of a parameter's argument; None if a command line cannot express it."""
    members = (hint,) if get_origin(hint) in (None, Literal) else get_args(hint)
    for member in members:
        if get_origin(member) is Literal:
            return str, get_args(member)
        if member in (bool, int, float, str):
            return member, ()
    return None, ()


def plain_text(text: str) -> str:
    """Remove the markup of a docstring."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    text = re.sub(r'``"?(.*?)"?``', r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[`\\]", "", text)).strip().rstrip(".")


def brief(value: Any) -> Any:
    """An option's value in file names: a number without the digits that change nothing, 2 for 2.0, but never one text
    for two numbers; of a file the name and the first digits of a hash, so that another content is another value.
    """
    if isinstance(value, Path):
        return f"{value.stem}-{content_hash(value)[:8]}" if value.is_file() else value.stem
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else value


def content_hash(file: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    return sha256(read_bytes(file)).hexdigest()[:16]
