"""One-line errors for programs that fail on a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae._core.checks import refusal
from pyro_vae._core.owners import Owners
from pyro_vae._core.support import OneLineError, outside
from pyro_vae._core.types import Program

_EXPECTED = (
    ValueError,
    TypeError,
    RuntimeError,
    IndexError,
    KeyError,
    AttributeError,
    NotImplementedError,
    AssertionError,
)
WRONG_ARGUMENTS = "a batch must hold the arguments"
"""Rule of the error for a program that takes another number of arguments."""


@contextmanager
def program_errors(owner: str, args: tuple[Any, ...], *programs: Program) -> Iterator[None]:
    """Context that shortens errors of several lines, such as those of Pyro and torch, to one line."""
    try:
        yield
    except OneLineError:
        raise
    except Exception as error:
        raise unusable(owner, "pair", programs, args, error) from error


def unusable(owner: str, role: str, programs: Sequence[Program], args: tuple[Any, ...], error: Exception) -> Exception:
    """The error to raise for a program that fails on a batch: one line; errors of this package are unchanged."""
    line = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
    if isinstance(error, OneLineError) or not isinstance(error, _EXPECTED):
        return error
    if isinstance(error, ValueError) and ", got " in line:
        return ValueError(f"{line}.")
    modules = Owners(**{f"p{i}": p for i, p in enumerate(programs)}).submodules()
    incomplete = any(getattr(module, "missing", None) is True for module in modules)  # NaN is a missing entry
    for value in (
        x for x in tree_flatten(args)[0] if isinstance(x, Tensor) and x.is_floating_point() and not x.is_meta
    ):
        if bool(torch.isnan(value).any()) and (not incomplete or "nan" in str(error).lower()):
            return outside(owner, "data must be finite", "NaN", torch.isnan(value))
    shapes = ", ".join(f"{tuple(a.shape)}" if isinstance(a, Tensor) else type(a).__name__ for a in args)
    if isinstance(error, TypeError) and "positional argument" in line:
        rule = f"{WRONG_ARGUMENTS} that the {role} takes"
        return refusal(owner, rule, f"({shapes}): {line}", "Pass such batches, as [x for x, label in loader]")
    auto = any(isinstance(module, AutoGuide) for module in modules)
    hint = (
        " An autoguide has parameters for the data that it was created with: pass these in one batch." if auto else ""
    )
    got = f"{type(error).__name__} for arguments ({shapes}): {line}"
    return ValueError(f"{owner}: the {role} must run on a batch, got {got}.{hint}")
