"""The importance-sampling estimate of the marginal log-likelihood."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation.log_weights import Program, Weigher, prior_proposal
from pyro_vae.evaluation.result import LogLikelihood
from pyro_vae.evaluation.streaming import WeightSummary
from pyro_vae.isolation import evaluating, isolated, placement, validating


def log_likelihood(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 5000,
    batch_size: int = 20,
    chunk_size: int = 50,
    proposal: Literal["guide", "prior"] = "guide",
    data_plate: str | None = None,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""Importance-weighted estimate of log p(x) per datum, :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s | x)`.

    A lower bound in expectation. Works for any Pyro model and guide whose sites lie within one vectorised plate over
    the data. The samples are streamed in chunks: memory does not grow with their number. Random numbers come from
    ``seed`` and leave the global generator as it was; modules are evaluated in ``eval`` mode and without gradients.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches, each a tensor or a tuple of
            arguments.
        num_samples: number of draws of z per datum S.
        batch_size: data at a time.
        chunk_size: draws at a time; memory is proportional to ``batch_size * chunk_size``, and a product of about 1,000
            keeps MNIST-sized decodings in the processor's cache.
        proposal: ``"guide"``; or ``"prior"`` for the naive estimator, a baseline that fails on all but tiny models.
        data_plate: name of the plate over the data, where it is not the only one that holds all sites.
        seed: of the draws.
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
    _check_sizes(num_samples=num_samples, batch_size=batch_size, chunk_size=chunk_size)
    propose = prior_proposal(model) if proposal == "prior" else guide
    device, precision = placement(model, guide)
    batches = Batches(data, batch_size, device=device, dtype=precision)
    parts, own = [], {"estimator": "importance", "num_samples": num_samples, "proposal": proposal, "sample_seed": seed}
    bar = tqdm(disable=not progress, unit=" data", total=batches.num_data)
    with bar, evaluating(model, guide), isolated(seed):
        for batch in batches.epoch():
            args = batch.args
            with validating(True):  # one draw of every batch is checked in full, the rest not
                weigher = Weigher(model, propose, args, data_plate=data_plate)
            parts.append(_summary(weigher, num_samples, chunk_size))
            own |= {"dtype": str(args[0].dtype).removeprefix("torch."), "dimensions": math.prod(args[0].shape[1:])}
            own["discrete"] = weigher.discrete
            bar.update(len(args[0]))
    if not parts:
        raise ValueError("log_likelihood: data must not be empty, got no batch. Pass at least one datum.")
    tensors = {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}
    own["num_data"] = len(tensors["log_likelihood"])
    return LogLikelihood(**tensors, protocol={**(protocol or {}), **own})


def _summary(weigher: Weigher, num_samples: int, chunk_size: int) -> dict[str, Tensor]:
    summary = WeightSummary(num_samples)
    for start in range(0, num_samples, chunk_size):
        summary.add(weigher(min(chunk_size, num_samples - start)))
    return summary.result()


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"log_likelihood: {name} must be at least 1, got {name}={size}. Use a positive number.")
