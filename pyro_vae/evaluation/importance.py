"""The importance-sampling estimate of the marginal log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.precision import Precision
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.accuracy import accurate_log_likelihood
from pyro_vae.evaluation.accuracy_result import AccurateLogLikelihood
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.importance_sampling import importance_estimate
from pyro_vae.evaluation.likelihood import LogLikelihood
from pyro_vae.evaluation.sampler import Engine


@overload
def log_likelihood(
    model: Program,
    guide: Program | Sequence[Program],
    data: Data,
    *,
    num_samples: int = ...,
    batch_size: int = ...,
    chunk_size: int = ...,
    proposal: Literal["guide", "prior", "optimised"] | Program = ...,
    accuracy: None = ...,
    data_plate: str | None = ...,
    seed: int = ...,
    engine: Engine = ...,
    precision: Precision = ...,
    finished: FinishedBatches | None = ...,
    protocol: dict[str, Any] | None = ...,
    progress: bool = ...,
) -> LogLikelihood: ...


@overload
def log_likelihood(
    model: Program,
    guide: Program | Sequence[Program],
    data: Data,
    *,
    num_samples: int = ...,
    batch_size: int = ...,
    chunk_size: int = ...,
    proposal: Literal["guide", "prior", "optimised"] | Program = ...,
    accuracy: float,
    data_plate: str | None = ...,
    seed: int = ...,
    engine: Engine = ...,
    precision: Precision = ...,
    finished: FinishedBatches | None = ...,
    protocol: dict[str, Any] | None = ...,
    progress: bool = ...,
) -> AccurateLogLikelihood: ...


def log_likelihood(
    model: Program,
    guide: Program | Sequence[Program],
    data: Data,
    *,
    num_samples: int = 5000,
    batch_size: int = 20,
    chunk_size: int = 50,
    proposal: Literal["guide", "prior", "optimised"] | Program = "guide",
    accuracy: float | None = None,
    data_plate: str | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    precision: Precision = "fp32",
    finished: FinishedBatches | None = None,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> LogLikelihood | AccurateLogLikelihood:
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
        num_samples: number of samples of z per datum S; with ``accuracy``, the largest number.
        batch_size: data at a time.
        chunk_size: samples at a time; memory is proportional to ``batch_size * chunk_size``, and a product of about
            1,000 keeps MNIST-sized decodings in the processor's cache.
        proposal: ``"guide"``; ``"optimised"``, a normal fitted to the posterior of each datum, mixed with a wider one
            and the prior (:class:`~pyro_vae.evaluation.optimised.OptimisedSampler`), for continuous latents;
            ``"prior"`` for the naive estimator, a baseline that fails on all but tiny models; or a program, in place of
            the guide.
        accuracy: largest bias of the mean over the data, in nats: more samples, then other estimators are tried until
            diagnostics confirm it (:func:`~pyro_vae.evaluation.accurate_log_likelihood`). They choose the proposal.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of the samples; every batch has its own stream, by its number.
        engine: ``"eager"`` runs the programs for every chunk; ``"compiled"`` runs them once for each shape, and their
            compiled tensor operations from then on; ``"auto"`` compiles if there are enough chunks. All use the same
            random numbers.
        precision: ``"bf16"`` multiplies in bfloat16 in linear and convolutional layers; densities stay in float32.
        finished: folder of the batches that are finished, from which an interrupted call resumes.
        protocol: entries to add to the result's protocol, such as the data set's.
        progress: show a progress bar.

    Returns:
        The estimate per datum in nats, its standard error, effective sample size, Pareto k, and the ELBO with its rate
        and distortion from the same samples. With ``accuracy``: the estimate, and the diagnostics of its bias.

    Raises:
        ValueError: the programs have no weights per datum (see :func:`log_weights`), a size is not positive, or
            ``accuracy`` is combined with a proposal or a precision.

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
    check_arguments(log_likelihood, locals())
    options: dict[str, Any] = {"batch_size": batch_size, "chunk_size": chunk_size, "data_plate": data_plate}
    options |= {"seed": seed, "engine": engine, "protocol": protocol, "progress": progress}
    options["finished"] = finished
    if accuracy is None:
        options |= {"num_samples": num_samples, "proposal": proposal, "precision": precision}
        return importance_estimate(model, guide, data, **options)
    chosen = isinstance(proposal, str) and proposal == "guide" and precision == "fp32"
    rule, got = "accuracy must come without proposal and precision", f"proposal={proposal!r}, precision={precision!r}"
    require(chosen, "log_likelihood", rule, got, "Omit both, or accuracy")
    return accurate_log_likelihood(model, guide, data, accuracy=accuracy, max_samples=num_samples, **options)
