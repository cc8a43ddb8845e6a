"""The first difference between a module and one that was constructed again."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from inspect import getclosurevars
from numbers import Number
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Of every module, other than hooks, which may change what it computes.
_IGNORED = {key for key in vars(nn.Module()) if not key.endswith("_hooks")} | {"_arguments"}
_HOLDERS = ("_parameters", "_buffers", "_modules")


def first_difference(module: nn.Module, rebuilt: nn.Module, saved: Iterable[Tensor]) -> str | None:
    """The name of the first attribute or tensor in which the modules differ, or None.

    Everything is compared that a module holds, private attributes, hooks and the sharing of tensors included.

    Args:
        module: the module.
        rebuilt: the one constructed again.
        saved: tensors of the module whose values need not be equal.

    Example:
        >>> modules = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> modules[0].order = [0, 1]
        >>> first_difference(*modules, modules[0].parameters())
        'order'
    """
    names = _Comparison(saved).differences("", module, rebuilt)
    return next((name.lstrip(".") for name in names), None)


class _Comparison:
    def __init__(self, saved: Iterable[Tensor]) -> None:
        self._saved = {id(tensor) for tensor in saved}
        self._partners: dict[int, int] = {}  # of objects that were compared
        self._sources: set[int] = set()  # their partners

    def differences(self, name: str, a: Any, b: Any) -> Iterator[str]:
        if a is b:
            return
        held = isinstance(a, nn.Module | Tensor)
        if id(a) in self._partners or (held and id(b) in self._sources):
            if held and self._partners.get(id(a)) != id(b):
                yield name  # shared on one side only
            return
        parts, others = _parts(a), _parts(b)
        if held or (parts is not None and not isinstance(a, dict | list | tuple)):  # a number may stand for several
            self._partners[id(a)] = id(b)
            self._sources.add(id(b))
        if parts is None or others is None or _kind(a) is not _kind(b):
            if not self._equal(a, b):
                yield name
            return
        for key in dict.fromkeys([*parts, *others]):
            if key in parts and key in others:
                yield from self.differences(f"{name}.{key}", parts[key], others[key])
            else:
                yield f"{name}.{key}"

    def _equal(self, a: Any, b: Any) -> bool:
        if isinstance(a, Number | np.generic) and isinstance(b, Number | np.generic):
            return bool(a == b or (a != a and b != b))
        if _kind(a) is not _kind(b):
            return False
        if isinstance(a, Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and (id(a) in self._saved or same_values(a, b))
        if isinstance(a, np.ndarray):
            return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return isinstance(a, weakref.ref) or bool(a == b)


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, NaN included, on any device."""
    a, b = a.detach().cpu(), b.detach().cpu()
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _kind(value: Any) -> type:
    return tuple if isinstance(value, torch.Size) else type(value)


def _parts(value: Any) -> dict[str, Any] | None:
    """Parts of an object by name; None of numbers, text, tensors and classes."""
    if isinstance(value, nn.Module):
        ignored = _IGNORED if getattr(value, "needs_model", True) else {*_IGNORED, "_log_joint"}
        parts = {key: part for key, part in vars(value).items() if key not in ignored}
        return {**parts, **{key: part for holder in _HOLDERS for key, part in getattr(value, holder).items()}}
    if isinstance(value, dict):
        return {str(key): part for key, part in value.items()}
    if isinstance(value, list | tuple):
        return {str(number): part for number, part in enumerate(value)}
    if isinstance(value, partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, MethodType):
        return {"__func__": value.__func__, "__self__": value.__self__}
    if isinstance(value, FunctionType):
        return {"path": f"{value.__module__}.{value.__qualname__}", "closure": getclosurevars(value).nonlocals}
    return vars(value) if hasattr(value, "__dict__") and not isinstance(value, type | Tensor) else None
