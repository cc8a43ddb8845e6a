"""Process-group helpers: rank, number of processes, this process's share, collectives."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")
_alone: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints messages."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether it is the only process."""
        return self.size == 1

    def share(self, length: int) -> range:
        """The rows of this process among ``length``; the shares differ by at most one row."""
        return range(length * self.rank // self.size, length * (self.rank + 1) // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if not self.alone:
            with _every_rank_alive():
                distributed.all_reduce(values)
        return values

    def any(self, flag: object) -> bool:
        """Whether the flag is true in any process."""
        return bool(flag) if self.alone else bool(self.sum(torch.tensor([float(bool(flag))], device=_device()))[0] > 0)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of the ranks."""
        values: list[Any] = [value] * self.size
        if not self.alone:
            with _every_rank_alive():
                distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """The value of the first process."""
        if self.alone:
            return value
        values = [value]
        with _every_rank_alive():
            distributed.broadcast_object_list(values, src=0)
        return values[0]


def join() -> Ranks:
    """Join the process group of ``torchrun`` at the first call, with NCCL if there are GPUs, and return this process.

    References:
        PyTorch distributed: experiences on accelerating data parallel training (Li et al., 2020).
        https://arxiv.org/abs/2006.15704
    """
    if _alone.get() or not distributed.is_available():
        return Ranks()
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
            return Ranks()
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def acting_alone() -> Iterator[None]:
    """Context of code that only one process runs, so that it must not wait for the others."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def local_rank() -> int:
    """Number of this process on its machine, and of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda", local_rank()) if distributed.get_backend() == "nccl" else torch.device("cpu")


@contextmanager
def _every_rank_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ConnectionError(
            f"ranks: every process must stay alive, lost one ({first}). Start all of them again with --resume."
        ) from error
