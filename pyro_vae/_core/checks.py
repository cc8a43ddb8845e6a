"""Checks of arguments, with errors of the form ``<owner>: <what must hold>, got <value>. <What to do>.``"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pyro_vae._core.kept_arguments import is_keeping, keeping, kept


def refusal(owner: str, rule: str, value: Any, advice: str = "") -> ValueError:
    """The error for a rule that does not hold.

    Example:
        >>> str(refusal("fit", "epochs must be at least 1", "epochs=0"))
        'fit: epochs must be at least 1, got epochs=0.'
    """
    return ValueError(f"{owner}: {rule}, got {value}.{f' {advice}.' if advice else ''}")


def require(holds: bool, owner: str, rule: str, value: Any, advice: str = "") -> None:
    """Raise the error of :func:`refusal` unless the rule holds."""
    if not holds:
        raise refusal(owner, rule, value, advice)


def shown(value: Any) -> str:
    """A value on one short line: itself if it is plain, otherwise its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value) if isinstance(value, str | Real | NoneType | tuple | list) else ""
    if text and len(text) <= 80 and "\n" not in text:
        return text
    entries = sorted({type(item).__name__ for item in value}) if isinstance(value, tuple | list) else []
    return f"{with_article(type(value))}{' of ' if entries else ''}{', '.join(entries)}"


def with_article(kind: type | str) -> str:
    """The name of a class with its article."""
    name = kind if isinstance(kind, str) else kind.__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def check_count(owner: str, at_least: int = 1, **counts: int | None) -> None:
    """Require integers of at least ``at_least``; None, the default of an optional count, passes.

    Raises:
        ValueError: naming the first count that is not.
    """
    for name, count in counts.items():
        if count is None:
            continue
        if not _is_integer(count):
            raise refusal(owner, f"{name} must be an integer", f"{name}={count!r}")
        require(count >= at_least, owner, f"{name} must be at least {at_least}", f"{name}={count}")


def check_positive(owner: str, *, at_least_zero: bool = False, advice: str = "", **numbers: float | None) -> None:
    """Require finite numbers above 0, or of at least 0; None, the default of an optional number, passes.

    Raises:
        ValueError: naming the first number that is not.
    """
    rule = "must be finite and at least 0" if at_least_zero else "must be positive and finite"
    for name, number in numbers.items():
        if number is not None:
            valid = 0 < number < math.inf or (at_least_zero and number == 0)
            require(valid, owner, f"{name} {rule}", f"{name}={number}", advice)


def check_equal(owner: str, attribute: str, values: Mapping[str, object]) -> None:
    """Require several pieces to share an attribute.

    Args:
        owner: name that the message begins with.
        attribute: its name.
        values: by the name of the piece.

    Raises:
        ValueError: with all values.
    """
    *names, last = values
    got = ", ".join(f"{name}={value}" for name, value in values.items())
    rule = f"{', '.join(names)} and {last} must share {attribute}"
    require(len(set(values.values())) == 1, owner, rule, got, f"Build them with the same {attribute}")


def check_choice(owner: str, name: str, value: Any, choices: Collection[Any], advice: str = "") -> None:
    """Require one of a few values.

    Raises:
        ValueError: listing the choices.
    """
    listed = ", ".join(map(repr, choices))
    require(value in choices, owner, f"{name} must be one of {listed}", f"{name}={value!r}", advice)


def check_shape(owner: str, name: str, shape: Sequence[int], expected: Sequence[int], advice: str = "") -> None:
    """Require a shape.

    Raises:
        ValueError: with both shapes.
    """
    shape, expected = tuple(shape), tuple(expected)
    require(shape == expected, owner, f"{name} must have shape {expected}", f"{shape}", advice)


class Kind(NamedTuple):
    """The values that an annotation allows, and their name in messages."""

    allows: Callable[[Any], bool]
    name: str


def check_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], owner: str | None = None, **at_least: int
) -> None:
    """Require values that the annotations of a function allow.

    A number is not nan, a bool is no number, and the sizes of a shape are positive. Ranges are checked elsewhere.
    Annotations other than classes, choices, numbers and sequences of them allow everything.

    Args:
        function: the function; its first statement is ``check_arguments(function, locals())``.
        values: its arguments by name.
        owner: name that messages begin with; None for that of the function.
        at_least: smallest values of counts, by their names.

    Raises:
        ValueError: naming the first value that is not allowed.
    """
    owner = owner or function.__name__
    for name, kind in _kinds(function):
        if name in values and not kind.allows(value := values[name]):
            advice = f"Write {value.__name__}()" if isinstance(value, type) else ""
            raise refusal(owner, f"{name} must be {kind.name}", f"{name}={shown(value)}", advice)
    for name, smallest in at_least.items():
        check_count(owner, smallest, **{name: values[name]})


