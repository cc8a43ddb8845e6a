"""Training with the engines of ``pyro_vae``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from baselines import LR, restarter, wait
from programs import Pair
from timing import Candidate
from torch import Tensor

from pyro_vae._core.contexts import isolated_rng
from pyro_vae.data.batches import Batches
from pyro_vae.training import Step, build_engine


def engine_candidate(name: str, pair: Pair, pool: Tensor, *, engine: Any, precision: Any = "fp32") -> Candidate:
    """A candidate of the engine of that name, with a note if it fell back to the eager one."""
    pair = copy.deepcopy(pair)
    parameters = pair.parameters()
    optimizer = torch.optim.Adam(parameters, lr=LR, fused=True)
    with isolated_rng():
        programs = pair.objective(), pair.model, pair.guide
        built = build_engine(engine, *programs, optimizer, parameters, args=(pool[0],), precision=precision)
    built.check = False  # as in fit after the first epoch
    take = grouped(built, pool) if built.stride > 1 else one_by_one(built, pool)

    def run(steps: range) -> list[Tensor]:
        with isolated_rng():  # as in fit
            losses = take(steps)
        wait(pool.device)
        return losses

    note = "" if built.name == engine else f"fell back to {built.name}"
    reset = restarter(parameters, lambda: [optimizer])
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    seeded = built.name != "cuda-graph"
    return Candidate(name, run, reset, stride=built.stride, seeded=seeded, note=note, tolerance=tolerance)


def one_by_one(engine: Any, pool: Tensor) -> Callable[[range], list[Tensor]]:
    batches = pool.unbind()
    return lambda steps: [engine.step((batches[i % len(batches)],)).loss for i in steps]


def grouped(engine: Any, pool: Tensor) -> Callable[[range], list[Tensor]]:
    """Run the steps in groups of the engine's stride; the engine fetches the batches from the pool."""
    epoch = [Step([batch]) for batch in Batches(pool.flatten(0, 1), pool.shape[1]).epoch()]

    def take(steps: range) -> list[Tensor]:
        selected = [epoch[i % len(epoch)] for i in steps]
        groups = (selected[i : i + engine.stride] for i in range(0, len(selected), engine.stride))
        return [result.loss for group in groups for result in engine.run(group)]

    return take
