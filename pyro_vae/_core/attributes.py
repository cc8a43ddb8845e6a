"""Plain values that programs read in addition to tensors: attributes of modules, variables of functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CellType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae._core.owners import Owners
from pyro_vae._core.references import is_user_object

_PLAIN = (int, float, bool, str, type(None))
_SKIPPED = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "call_super_init", "_arguments"}
_CONSTRUCTED, _SET_LATER = ("pyro_vae", "torch"), ("training", "call_super_init")
_DEPTH = 3  # of dictionaries, lists and objects within an attribute
_LARGE = 100  # a list of more entries holds data
_MAX_WATCHED = 5000  # reading a hundred values costs a step some microseconds


class Place(NamedTuple):
    """The container and key of a plain value, or of a list of plain values."""

    name: str
    holder: Any
    key: Any


class Attributes:
    """Watches the plain values that programs read: numbers, strings, flags, and lists of them.

    Args:
        owners: modules and variables of the programs.

    Example:
        >>> from pyro_vae._core.owners import Owners
        >>> module = nn.Linear(2, 3)
        >>> module.beta, module.settings = 0.5, {"gamma": 1.0}
        >>> watched = Attributes(Owners(model=module))
        >>> module.beta, module.settings["gamma"] = 1.0, 2.0
        >>> watched.changed(), watched.changed()
        (['model.beta', 'model.settings.gamma'], [])
    """

    def __init__(self, owners: Owners) -> None:
        places = [place for place, _ in zip(_places(owners), range(_MAX_WATCHED), strict=False)]
        plain = [p for p in places if type(p.holder) is dict and not isinstance(p.holder.get(p.key), list)]
        chosen = {id(p) for p in plain}
        self._others = [p for p in places if id(p) not in chosen]
        self._pairs = [(p.holder, p.key) for p in plain]  # read at every step: no function call for each
        self._places = [*plain, *self._others]
        self._values = self.values()

    def values(self) -> list[Any]:
        """The current values, for :meth:`restore`."""
        return [holder.get(key) for holder, key in self._pairs] + [_get(place) for place in self._others]

    def named(self) -> list[tuple[str, Any]]:
        """The current values with their names."""
        return list(zip((place.name for place in self._places), self.values(), strict=True))

    def changed(self) -> list[str]:
        """Names of the values that have changed since the last call."""
        values = self.values()
        if values == self._values:
            return []
        pairs = zip(self._places, values, self._values, strict=True)
        names = [place.name for place, new, old in pairs if type(new) is not type(old) or new != old]
        self._values = values
        return names

    def restore(self, values: list[Any]) -> list[str]:
        """Restore the values, and return the names of those that had changed."""
        changed = []
        for place, value in zip(self._places, values, strict=True):
            if _get(place) != value:
                changed.append(place.name)
                _set(place, value)
        return changed

    def lift(self, names: list[str], *, like: Tensor) -> Lifted:
        """The floating-point numbers among the named values, as tensors with the device and dtype of ``like``."""
        return Lifted([p for p in self._places if p.name in names and type(_get(p)) is float], like)


def construction(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The classes of this package's and torch's modules, with their public plain attributes, by name.

    Tensors do not tell activations, scales or lower bounds apart; these do. Modules of the user are left out: their
    attributes may count steps.

    Example:
        >>> construction({"net": nn.Sequential(nn.LayerNorm(2, eps=0.1))})["net.0.eps"]
        0.1
    """
    named = [(f"{k}.{path}" if path else k, part) for k, m in modules.items() for path, part in m.named_modules()]
    values: dict[str, Any] = {}
    for name, module in named:
        if type(module).__module__.partition(".")[0] in _CONSTRUCTED:
            values[name] = type(module).__name__
            public = {k: v for k, v in vars(module).items() if k[0] != "_" and k not in _SET_LATER}
            values |= {f"{name}.{k}": v for k, v in public.items() if isinstance(v, _PLAIN) or _is_plain_tuple(v)}
    return values


class Lifted:
    """Numbers that programs read as tensors, so that a recording follows them.

    Attributes:
        tensors: one per number.
    """

    def __init__(self, places: list[Place], like: Tensor) -> None:
        self._places = places
        self._values = [_get(place) for place in places]
        self.tensors = [torch.tensor(value, device=like.device, dtype=like.dtype) for value in self._values]

    def fill(self) -> bool:
        """Set the tensors to the current numbers; return whether all of them still are numbers."""
        values = [_get(place) for place in self._places]
        if values != self._values:
            if any(type(value) not in (int, float) for value in values):
                return False
            self._values = values
            for tensor, value in zip(self.tensors, values, strict=True):
                tensor.fill_(value)
        return True

    @contextmanager
    def read(self) -> Iterator[None]:
        """Context in which programs read the tensors in place of the numbers."""
        values = [_get(place) for place in self._places]
        for place, tensor in zip(self._places, self.tensors, strict=True):
            _set(place, tensor)
        try:
            yield
        finally:
            for place, value in zip(self._places, values, strict=True):
                _set(place, value)


def _places(owners: Owners) -> Iterator[Place]:
    seen: set[int] = set()
    for name, owner in owners.modules.items():
        for path, module in owner.named_modules():
            yield from _within(f"{name}.{path}" if path else name, vars(module), _DEPTH, seen)
    for name, holder, key in owners.variables:
        yield from _of_value(
            name, holder, key, holder.cell_contents if isinstance(holder, CellType) else holder[key], seen
        )


def _within(name: str, values: dict[str, Any], depth: int, seen: set[int]) -> Iterator[Place]:
    if id(values) in seen or len(values) > _LARGE:
        return
    seen.add(id(values))
    for key, value in list(values.items()):
        if key not in _SKIPPED:
            yield from _of_value(f"{name}.{key}", values, key, value, seen, depth)


def _of_value(name: str, holder: Any, key: Any, value: Any, seen: set[int], depth: int = _DEPTH) -> Iterator[Place]:
    if isinstance(value, _PLAIN) or _is_plain_list(value):
        yield Place(name, holder, key)
    elif depth and isinstance(value, dict):
        yield from _within(name, value, depth - 1, seen)
    elif depth and isinstance(value, list | tuple) and len(value) <= _LARGE:
        for number, part in enumerate(value):
            if not isinstance(part, _PLAIN):
                yield from _of_value(f"{name}.{number}", value, number, part, seen, depth - 1)
    elif depth and not isinstance(value, nn.Module) and is_user_object(value):
        yield from _within(name, vars(value), depth - 1, seen)


def _is_plain_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _LARGE and all(isinstance(item, _PLAIN) for item in value)


def _is_plain_tuple(value: Any) -> bool:
    return type(value) is tuple and all(isinstance(item, _PLAIN) for item in value)


def _get(place: Place) -> Any:
    """The value; of a list, a copy."""
    if isinstance(place.holder, CellType):
        value = place.holder.cell_contents
    else:
        value = place.holder.get(place.key) if isinstance(place.holder, dict) else place.holder[place.key]
    return list(value) if isinstance(value, list) else value


def _set(place: Place, value: Any) -> None:
    if isinstance(value, list):
        target = place.holder.cell_contents if isinstance(place.holder, CellType) else place.holder[place.key]
        target[:] = value
    elif isinstance(place.holder, CellType):
        place.holder.cell_contents = value
    else:
        place.holder[place.key] = value
