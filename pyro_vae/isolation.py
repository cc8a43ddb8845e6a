"""Running programs so that nothing outside notices: random numbers, validation, modes, the parameter store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import validation_enabled
from torch import nn

from pyro_vae.param_store import no_registration


@contextmanager
def isolated(seed: int | None = None, *, validate: bool = False) -> Iterator[None]:
    """Seeded random numbers, no entries in the parameter store, validation as asked; all as it was afterwards.

    Args:
        seed: of every generator; None goes on from where they are.
        validate: whether Pyro checks arguments and shapes.
    """
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(cuda), validation_enabled(validate), no_registration():
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(*programs: Callable[..., Any]) -> Iterator[None]:
    """Modules among the programs in eval mode and without gradients; each back in its own mode afterwards."""
    modes = [(m, m.training) for p in programs if isinstance(p, nn.Module) for m in p.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def placement(*programs: Callable[..., Any]) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and dtype of the first parameter of the programs that are modules; None without one."""
    tensors = (t for p in programs if isinstance(p, nn.Module) for t in p.parameters())
    first = next(tensors, None)
    return (None, None) if first is None else (first.device, first.dtype)
