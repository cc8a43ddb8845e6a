"""Find the option whose value has a wrong type, and describe the right one."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import Tensor

from pyro_vae._core.checks import refusal, require, with_article
from pyro_vae.experiments.components import KINDS, component_parser, find_component, unknown_class
from pyro_vae.experiments.option_errors import check_size, wrong_choice

_ONE = {int: "an integer", float: "a finite number", bool: "true or false", str: "text", os.PathLike: "text"}
_MANY = {int: "integers", float: "finite numbers"}


def wrong_value(error: Exception, options: Mapping[str, Any], parser: ArgumentParser) -> ValueError:
    """The error for the option that a parser rejects.

    Args:
        error: of the parser, which is reported if every value is accepted on its own.
        options: all options, those of a component as ``{"class_path": ..., "init_args": {...}}``.
        parser: has an argument for each.

    Example:
        >>> from jsonargparse import ArgumentParser
        >>> parser = ArgumentParser()
        >>> _ = parser.add_argument("--widths", type=tuple[int, ...])
        >>> str(wrong_value(ValueError(), {"widths": "wide"}, parser))
        "--widths: must be a list of integers, got wide. Write for example '[2, 2]'."
    """
    text = textwrap.shorten(" ".join(str(error).split()), 300)
    return next(_errors(options, parser, "--"), None) or ValueError(f"pyro-vae train: {text}")


def _errors(options: Mapping[str, Any], parser: ArgumentParser, parent: str, owner: str = "") -> Iterator[ValueError]:
    for action in parser._actions:
        name, hint = action.dest, getattr(action, "_typehint", None)
        if hint is None or name not in options:  # the help on a class is an action without a value
            continue
        option, value, kind = f"{parent}{name}", options[name], KINDS.get(name)
        if isinstance(value, dict) and kind:
            yield from _errors_of_component(name, value, option)
            if not _accepts(hint, value):
                rule = f"must build {with_article(_built(hint) or kind.base)}"
                yield refusal(option, rule, value["class_path"].rpartition(".")[2])
        elif value is None and action.required:
            advice = f"Add {option}, as {owner} has no default for it"
            yield refusal(option, f"must be {_rule(hint)}", "nothing", advice)
        elif value != action.default and not _accepts(hint, value):
            yield unknown_class(name, str(value), option) if kind else _wrong_type(option, hint, value)


def _built(hint: Any) -> type | None:
    """The class that a factory of a type returns, if it is known."""
    factories = [member for member in _members(hint) if get_origin(member) is Callable]
    returned = [get_args(factory)[-1] for factory in factories]
    return next((kind for kind in returned if isinstance(kind, type)), None)


def _errors_of_component(kind: str, component: dict[str, Any], option: str) -> Iterator[ValueError]:
    chosen = find_component(kind, component["class_path"], option=option)
    parser = component_parser(kind, chosen)
    yield from _errors(component.get("init_args", {}), parser, f"{option}.", chosen.__name__)


def check_plain(options: Namespace) -> None:
    """Require integers of at most 64 bits, and no tensors, which torch's optimizers accept as numbers.

    Raises:
        ValueError: naming the option.
    """
    for name, value in vars(options.as_flat()).items():
        option = f"--{name.replace('init_args.', '')}"
        require(not isinstance(value, Tensor), option, "must be a finite number", "a mapping")
        for item in value if isinstance(value, list | tuple) else [value]:
            check_size(option, item)


def placeholder(hint: Any, name: str) -> str:
    """Placeholder of a value of a type in a help text: N for an integer, X for a number, otherwise the name.

    Example:
        >>> placeholder(int | Literal["auto"], "threads"), placeholder(tuple[int, ...], "hidden")
        ('N|auto', '[N,...]')
    """
    return "|".join(dict.fromkeys(text for member in _members(hint) if (text := _placeholder(member, name))))


def _placeholder(hint: Any, name: str) -> str:
    arguments, origin = get_args(hint), get_origin(hint)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (tuple, list, Iterable):
        return f"[{placeholder(arguments[0], name)},...]"
    return {int: "N", float: "X", bool: "true|false", str: name.upper()}.get(hint, "")


def _accepts(hint: Any, value: Any) -> bool:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def _wrong_type(option: str, hint: Any, value: Any) -> ValueError:
    if get_origin(hint) is Literal:
        return wrong_choice(option, value, get_args(hint))
    return refusal(option, f"must be {_rule(hint)}", textwrap.shorten(str(value), 80), _advice(hint, value))


def _advice(hint: Any, value: Any) -> str:
    with suppress(TypeError, ValueError, OverflowError):
        if int in _members(hint) and (number := float(value)).is_integer():
            return f"Write {int(number)}"
    lists = [member for member in _members(hint) if get_origin(member) in (tuple, list, Iterable)]
    return f"Write for example '{[2] * _length(lists[0], 2)}'" if lists else ""


def _rule(hint: Any) -> str:
    """Describe the values of a type, such as "an integer or auto"; tensors and None are left out."""
    return (
        " or ".join(dict.fromkeys(rule for member in _members(hint) if (rule := _rule_of(member)))) or "another value"
    )


def _rule_of(hint: Any) -> str:
    arguments, origin = get_args(hint), get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else str(arguments[0])
    if origin in (tuple, list, Iterable):
        items = next((_MANY[m] for m in _members(arguments[0]) if m in _MANY), "values")
        length = _length(hint, 0)
        return f"a list of {length or ''} {items}".replace("  ", " ")
    return _ONE.get(origin or hint, "")


def _length(hint: Any, otherwise: int) -> int:
    """The length of a tuple, if it is fixed."""
    arguments = get_args(hint)
    return len(arguments) if get_origin(hint) is tuple and arguments[-1] is not ... else otherwise


def _members(hint: Any) -> list[Any]:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [member for member in members if member is not NoneType]
