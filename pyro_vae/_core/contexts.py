"""Running programs so that nothing outside notices: random numbers, validation, modes, the parameter store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from pyro import validation_enabled

from pyro_vae._core.param_store import no_registration


@contextmanager
def isolated_rng(seed: int | None = None, *, validate: bool = False) -> Iterator[None]:
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
    """Within :func:`isolated_rng`: the stream of the ``number``-th part of what a seed stands for."""
    # Seeds of consecutive runs and parts must not coincide: (0, 1) is not (1, 0).
    _seed_all((seed * 1_000_003 + number) % 2**63)


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # torch.manual_seed would also leave a seed behind for a CUDA that is not in use
        torch.cuda.manual_seed_all(seed)


_tracing: ContextVar[bool] = ContextVar("tracing", default=False)
_exact: ContextVar[bool] = ContextVar("exact", default=False)


def is_tracing() -> bool:
    """Whether tensors are being recorded, so that their values cannot be looked at."""
    return _tracing.get()


@contextmanager
def tracing() -> Iterator[None]:
    """Mark what runs within as recorded."""
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


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


def is_exact() -> bool:
    """Whether networks must multiply in full precision, whatever was asked for."""
    return _exact.get()


@contextmanager
def exactly() -> Iterator[None]:
    """Without reduced precision of networks, whose rounding would hide whether two computations agree."""
    token = _exact.set(True)
    try:
        if torch.cuda.is_initialized():
            cudnn = torch.backends.cudnn
            with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
                yield
        else:
            yield
    finally:
        _exact.reset(token)
