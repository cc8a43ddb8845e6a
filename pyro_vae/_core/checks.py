"""Checks of arguments, whose errors have one form: ``owner: what must hold, got what was given. What to do.``"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def refusal(owner: str, rule: str, given: Any, advice: str = "") -> ValueError:
    """The error to raise.

    Example:
        >>> str(refusal("fit", "epochs must be at least 1", "epochs=0"))
        'fit: epochs must be at least 1, got epochs=0.'
    """
    return ValueError(f"{owner}: {rule}, got {given}.{f' {advice}.' if advice else ''}")


def require(holds: bool, owner: str, rule: str, given: Any, advice: str = "") -> None:
    """Raise the error of :func:`refusal` unless the rule holds."""
    if not holds:
        raise refusal(owner, rule, given, advice)


def check_count(owner: str, at_least: int = 1, **counts: int | None) -> None:
    """Require integers of at least ``at_least``; None, for an option that is not given, passes.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, count in counts.items():
        if count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int):
            raise refusal(owner, f"{name} must be an integer", f"{name}={count!r}")
        require(count >= at_least, owner, f"{name} must be at least {at_least}", f"{name}={count}")


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
    got, wanted = tuple(shape), tuple(expected)
    require(got == wanted, owner, f"{name} must have shape {wanted}", f"{got}", advice)
