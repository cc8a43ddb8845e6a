"""Search for the modules, tensors and plain values that a Pyro program refers to.

A program may be a module, a bound method, a function, a ``functools.partial`` or a wrapper around any of these. The
search follows attributes, closures, default arguments, globals, lists and dictionaries, to a limited depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae._core.types import Program

PLAIN_TYPES = (int, float, bool, str)
_MAX_DEPTH = 4  # of containers and objects between a program and its modules
_MAX_OBJECTS = 20_000  # a program's object may hold a data set too
_MAX_LENGTH = 1000  # a longer container holds data, not modules
_LIBRARIES = {"builtins", "types", "torch", "numpy", "pandas", "logging"}


class FunctionVariables(NamedTuple):
    """Closure variables and globals that a program's functions refer to."""

    objects: dict[str, Any]
    """Modules and tensors, by the variable's name."""
    plain: list[tuple[str, Any, str]]
    """Variables with numbers, flags or strings: name, cell or dictionary, key."""
    code: list[CodeType]
    """Code of the functions, and of the methods of users' classes."""


def referenced_modules(program: Program, variables: FunctionVariables) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a program refers to, with the path to each; its functions' variables go to ``variables``."""
    queue: list[tuple[str, Any, int]] = [("", program, 0)]
    seen: set[int] = set()
    while queue and len(seen) < _MAX_OBJECTS:
        path, item, depth = queue.pop(0)
        if id(item) in seen or depth > _MAX_DEPTH:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            seen |= {id(module) for module in item.modules()}
            yield path, item
            children: Iterator[tuple[str, Any, int]] = ((label, child, 1) for label, child in _unregistered(item))
            for function in _user_methods(item):
                variables.plain.extend(_plain_variables(function))
                variables.code.append(function.__code__)
        elif isinstance(item, Tensor):
            variables.objects.setdefault(path or "tensor", item)
            continue
        else:
            children = _children(item, variables)
        queue.extend((".".join(filter(None, (path, label))), child, depth + cost) for label, child, cost in children)


def _children(item: Any, variables: FunctionVariables) -> Iterator[tuple[str, Any, int]]:
    """Label, object and depth (0 or 1) of everything that an item refers to."""
    if isinstance(item, MethodType):
        yield from (("", item.__self__, 0), ("", item.__func__, 0))
    elif isinstance(item, partial):
        yield from (("", argument, 0) for argument in (item.func, *item.args))
        yield from ((key, argument, 0) for key, argument in item.keywords.items())
    elif isinstance(item, FunctionType):
        yield from _of_function(item, variables)
    elif isinstance(item, dict | list | tuple | set | frozenset):
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        yield from ((str(key), value, 1) for key, value in pairs if len(item) <= _MAX_LENGTH)
    elif isinstance(item, Messenger) or is_user_object(item) or _is_callable_object(item):
        yield from ((key, value, 1) for key, value in vars(item).items() if not key.startswith("__"))


def _unregistered(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Lists and dictionaries among a module's attributes, whose tensors are not registered as parameters."""
    for name, submodule in module.named_modules():
        for key, value in vars(submodule).items():
            if not key.startswith("_") and isinstance(value, list | tuple | dict) and value:
                yield f"{name}.{key}".lstrip("."), value


def _of_function(function: FunctionType, variables: FunctionVariables) -> Iterator[tuple[str, Any, int]]:
    variables.plain.extend(_plain_variables(function))
    variables.code.append(function.__code__)
    if hasattr(function, "__wrapped__"):
        yield "", function.__wrapped__, 0
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # a variable that is not assigned yet
            continue
        if isinstance(value, nn.Module | Tensor):
            variables.objects.setdefault(name, value)
        yield name, value, 0
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    yield from ((name, value, 1) for name, value in zip(names[len(names) - len(defaults) :], defaults, strict=True))
    yield from ((key, value, 1) for key, value in (function.__kwdefaults__ or {}).items())
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType):
            if value.__module__ == function.__module__:  # a helper in the same script, not one of a library
                yield "", value, 1
        elif isinstance(value, nn.Module | Tensor):
            variables.objects.setdefault(name, value)


def _user_methods(module: nn.Module) -> Iterator[FunctionType]:
    """The methods that users' classes define, for a module and its submodules."""
    for kind in {type(submodule) for submodule in module.modules()}:
        if kind.__module__.split(".")[0] not in (*_LIBRARIES, "pyro", "pyro_vae"):
            yield from (value for value in vars(kind).values() if isinstance(value, FunctionType))


def _plain_variables(function: FunctionType) -> Iterator[tuple[str, Any, str]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            if _holds_plain_values(cell.cell_contents):
                yield name, cell, name
    for name in _names(function.__code__):
        if not name.startswith("__") and _holds_plain_values(function.__globals__.get(name)):
            yield name, function.__globals__, name


def _holds_plain_values(value: Any) -> bool:
    return isinstance(value, (*PLAIN_TYPES, list, dict)) or (not isinstance(value, nn.Module) and is_user_object(value))


def is_user_object(item: Any) -> bool:
    """Whether an object with attributes is an instance of a user's class."""
    kind = type(item)
    excluded = isinstance(item, type | Tensor | torch.distributions.Distribution)
    named = kind.__name__ == "SimpleNamespace" or kind.__module__.split(".")[0] not in _LIBRARIES
    return hasattr(item, "__dict__") and not excluded and not callable(item) and named


def _is_callable_object(item: Any) -> bool:
    """Whether an object is a callable instance of a user's class."""
    library = type(item).__module__.split(".")[0] in _LIBRARIES
    return callable(item) and not isinstance(item, type) and hasattr(item, "__dict__") and not library


def describe_code(code: CodeType) -> list[Any]:
    """Instructions, names and constants of code and of the functions defined in it, the same in every process."""
    constants = [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in code.co_consts]
    parts = [describe_code(c) if isinstance(c, CodeType) else repr(c) for c in constants]
    return [code.co_code.hex(), code.co_names, parts]


def _names(code: CodeType) -> Iterator[str]:
    """The names that code and the functions defined in it refer to."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
