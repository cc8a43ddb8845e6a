"""The importance-sampling estimate of the marginal log-likelihood."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from pyro_vae.data.batches import Data
from pyro_vae.evaluation.joint import Program
from pyro_vae.evaluation.likelihood import LogLikelihood
from pyro_vae.evaluation.log_weights import LogWeights, Weigher, guides_of, prior_proposal
from pyro_vae.evaluation.per_batch import PerBatch, check_sizes
from pyro_vae.evaluation.streaming import WeightSummary
from pyro_vae.isolation import state_of, validating
from pyro_vae.precision import NetworkPrecision, Precision
from pyro_vae.recording import Recorded, RecordingError

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
    proposal: Literal["guide", "prior"] = "guide",
    data_plate: str | None = None,
    seed: int = 0,
    engine: Literal["auto", "eager", "compiled"] = "auto",
    precision: Precision = "fp32",
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""Importance-weighted estimate of log p(x) per datum, :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s | x)`.

    Under ``torchrun`` the processes share the batches, and all of them return the whole result, the same for every
    number of processes.

    A lower bound in expectation. Works for any Pyro model and guide whose sites lie within one vectorised plate over
    the data. The samples are streamed in chunks: memory does not grow with their number. Random numbers come from
    ``seed`` and leave the global generator as it was; modules are evaluated in ``eval`` mode and without gradients.

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
        proposal: ``"guide"``; or ``"prior"`` for the naive estimator, a baseline that fails on all but tiny models.
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
        >>> from pyro_vae import VAE, BernoulliLikelihood, DiagonalNormalGuide, StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = log_likelihood(vae.model, vae.guide, torch.ones(7, 5), num_samples=100)
        >>> result.log_likelihood.shape, bool((result.log_likelihood >= result.elbo).all())
        (torch.Size([7]), True)
    """
    check_sizes("log_likelihood", num_samples=num_samples, batch_size=batch_size, chunk_size=chunk_size)
    proposals = (prior_proposal(model),) if proposal == "prior" else guides_of(guide)
    unit = "draws" if progress else None
    programs = (model, *proposals)
    batches = PerBatch("log_likelihood", programs, data, batch_size, seed=seed, progress=unit, amount=num_samples)
    chunks = batches.share() * -(-num_samples // chunk_size)
    sampler = Sampler(model, proposals, data_plate, compiled=_compiles(engine, chunks))
    own = {"estimator": "importance", "num_samples": num_samples, "proposal": _name(proposal, proposals)}
    own |= {"sample_seed": seed}

    def summarise(args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
        sampler.check(args)
        own.update(kind_of(args[0], discrete=sampler.discrete))
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


class Sampler:
    """Draws the log-weights of one batch after the other, their programs recorded where that is asked for.

    Args:
        model: Pyro model.
        guides: Pyro guides or other proposals.
        data_plate: name of the plate over the data, where it is not the only one.
        compiled: whether to record and compile the programs; where that fails they run eagerly, after one warning.
    """

    def __init__(self, model: Program, guides: Sequence[Program], data_plate: str | None, *, compiled: bool) -> None:
        self.model, self.guides, self.data_plate = model, guides, data_plate
        self._recorded = Recorded(self._draw, state_of(model, *guides)) if compiled else None

    def check(self, args: tuple[Any, ...]) -> None:
        """Examine the programs on the batch, in full and once; the draws are not checked any more."""
        with validating(True):
            self._weigher = Weigher(self.model, self.guides, args, data_plate=self.data_plate)
        self._weigher.check_repeatable("log_likelihood", args)
        self.discrete = self._weigher.discrete

    def __call__(self, num_samples: int, args: tuple[Any, ...]) -> LogWeights:
        """``(num_samples, batch)`` log-weights of the batch that was checked last."""
        if self._recorded:
            try:
                return self._recorded(num_samples, *args)
            except RecordingError as cause:
                self._recorded = None
                warnings.warn(f"log_likelihood: runs eagerly, the programs cannot be recorded: {cause}.", stacklevel=2)
        return self._draw(num_samples, *args)

    def _draw(self, num_samples: int, *args: Any) -> LogWeights:
        return self._weigher.draw(num_samples, *args)


def _compiles(engine: str, chunks: int) -> bool:
    if engine not in ("auto", "eager", "compiled"):
        raise ValueError(f"log_likelihood: engine must be auto, eager or compiled, got engine={engine!r}. Use 'auto'.")
    return engine == "compiled" or (engine == "auto" and chunks >= WORTH_COMPILING)


def kind_of(data: Tensor, *, discrete: bool) -> dict[str, Any]:
    """What a protocol says of the data: dtype, entries of a datum, probability or density.

    Raises:
        ValueError: they are no tensor.
    """
    if not isinstance(data, Tensor):
        raise ValueError(
            f"evaluation: the first argument of a batch must be a tensor, the data, got a {type(data).__name__}. "
            "Pass the data first."
        )
    dtype = str(data.dtype).removeprefix("torch.")
    return {"dtype": dtype, "dimensions": math.prod(data.shape[1:]), "discrete": discrete}


def _name(proposal: str, guides: Sequence[Program]) -> str:
    if proposal == "prior":
        return proposal
    names = [getattr(guide, "proposal_name", "guide") for guide in guides]
    return names[0] if len(names) == 1 else f"mixture of {len(names)}: {', '.join(names)}"