class CheckedArguments:
    """Base of classes of this package whose constructors check their arguments by :func:`check_arguments`.

    The arguments of the class that is built are checked, and not those that it passes on to its base classes. The
    annotations of a class that a user derives are not enforced, but those of its base classes are. Modules keep the
    arguments, for :func:`arguments_of`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        init: Any = cls.__init__
        if "__init__" in vars(cls) and _is_packaged(cls):
            setattr(cls, "__init__", _checked(init))  # noqa: B010
        elif isinstance(init, FunctionType) and not (is_keeping(init) or (init.__module__ or "").startswith("torch.")):
            setattr(cls, "__init__", keeping(init))  # noqa: B010


def arguments_of(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments by which a module was constructed; None of other objects."""
    if not (isinstance(value, CheckedArguments) and hasattr(value, "state_dict")):
        return None
    return kept(value)


def _is_packaged(cls: type) -> bool:
    return cls.__module__.startswith("pyro_vae.")


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    names = list(signature(init).parameters)[1:]

    @wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        if type(self).__init__ is wrapped or not _is_packaged(type(self)):
            check_arguments(init, {**dict(zip(names, args, strict=False)), **options}, type(self).__name__)
        init(self, *args, **options)

    wrapped = keeping(checked)
    return wrapped


@cache
def _kinds(function: Callable[..., Any]) -> list[tuple[str, Kind]]:
    hints = get_type_hints(function)
    hints.pop("return", None)
    return [(name, kind) for name, hint in hints.items() if (kind := kind_of(hint)) is not None]


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and value == value  # not nan


def _is_sequence(value: Any) -> bool:
    return hasattr(value, "__getitem__") and not isinstance(value, str | bytes | Mapping)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(_is_integer(size) and size >= 1 for size in value)


@cache
def _plain_kinds() -> dict[Any, Kind]:
    from pyro.distributions import TorchDistribution  # here, since the command line checks arguments before torch loads
    from torch import Tensor
    from torch.distributions import Distribution

    return {
        int: Kind(_is_integer, "an integer"),
        float: Kind(_is_number, "a number"),
        bool: Kind(lambda value: type(value).__name__ in ("bool", "bool_"), "True or False"),
        NoneType: Kind(lambda value: value is None, "None"),
        Tensor: Kind(lambda value: isinstance(value, Tensor) and not value.is_complex(), "a real tensor"),
        TorchDistribution: Kind(lambda value: isinstance(value, Distribution), "a distribution"),
        tuple[int, ...]: Kind(_is_shape, "a tuple of positive integers"),
    }


def kind_of(hint: Any) -> Kind | None:
    """The kind of an annotation; None if it allows everything."""
    hint = getattr(hint, "__bound__", hint)  # of a type variable
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if hint in _plain_kinds():
        return _plain_kinds()[hint]
    if origin in (Union, UnionType):
        return _any_of([kind_of(part) for part in parts])
    if origin is Literal:
        return Kind(lambda value: isinstance(value, str) and value in parts, f"one of {', '.join(map(repr, parts))}")
    if origin is Callable:
        return Kind(callable, "callable")
    if origin is Iterable:
        return Kind(_is_iterable, "an iterable")
    if origin in (Sequence, list):
        return _sequence_of(kind_of(parts[0]))
    if origin is tuple and ... not in parts:
        return _tuple_of([kind_of(part) for part in parts])
    if isinstance(origin, type) and origin is not Any and getattr(origin, "_is_runtime_protocol", True):
        return Kind(lambda value: isinstance(value, origin), with_article(origin))
    return None


def _is_iterable(value: Any) -> bool:
    iterable = hasattr(type(value), "__iter__") or _is_sequence(value)
    return iterable and not isinstance(value, str | bytes | Mapping) and not hasattr(value, "is_complex")


def _any_of(kinds: list[Kind | None]) -> Kind | None:
    known = [kind for kind in kinds if kind is not None]
    name = " or ".join(dict.fromkeys(kind.name for kind in known))
    return None if len(known) < len(kinds) else Kind(lambda value: any(kind.allows(value) for kind in known), name)


def _sequence_of(entry: Kind | None) -> Kind:
    def allows(value: Any) -> bool:
        entries = value if entry is not None and (isinstance(value, list | tuple) or hasattr(value, "modules")) else ()
        return _is_sequence(value) and all(entry is None or entry.allows(item) for item in entries)

    return Kind(allows, "a sequence" if entry is None else f"a sequence, each entry {entry.name}")


def _tuple_of(entries: list[Kind | None]) -> Kind:
    def allows(value: Any) -> bool:
        fits = isinstance(value, tuple | list) and len(value) == len(entries)
        return fits and all(kind is None or kind.allows(item) for kind, item in zip(entries, value, strict=True))

    return Kind(allows, f"{len(entries)} values, each {' or '.join(dict.fromkeys(e.name for e in entries if e))}")
