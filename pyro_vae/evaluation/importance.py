"""The importance-sampling estimate of the marginal log-likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from pyro_vae._core.checks import check_count, refusal
from pyro_vae._core.precision import NetworkPrecision, Precision
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.likelihood import LogLikelihood
from pyro_vae.evaluation.optimised import OptimisedSampler
from pyro_vae.evaluation.proposals import guides_of, prior_proposal
from pyro_vae.evaluation.sampler import Engine, WeightSampler, use_compiled
from pyro_vae.evaluation.streaming import WeightSummary


def log_likelihood(
    model: Program,
    guide: Program | Sequence[Program],
    data: Data,
    *,
    num_samples: int = 5000,
    batch_size: int = 20,
    chunk_size: int = 50,
    proposal: Literal["guide", "prior", "optimised"] | Program = "guide",
    data_plate: str | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    precision: Precision = "fp32",
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""Importance-weighted estimate of log p(x) per datum, :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s | x)`.

    A lower bound in expectation. Works for any Pyro model and guide whose sites lie within one vectorised plate over
    the data. The samples of a datum run vectorised, flattened or looped: in the first of these modes that agrees with
    separate runs on the first batch. The protocol records a mode other than vectorised as ``way``. The samples are
    streamed in chunks, so memory does not grow with their number. Random numbers come from ``seed`` and the global
    generator is restored; modules are evaluated in ``eval`` mode and without gradients. Under ``torchrun`` the
    processes share the batches, and all of them return the whole result, which does not depend on the number of
    processes except by rounding.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it, or any proposal, such as :class:`~pyro_vae.evaluation.InflatedProposal`; or
            several, whose equal mixture is the proposal (multiple importance sampling).
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches, each a tensor or a tuple of
            arguments.
        num_samples: number of samples of z per datum S.
        batch_size: data at a time.
        chunk_size: samples at a time; memory is proportional to ``batch_size * chunk_size``, and a product of about
            1,000 keeps MNIST-sized decodings in the processor's cache.
        proposal: ``"guide"``; ``"optimised"``, a normal fitted to the posterior of each datum, mixed with a wider one
            and the prior (:class:`~pyro_vae.evaluation.optimised.OptimisedSampler`), for continuous latents;
            ``"prior"`` for the naive estimator, a baseline that fails on all but tiny models; or a program, in place of
            the guide.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of the samples; every batch has its own stream, by its number.
        engine: ``"eager"`` runs the programs for every chunk; ``"compiled"`` runs them once for each shape, and their
            compiled tensor operations from then on; ``"auto"`` compiles if there are enough chunks. All use the same
            random numbers.
        precision: ``"bf16"`` multiplies in bfloat16 in linear and convolutional layers; densities stay in float32.
        protocol: entries to add to the result's protocol, such as the data set's.
        progress: show a progress bar.

    Returns:
        The estimate per datum in nats, its standard error, effective sample size, Pareto k, and the ELBO with its rate
        and distortion from the same samples.

    Raises:
        ValueError: the programs have no weights per datum (see :func:`log_weights`), or a size is not positive.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), section 5. https://arxiv.org/abs/1509.00519

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = log_likelihood(vae.model, vae.guide, torch.ones(7, 5), num_samples=100)
        >>> result.log_likelihood.shape, bool((result.log_likelihood >= result.elbo).all())
        (torch.Size([7]), True)
    """
    check_count("log_likelihood", num_samples=num_samples, batch_size=batch_size, chunk_size=chunk_size)
    proposals = _proposals(model, guide, proposal)
    unit = "samples" if progress else None
    programs = (model, *proposals)
    batches = BatchedEvaluation(
        "log_likelihood", programs, data, batch_size, seed=seed, progress=unit, amount=num_samples
    )
    chunks = batches.share() * -(-num_samples // chunk_size)
    compiled = use_compiled("log_likelihood", engine, chunks)
    kind = OptimisedSampler if proposal == "optimised" else WeightSampler
    sampler = kind("log_likelihood", model, proposals, data_plate, batches.owners, compiled=compiled)
    entries = {"estimator": "importance", "num_samples": num_samples, "proposal": _name(proposal, proposals)}
    entries |= {"sample_seed": seed}

    def summarise(args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
        entries.update(sampler.check(args, num_samples))
        summary = WeightSummary(num_samples)
        for start in range(0, num_samples, chunk_size):
            count = min(chunk_size, num_samples - start)
            summary.add(sampler(count, args))
            advance(count)
        return summary.result()

    with NetworkPrecision(precision):
        tensors = batches.run(summarise)
    entries = batches.ranks.from_first(entries)
    entries |= {"num_data": len(tensors["log_likelihood"]), "precision": precision}
    return LogLikelihood(**tensors, protocol={**(protocol or {}), **entries})


def _proposals(model: Program, guide: Any, proposal: Any) -> tuple[Program, ...]:
    if not isinstance(proposal, str):
        if callable(proposal):
            return (proposal,)
    elif proposal in ("guide", "prior", "optimised"):
        return (prior_proposal(model),) if proposal == "prior" else guides_of(guide)
    got = f"proposal={proposal!r}" if isinstance(proposal, str | None) else f"a {type(proposal).__name__}"
    raise refusal("log_likelihood", "proposal must be 'guide', 'prior', 'optimised' or a program", got)


def _name(proposal: Any, guides: Sequence[Program]) -> str:
    if isinstance(proposal, str) and proposal != "guide":
        return proposal
    names = [getattr(guide, "proposal_name", "guide") for guide in guides]
    return names[0] if len(names) == 1 else f"mixture of {len(names)}: {', '.join(names)}"
