"""The candidates of the comparison, and the check that all of them perform the same training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import pyro
import torch
from baselines import by_hand, svi
from numpyro_baseline import numpyro_candidate
from our_engines import engine_candidate
from programs import Pair
from timing import Candidate, log
from torch import Tensor

Factory = Callable[[str, Pair, Tensor], "Candidate | None"]
REFERENCE = "Pyro SVI.step"


def _svi(name: str, pair: Pair, pool: Tensor, *, validate: bool) -> Candidate:
    return svi(name, pair, pool, pair.pyro_loss, validate=validate)


def _jit(name: str, pair: Pair, pool: Tensor) -> Candidate:
    return svi(name, pair, pool, pair.jit_loss, validate=True)


CANDIDATES: dict[str, Factory] = {
    REFERENCE: partial(_svi, validate=True),
    "Pyro SVI.step, no validation": partial(_svi, validate=False),
    "Pyro JitTrace_ELBO": _jit,
    "torch eager": by_hand,
    "torch compiled": partial(by_hand, compile=torch.compile),
    "NumPyro update": partial(numpyro_candidate, loop=False),
    "NumPyro jitted loop": partial(numpyro_candidate, loop=True),
    "pyro_vae eager": partial(engine_candidate, engine="eager"),
    "pyro_vae compiled": partial(engine_candidate, engine="compiled"),
}
IN_BFLOAT16: dict[str, Factory] = {
    "pyro_vae eager, bf16": partial(engine_candidate, engine="eager", precision="bf16"),
    "pyro_vae compiled, bf16": partial(engine_candidate, engine="compiled", precision="bf16"),
}
ON_GPU: dict[str, Factory] = {
    "torch compiled, CUDA graphs": partial(by_hand, compile=partial(torch.compile, mode="reduce-overhead")),
    "pyro_vae cuda-graph": partial(engine_candidate, engine="cuda-graph"),
}


def build(names: Sequence[str], pair: Pair, pool: Tensor) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates that support the program, ready to run, and for each of the others the reason why not."""
    built, missing = [], {}
    for name in names:
        try:
            candidate = {**CANDIDATES, **IN_BFLOAT16, **ON_GPU}[name](name, pair, pool)
            if candidate is None:
                missing[name] = "not implemented"
            else:
                candidate.reset()
                candidate.run(range(candidate.stride))
                built.append(candidate)
        except Exception as error:  # the other candidates are still measured
            missing[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            log(f"{pair.name}: {name} fails: {missing[name]}")
    return built, missing


def check(candidates: Sequence[Candidate], batch: int, *, steps: int = 3, draws: int = 16) -> None:
    """Raise unless all candidates compute the same losses.

    Candidates with Pyro's random numbers: over the first steps, at equal seeds, to their tolerance. The others: the
    mean of the first step's loss over many seeds, to 4.5 standard errors.
    """
    if not candidates:
        return
    reference, *others = sorted(candidates, key=lambda c: not c.seeded)
    sample = first_losses(reference, draws, batch)
    expected = losses(reference, steps, batch) if reference.seeded else sample
    for candidate in others:
        if candidate.seeded:
            measured = losses(candidate, steps, batch)
            same = all(abs(a - b) <= candidate.tolerance * abs(b) for a, b in zip(measured, expected, strict=True))
        else:
            other = first_losses(candidate, draws, batch)
            measured, expected_mean = [statistics.mean(other)], statistics.mean(sample)
            error = ((statistics.variance(other) + statistics.variance(sample)) / draws) ** 0.5
            same = abs(measured[0] - expected_mean) <= 4.5 * error + 1e-5 * abs(expected_mean)
        if not same:
            raise AssertionError(f"{candidate.name}: losses {measured}, but {reference.name} has {expected}")


def losses(candidate: Candidate, steps: int, batch: int) -> list[float]:
    """Losses per datum of the first steps after a reset, at a fixed seed."""
    pyro.set_rng_seed(0)
    candidate.reset()
    return [float(loss) / batch for loss in candidate.run(range(steps))]


def first_losses(candidate: Candidate, draws: int, batch: int) -> list[float]:
    values = []
    for seed in range(draws):
        pyro.set_rng_seed(seed)
        candidate.reset()
        values.append(float(candidate.run(range(candidate.stride))[0]) / batch)
    return values
