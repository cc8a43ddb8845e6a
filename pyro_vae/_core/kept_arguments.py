"""Arguments of constructors, kept so that modules can be saved with their construction."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial, wraps
from typing import Any

_MARK = "_keeps_arguments"


def keeping(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that keeps its arguments."""

    @wraps(init)
    def keeps(self: Any, *args: Any, **options: Any) -> None:
        keep(self, args, options)
        init(self, *args, **options)

    setattr(keeps, _MARK, True)
    return keeps


def is_keeping(init: Callable[..., None]) -> bool:
    """Whether :func:`keeping` returned a constructor."""
    return hasattr(init, _MARK)


def keep(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Keep the arguments of a module's constructor, and not those that it passes on to its base classes."""
    if hasattr(type(module), "state_dict"):
        vars(module).setdefault("_arguments", _Arguments(args, options))


def kept(module: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of a module's constructor; None if a pickle has lost them."""
    arguments: _Arguments | None = vars(module).get("_arguments")
    return ((), {}) if arguments is None else arguments.values


class _Arguments:
    """Arguments of a constructor, which a pickle of the module contains only if they can be pickled."""

    def __init__(self, args: tuple[Any, ...], options: dict[str, Any], *, known: bool = True) -> None:
        self.values = (args, options) if known else None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Arguments:
        return self if self.values is None else _Arguments(*deepcopy(self.values, memo))

    def __reduce__(self) -> Any:
        if self.values is None or not all(map(_is_importable, self.values)):
            return partial(_Arguments, known=False), ((), {})
        return _Arguments, self.values


def _is_importable(value: Any) -> bool:
    """Whether all functions and classes in a value have names in modules."""
    if isinstance(value, partial):
        return _is_importable((value.func, value.args, value.keywords))
    if isinstance(value, dict | list | tuple):
        return all(map(_is_importable, value.values() if isinstance(value, dict) else value))
    return getattr(value, "__qualname__", "name").isidentifier()
