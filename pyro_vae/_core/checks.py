"""Checks of arguments, with errors of the form ``<owner>: <what must hold>, got <value>. <What to do>.``"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral
from typing import Any


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


def check_count(owner: str, at_least: int = 1, **counts: int | None) -> None:
    """Require integers of at least ``at_least``; None, the default of an optional count, passes.

    Raises:
        ValueError: naming the first count that is not.
    """
    for name, count in counts.items():
        if count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, Integral):
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
