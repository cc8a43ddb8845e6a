"""The entries of the table: a Pyro model and guide with their batches and the objective that trains them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO

Program = Callable[..., Any]
Batch = tuple[Any, ...]


def _length_of_the_first(*args: Any) -> int:
    return len(args[0])


@dataclass(frozen=True)
class Built:
    """A new model and guide, with batches and objective for training.

    Attributes:
        model: Pyro model.
        guide: Pyro guide.
        args: the first batch; both programs are called with it.
        objective: builds the objective of the published training.
        batches: two batches; the second has another length, most of the time, or other arguments such as labels.
        global_latents: whether a latent site is shared by all data, so that there are no weights per datum.
        notes: unusual properties of the programs.
        num_data: number of data of a batch; for most programs the length of its first argument.
        idle: suffixes of the names of the parameters that have no gradient on the first batch.
    """

    model: Program
    guide: Program
    args: Batch
    objective: Callable[[], ELBO]
    batches: list[Batch]
    global_latents: bool = False
    notes: str = ""
    num_data: Callable[..., int] = _length_of_the_first
    idle: tuple[str, ...] = ()


def built(
    model: Program, guide: Program, *batches: Batch, objective: Callable[[], ELBO] = Trace_ELBO, **rest: Any
) -> Built:
    """A pair whose ``args`` are its first batch."""
    return Built(model, guide, batches[0], objective, list(batches), **rest)


@dataclass(frozen=True)
class PyroPair:
    """A kind of published program.

    Attributes:
        name: name of the kind.
        build: returns a new pair with the same initial parameters and data at every call.
    """

    name: str
    build: Callable[[], Built]

    def __repr__(self) -> str:
        return self.name


def pair(make: Callable[[], Built]) -> PyroPair:
    """An entry of the table, with the function's name; the function is seeded."""

    def build() -> Built:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make()

    return PyroPair(make.__name__, build)
