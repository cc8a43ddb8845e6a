"""The importance-sampling estimate of the marginal log-likelihood."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from pyro_vae._core.contexts import validating
from pyro_vae._core.owners import Owners
from pyro_vae._core.precision import NetworkPrecision, Precision
from pyro_vae._core.recording import Recorded, RecordingError
from pyro_vae._core.types import Program
from pyro_vae._core.ways import Runs
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.batched import BatchedEvaluation, check_sizes
from pyro_vae.evaluation.likelihood import LogLikelihood
from pyro_vae.evaluation.streaming import WeightSummary
from pyro_vae.evaluation.weights import ImportanceWeights, LogWeights, guides_of, prior_proposal

WORTH_COMPILING = 2_000
"""Chunks from which compiling, about ten seconds, pays."""


def log_likelihood(
    model: Program,
    guide: Program | Sequence[Program],
    data: Data,
    *,
    num_samples: int = 5000,
    batch_size: int = 20,
    chunk_size: int = 50,
    proposal: Literal["guide", "prior"] | Program = "guide",
    data_plate: str | None = None,
    seed: int = 0,
    engine: Literal["auto", "eager", "compiled"] = "auto",
    precision: Precision = "fp32",
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""Importance-weighted estimate of log p(x) per datum, :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s | x)`.

    Under ``torchrun`` the processes share the batches, and all of them return the whole result, to rounding the same
    for every number of processes.

    A lower bound in expectation. Works for any Pyro model and guide whose sites lie within one vectorised plate over
    the data; the draws of a datum run vectorised, flattened or looped, the first of these that agrees with draws one by
    one on the first batch, and the protocol has the entry ``way`` if it is not the first. The samples are streamed in
    chunks: memory does not grow with their number. Random numbers come from ``seed`` and leave the global generator as
    it was; modules are evaluated in ``eval`` mode and without gradients.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it, or any proposal, such as :func:`~pyro_vae.evaluation.inflated_proposal`; or several,
            whose mixture in equal parts is the proposal (multiple importance sampling).
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches, each a tensor or a tuple of
            arguments.
        num_samples: number of draws of z per datum S.
        batch_size: data at a time.
        chunk_size: draws at a time; memory is proportional to ``batch_size * chunk_size``, and a product of about 1,000
            keeps MNIST-sized decodings in the processor's cache.
        proposal: ``"guide"``; ``"prior"`` for the naive estimator, a baseline that fails on all but tiny models; or a
            program, in place of the guide.
        data_plate: name of the plate over the data, where it is not the only one that holds all sites.
        seed: of the draws; every batch has its own stream, by its number.
        engine: ``"eager"`` runs the programs for every chunk; ``"compiled"`` once for a shape, and their compiled
            tensor operations from then on; ``"auto"`` compiles where there are enough chunks. All draw the same random
            numbers.
        precision: ``"bf16"`` multiplies in bfloat16 in linear and convolutional layers; densities stay in float32.
        protocol: entries to keep with the result, such as the data set's.
        progress: show a progress bar.

    Returns:
        The estimate per datum in nats, its standard error, effective sample size, Pareto k, and the ELBO with its rate
        and distortion from the same draws.

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
    check_sizes("log_likelihood", num_samples=num_samples, batch_size=batch_size, chunk_size=chunk_size)
    proposals = _proposals(model, guide, proposal)
    unit = "draws" if progress else None
    programs = (model, *proposals)
    batches = BatchedEvaluation(
        "log_likelihood", programs, data, batch_size, seed=seed, progress=unit, amount=num_samples
    )
    chunks = batches.share() * -(-num_samples // chunk_size)
    compiled = compiles("log_likelihood", engine, chunks)
    sampler = WeightSampler("log_likelihood", model, proposals, data_plate, batches.owners, compiled=compiled)
    own = {"estimator": "importance", "num_samples": num_samples, "proposal": _name(proposal, proposals)}
    own |= {"sample_seed": seed}

    def summarise(args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
        own.update(sampler.check(args, num_samples))
        summary = WeightSummary(num_samples)
        for start in range(0, num_samples, chunk_size):
            count = min(chunk_size, num_samples - start)
            summary.add(sampler(count, args))
            advance(count)
        return summary.result()

    with NetworkPrecision(precision):
        tensors = batches.run(summarise)
    own = batches.ranks.from_first(own)
    own |= {"num_data": len(tensors["log_likelihood"]), "precision": precision}
    return LogLikelihood(**tensors, protocol={**(protocol or {}), **own})


class WeightSampler:
    """Draws the log-weights of one batch after the other, their programs recorded if that is asked for.

    Args:
        owner: name to begin messages with.
        model: Pyro model.
        guides: Pyro guides or other proposals.
        data_plate: name of the plate over the data, if it is not the only one.
        owners: of the programs.
        compiled: whether to record and compile the programs; if that fails they run eagerly, after one warning.
    """

    def __init__(
        self,
        owner: str,
        model: Program,
        guides: Sequence[Program],
        data_plate: str | None,
        owners: Owners,
        *,
        compiled: bool,
    ) -> None:
        self.owner, self.model, self.guides, self.data_plate, self.owners = owner, model, guides, data_plate, owners
        self._compiled = compiled
        self._recorded: Recorded | None = None
        self._ways: dict[Any, Runs] = {}

    def check(self, args: tuple[Any, ...], num_samples: int) -> dict[str, Any]:
        """Examine the programs on the batch, in full and once; the draws are not checked any more.

        Returns:
            What the protocol says of the data and of the way in which the programs run.
        """
        with validating(True):
            how = {"owner": self.owner, "owners": self.owners, "ways": self._ways, "data_plate": self.data_plate}
            self.weigher = ImportanceWeights(self.model, self.guides, args, **how)  # type: ignore[arg-type]
        self.weigher.check_repeatable(args)
        self.weigher.check_coverage()
        if self._compiled and self._recorded is None:
            self._recorded = Recorded(self._draw, self.owners.tensors())
        return self.weigher.protocol(num_samples)

    def __call__(self, num_samples: int, args: tuple[Any, ...]) -> LogWeights:
        """``(num_samples, batch)`` log-weights of the batch that was checked last."""
        return self.weigher.in_order(self._in_plate_order(num_samples, args))

    def _in_plate_order(self, num_samples: int, args: tuple[Any, ...]) -> LogWeights:
        self.weigher.runs(num_samples)  # not within a recording
        if self._recorded:
            try:
                return self._recorded(num_samples, *args)
            except RecordingError as cause:
                self._compiled, self._recorded = False, None
                warnings.warn(f"{self.owner}: runs eagerly, the programs cannot be recorded: {cause}.", stacklevel=3)
        return self._draw(num_samples, *args)

    def _draw(self, num_samples: int, *args: Any) -> LogWeights:
        return self.weigher.draw(num_samples, *args)


def compiles(owner: str, engine: str, chunks: int) -> bool:
    """Whether an engine compiles for so many chunks.

    Raises:
        ValueError: no such engine.
    """
    if engine not in ("auto", "eager", "compiled"):
        raise ValueError(f"{owner}: engine must be auto, eager or compiled, got engine={engine!r}. Use 'auto'.")
    return engine == "compiled" or (engine == "auto" and chunks >= WORTH_COMPILING)


def _proposals(model: Program, guide: Any, proposal: Any) -> tuple[Program, ...]:
    if not isinstance(proposal, str):
        if callable(proposal):
            return (proposal,)
    elif proposal in ("guide", "prior"):
        return (prior_proposal(model),) if proposal == "prior" else guides_of(guide)
    rule = "proposal must be 'guide', 'prior' or a program"
    raise ValueError(f"log_likelihood: {rule}, got {_short(proposal)}. Use 'guide'.")


def _short(proposal: Any) -> str:
    return f"proposal={proposal!r}" if isinstance(proposal, str | None) else f"a {type(proposal).__name__}"


def _name(proposal: Any, guides: Sequence[Program]) -> str:
    if proposal == "prior":
        return "prior"
    names = [getattr(guide, "proposal_name", "guide") for guide in guides]
    return names[0] if len(names) == 1 else f"mixture of {len(names)}: {', '.join(names)}"
