"""The plain values that programs read besides their tensors: attributes of modules, variables of functions."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from types import CellType
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.owners import Owners, is_object

_PLAIN = (int, float, bool, str, type(None))
_SKIPPED = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "call_super_init"}


class Attributes:
    """Watches the plain values that programs read: numbers, strings and flags.

    Args:
        owners: of the programs.

    Example:
        >>> from pyro_vae._core.owners import Owners
        >>> module = nn.Linear(2, 3)
        >>> module.beta = 0.5
        >>> watched = Attributes(Owners(model=module))
        >>> module.beta = 1.0
        >>> watched.changed(), watched.changed()
        (['model.beta'], [])
    """

    def __init__(self, owners: Owners) -> None:
        self._places = list(_places(owners))
        self._values = self._read()

    def _read(self) -> list[Any]:
        return [_get(place, key) for _, place, key in self._places]

    def changed(self) -> list[str]:
        """Names of what has changed since the last call."""
        values = self._read()
        if values == self._values:
            return []
        pairs = zip(self._places, values, self._values, strict=True)
        names = [name for (name, _, _), new, old in pairs if type(new) is not type(old) or new != old]
        self._values = values
        return names

    def keep(self) -> list[Any]:
        """The values, for :meth:`restore`."""
        return self._read()

    def restore(self, values: list[Any]) -> list[str]:
        """Give the values back; the names of those that were others."""
        different = []
        for (name, place, key), value in zip(self._places, values, strict=True):
            if _get(place, key) != value:
                different.append(name)
                _set(place, key, value)
        return different

    def lift(self, names: list[str], *, like: Tensor) -> Lifted:
        """The floating-point numbers among the named values as tensors of the device and dtype of another."""
        found = [(place, key) for name, place, key in self._places if name in names]
        return Lifted([(place, key) for place, key in found if type(_get(place, key)) is float], like)


class Lifted:
    """Numbers that programs read from tensors, so that a recording follows them.

    Attributes:
        tensors: one for each number.
    """

    def __init__(self, places: list[tuple[Any, str]], like: Tensor) -> None:
        self._places = places
        self.tensors = [torch.tensor(_get(*place), device=like.device, dtype=like.dtype) for place in places]
        self._values = [_get(*place) for place in places]

    def __len__(self) -> int:
        return len(self._places)

    def fill(self) -> None:
        """Give the tensors the numbers as they are now."""
        values = [_get(*place) for place in self._places]
        if values != self._values:
            self._values = values
            for tensor, value in zip(self.tensors, values, strict=True):
                tensor.fill_(value)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Within it, programs read the tensors in place of the numbers."""
        values = [_get(*place) for place in self._places]
        for place, tensor in zip(self._places, self.tensors, strict=True):
            _set(*place, tensor)
        try:
            yield
        finally:
            for place, value in zip(self._places, values, strict=True):
                _set(*place, value)


def _places(owners: Owners) -> Iterator[tuple[str, Any, str]]:
    for name, owner in owners.modules.items():
        for path, module in owner.named_modules():
            yield from _of_values(f"{name}.{path}" if path else name, vars(module))
    yield from owners.variables


def _of_values(name: str, values: MutableMapping[str, Any], depth: int = 1) -> Iterator[tuple[str, Any, str]]:
    for key, value in list(values.items()):
        if key in _SKIPPED or not isinstance(key, str):
            continue
        if isinstance(value, _PLAIN):
            yield f"{name}.{key}", values, key
        elif depth and isinstance(value, dict):
            yield from _of_values(f"{name}.{key}", value, depth - 1)
        elif depth and not isinstance(value, nn.Module) and is_object(value):
            yield from _of_values(f"{name}.{key}", vars(value), depth - 1)


def _get(place: Any, key: str) -> Any:
    return place.cell_contents if isinstance(place, CellType) else place.get(key)


def _set(place: Any, key: str, value: Any) -> None:
    if isinstance(place, CellType):
        place.cell_contents = value
    else:
        place[key] = value
