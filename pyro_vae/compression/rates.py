"""Rate and squared error of a model's reconstructions, with the length of a real file if the model has a code."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.owners import evaluating
from pyro_vae.compression.lossy import decode_lossy, encode_lossy, is_coder, reconstructions
from pyro_vae.data import ImageSet
from pyro_vae.evaluation.lossy_code import LossyCode
from pyro_vae.models import VAE

_BATCH = 500


def rate_distortion(
    vae: VAE,
    data: ImageSet | Tensor,
    *,
    chunk_size: int = 2500,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
) -> LossyCode:
    """Compress data to a file, decode it, and measure its length and the squared error; of a VAE, rate and error.

    Args:
        vae: the model: with a :class:`~pyro_vae.guides.QuantizedGuide` and a
            :class:`~pyro_vae.priors.FactorizedPrior` or :class:`~pyro_vae.priors.HyperPrior` its file is measured, for
            any other one sample of z per datum.
        data: an ``ImageSet`` or a tensor ``(N, *data_shape)``, at least one datum.
        chunk_size: data per chunk of the file.
        seed: of random binarization and of the samples of a VAE; the global generator is restored.
        protocol: entries to add to the result's protocol.

    Returns:
        Rates and errors per datum.

    Raises:
        ValueError: there are no data, entries are missing, or the guide has no density.

    References:
        End-to-end optimized image compression (Balle, Laparra and Simoncelli, 2017). https://arxiv.org/abs/1611.01704

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import QuantizedGuide
        >>> from pyro_vae.likelihoods import NormalLikelihood
        >>> from pyro_vae.priors import FactorizedPrior
        >>> vae = VAE(FactorizedPrior(2), NormalLikelihood(2, (5,)), QuantizedGuide((5,), 2))
        >>> rate_distortion(vae, torch.rand(30, 5)).rate.shape
        torch.Size([30])
    """
    check_arguments(rate_distortion, locals(), chunk_size=1)
    require(len(data) > 0, "rate_distortion", "data must have at least one row", "none")
    density, got = getattr(vae.guide, "has_density", True), type(vae.guide).__name__
    require(density, "rate_distortion", "the guide must have a density", got, "Train a QuantizedGuide")
    with isolated_rng():
        reseed(seed, 0)
        x = data if isinstance(data, Tensor) else data.batch(slice(None), dtype=next(vae.parameters()).dtype)
        complete, advice = not bool(x.isnan().any()), "Fill them: pyro-vae impute"
        require(complete, "rate_distortion", "data must be complete", "missing entries", advice)
        rate, decoded, coded, size = _coded(vae, x, chunk_size) if is_coder(vae) else _sampled(vae, x)
    error = (decoded - x.cpu().double()).square().flatten(1).mean(1)
    entries = {"file_bytes": size, "dimensions": math.prod(x.shape[1:]), "num_data": len(x), "sample_seed": seed}
    return LossyCode(rate, error, coded, protocol={**(protocol or {}), **entries})


def _coded(vae: VAE, x: Tensor, chunk_size: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Estimated rates, reconstructions, coded bits, and bytes of the file."""
    content, bits = encode_lossy(vae, x, chunk_size=chunk_size)
    code = decode_lossy(vae, content)
    with torch.no_grad():
        rate = -vae.prior().log_prob(code.to(next(vae.parameters()))).cpu().double() / math.log(2)
    return rate, reconstructions(vae, code).double(), bits, len(content)


def _sampled(vae: VAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """The same of a VAE, whose file is empty."""
    rates, codes = [], []
    with evaluating(vae), torch.no_grad():
        for part in x.split(_BATCH):
            q = vae.encode(part.to(next(vae.parameters())))
            z = q.sample()
            rates.append((q.log_prob(z) - vae.prior().log_prob(z)).cpu().double() / math.log(2))
            codes.append(z.cpu())
    rate = torch.cat(rates)
    return rate, reconstructions(vae, torch.cat(codes)).double(), torch.full_like(rate, math.nan), 0
