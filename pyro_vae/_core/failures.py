"""One line for a program that fails on a batch."""

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


@contextmanager
def one_line(owner: str, args: tuple[Any, ...], *programs: Program) -> Iterator[None]:
    """Within it, errors of several lines, such as Pyro's and torch's of shapes and supports, become one line."""
    try:
        yield
    except OneLineError:
        raise
    except Exception as error:
        raise unusable(owner, "pair", programs, args, error) from error


def unusable(owner: str, role: str, programs: Sequence[Program], args: tuple[Any, ...], error: Exception) -> Exception:
    """What to raise for a program that fails on a batch: one line; an error of this package as it is."""
    line = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
    if isinstance(error, OneLineError) or not isinstance(error, _EXPECTED):
        return error
    for value in (x for x in tree_flatten(args)[0] if isinstance(x, Tensor) and x.is_floating_point()):
        if bool(torch.isnan(value).any()):
            return outside(owner, "data must be finite", "NaN", torch.isnan(value))
    if isinstance(error, ValueError) and ", got " in line:
        return ValueError(f"{line}.")
    given = ", ".join(f"{tuple(a.shape)}" if isinstance(a, Tensor) else type(a).__name__ for a in args)
    if isinstance(error, TypeError) and "positional argument" in line:
        rule = f"a batch must hold the arguments that the {role} takes"
        return refusal(owner, rule, f"({given}): {line}", "Pass such batches, as [x for x, label in loader]")
    parts = (
        part
        for module in Owners(**{f"p{i}": p for i, p in enumerate(programs)}).modules.values()
        for part in module.modules()
    )
    auto = any(isinstance(part, AutoGuide) for part in parts)
    hint = " An autoguide has parameters for the data it was made with: pass these in one batch." if auto else ""
    what = f"{type(error).__name__} for arguments ({given}): {line}"
    return ValueError(f"{owner}: the {role} must run on a batch, got {what}.{hint}")
