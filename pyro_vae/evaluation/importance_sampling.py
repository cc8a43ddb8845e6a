"""The streamed importance estimate, for any kind of proposal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, refusal
from pyro_vae._core.owners import Owners
from pyro_vae._core.precision import NetworkPrecision, Precision, warn_if_slower
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.likelihood import LogLikelihood
from pyro_vae.evaluation.optimised import OptimisedSampler
from pyro_vae.evaluation.proposals import guides_of, prior_proposal
from pyro_vae.evaluation.sampler import Engine, WeightSampler
from pyro_vae.evaluation.streaming import WeightSummary

PROPOSALS = ("guide", "optimised", "prior")
"""Proposals that have a name."""


def importance_estimate(
    model: Program,
    guide: Program | Sequence[Program],
    data: Data,
    *,
    num_samples: int,
    batch_size: int,
    chunk_size: int,
    proposal: Any,
    data_plate: str | None,
    seed: int,
    engine: Engine,
    precision: Precision,
    finished: FinishedBatches | None,
    protocol: dict[str, Any] | None,
    progress: bool,
) -> LogLikelihood:
    """The importance estimate with a given number of samples; see :func:`pyro_vae.log_likelihood`.

    Args:
        model: Pyro model.
        guide: Pyro guide or guides.
        data: the data.
        num_samples: samples per datum.
        batch_size: data at a time.
        chunk_size: samples at a time.
        proposal: one of :data:`PROPOSALS`, or a program.
        data_plate: name of the plate over the data.
        seed: of the samples.
        engine: execution of the programs.
        precision: of the networks' products.
        finished: folder of the batches that are finished.
        protocol: entries to add to the result's protocol.
        progress: show a progress bar.

    Raises:
        ValueError: as :func:`pyro_vae.log_likelihood`.
    """
    options = dict(locals())
    check_count("log_likelihood", num_samples=num_samples, batch_size=batch_size, chunk_size=chunk_size)
    proposals = importance_proposals("log_likelihood", model, guide, proposal)
    programs = (model, *proposals)
    batches = BatchedEvaluation("log_likelihood", programs, options, unit="samples", amount=num_samples)
    chunks = batches.share() * -(-num_samples // chunk_size)
    work: Any = {"engine": engine, "num_calls": chunks, "chunk_size": chunk_size}
    sampler = sampler_of(proposal, "log_likelihood", model, proposals, data_plate, batches.owners, **work)
    entries: dict[str, Any] = {
        "estimator": "importance",
        "num_samples": num_samples,
        "proposal": _name(proposal, proposals),
    }
    entries |= {"sample_seed": seed}

    def summarise(args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
        entries.update(sampler.check(args, num_samples))
        total = entries["num_samples"]
        summary = WeightSummary(total)
        for start in range(0, total, chunk_size):
            count = min(chunk_size, total - start)
            summary.add(sampler(count, args))
            advance(count)
        result = summary.result()
        exact = entries["estimator"] == "exact"
        return result | ({"standard_error": torch.zeros_like(result["standard_error"])} if exact else {})

    warn_if_slower("log_likelihood", precision, batches.batches.device)
    with NetworkPrecision(precision):
        tensors = batches.run(summarise, entries)
    entries = batches.ranks.from_first(entries)
    entries |= {"num_data": len(tensors["log_likelihood"]), "precision": precision}
    return LogLikelihood(**tensors, protocol={**(protocol or {}), **entries})


def importance_proposals(owner: str, model: Program, guide: Any, proposal: Any) -> tuple[Program, ...]:
    """The programs that sample the latents; for ``"optimised"`` those that its optimisation starts from.

    Raises:
        ValueError: the proposal is neither one of :data:`PROPOSALS` nor a program.
    """
    if not isinstance(proposal, str):
        if callable(proposal):
            return (proposal,)
    elif proposal in PROPOSALS:
        return (prior_proposal(model),) if proposal == "prior" else guides_of(guide)
    got = f"proposal={proposal!r}" if isinstance(proposal, str | None) else f"a {type(proposal).__name__}"
    raise refusal(owner, "proposal must be 'guide', 'optimised', 'prior' or a program", got)


def sampler_of(
    proposal: Any,
    owner: str,
    model: Program,
    guides: Sequence[Program],
    data_plate: str | None,
    owners: Owners,
    **work: Any,
) -> WeightSampler | OptimisedSampler:
    """The sampler of log-weights under a proposal; ``work`` are its keyword arguments."""
    kind = OptimisedSampler if isinstance(proposal, str) and proposal == "optimised" else WeightSampler
    return kind(owner, model, guides, data_plate, owners, **work)


def _name(proposal: Any, guides: Sequence[Program]) -> str:
    if isinstance(proposal, str) and proposal != "guide":
        return proposal
    names = [getattr(guide, "proposal_name", "guide") for guide in guides]
    return names[0] if len(names) == 1 else f"mixture of {len(names)}: {', '.join(names)}"
