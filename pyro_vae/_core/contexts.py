"""Contexts that save and restore process state: random numbers, validation, the parameter store, signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from pyro import validation_enabled

from pyro_vae._core.interrupts import interruption
from pyro_vae._core.param_store import no_registration


@contextmanager
def isolated_rng(seed: int | None = None, *, validate: bool = False) -> Iterator[None]:
    """Context with its own random numbers, without registration of modules in the parameter store.

    Args:
        seed: seed of every generator; None continues from their current state.
        validate: whether Pyro checks arguments and shapes.

    Generators, validation and registration are restored afterwards.
    """
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(cuda), validating(validate), no_registration():
        if seed is not None:
            _seed_all(seed)
        yield


def reseed(seed: int, number: int) -> None:
    """Seed the generators for the ``number``-th part of a computation, within :func:`isolated_rng`."""
    # (seed, number) = (0, 1) and (1, 0) must give different streams
    _seed_all((int(seed) * 1_000_003 + number) % 2**63)


def _seed_all(seed: int) -> None:
    seed = int(seed)  # a NumPy integer, say
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # torch.manual_seed would also store a seed for uninitialised CUDA
        torch.cuda.manual_seed_all(seed)


_tracing: ContextVar[bool] = ContextVar("tracing", default=False)
_exact: ContextVar[bool] = ContextVar("exact", default=False)


def is_tracing() -> bool:
    """Whether a program is being recorded, so that values of tensors cannot be read."""
    return _tracing.get()


@contextmanager
def tracing() -> Iterator[None]:
    """Mark the enclosed code as recorded."""
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


@contextmanager
def validating(flag: bool) -> Iterator[None]:
    """Switch Pyro's and torch's validation on or off, and restore each, even if they differed."""
    distributions = torch.distributions.Distribution
    before = distributions._validate_args
    try:
        with validation_enabled(flag):
            yield
    finally:
        distributions.set_default_validate_args(before)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Context with another default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def is_exact() -> bool:
    """Whether networks must multiply in full precision, despite the precision in the settings."""
    return _exact.get()


@contextmanager
def exactly() -> Iterator[None]:
    """Switch reduced precision of networks off, whose rounding would hide whether two computations agree."""
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


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM, so that training stops between two steps; a second one stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if received:
            raise interruption(number)
        received.append(number)

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def rng_state() -> dict[str, Any]:
    """State of torch's default generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore a state of :func:`rng_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
