"""Running programs so that nothing outside notices: random numbers, validation, modes, the parameter store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import validation_enabled
from torch import Tensor, nn

from pyro_vae.param_store import no_registration


@contextmanager
def isolated(seed: int | None = None, *, validate: bool = False) -> Iterator[None]:
    """Seeded random numbers, no modules in the parameter store, validation as asked; all as it was afterwards.

    Args:
        seed: of every generator; None goes on from where they are.
        validate: whether Pyro checks arguments and shapes.
    """
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(cuda), validating(validate), no_registration():
        if seed is not None:
            _seed_all(seed)
        yield


def reseed(seed: int, number: int) -> None:
    """Within :func:`isolated`: the stream of the ``number``-th part of what a seed stands for."""
    # Seeds of consecutive runs and parts must not coincide: (0, 1) is not (1, 0).
    _seed_all((seed * 1_000_003 + number) % 2**63)


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # torch.manual_seed would also leave a seed behind for a CUDA that is not in use
        torch.cuda.manual_seed_all(seed)


@contextmanager
def validating(flag: bool) -> Iterator[None]:
    """Pyro's and torch's checks of arguments on or off; both as they were afterwards, also where they differed."""
    distributions = torch.distributions.Distribution
    before = distributions._validate_args
    try:
        with validation_enabled(flag):
            yield
    finally:
        distributions.set_default_validate_args(before)


def module_of(program: Callable[..., Any]) -> nn.Module | None:
    """The module that a program is, or is a method of; None for a plain function."""
    owner = program if isinstance(program, nn.Module) else getattr(program, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def state_of(*programs: Callable[..., Any]) -> list[Tensor]:
    """Parameters and buffers of the programs that are modules, each once."""
    modules = [m for m in map(module_of, programs) if m is not None]
    return list({id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}.values())


@contextmanager
def evaluating(*programs: Callable[..., Any]) -> Iterator[None]:
    """Modules among the programs in eval mode and without gradients; each back in its own mode afterwards."""
    owners = [m for m in map(module_of, programs) if m is not None]
    modes = [(module, module.training) for owner in owners for module in owner.modules()]
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
    tensors = (t for m in map(module_of, programs) if m is not None for t in m.parameters())
    first = next(tensors, None)
    return (None, None) if first is None else (first.device, first.dtype)
