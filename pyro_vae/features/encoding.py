"""Encoding, decoding and log-likelihoods of tensors, in blocks and without changing global state."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.owners import evaluating
from pyro_vae.distributions import mean_or_sample
from pyro_vae.evaluation.marginals import moments
from pyro_vae.evaluation.weights import ImportanceWeights
from pyro_vae.models import VAE

BLOCK_SIZE = 1000  # data encoded, or samples weighted, at a time
NUM_SAMPLES = 100  # per datum, for the mean of a posterior without a closed form


def encode(vae: VAE, x: Tensor, *, sample: bool, seed: int) -> Tensor:
    """The mean of q(z | x), or one sample of it: ``(N, L)`` for ``x`` ``(N, *data_shape)``."""
    with evaluating(vae), isolated_rng(seed):
        posteriors = map(vae.encode, x.split(BLOCK_SIZE))
        return torch.cat([q.sample() if sample else moments(q, NUM_SAMPLES)[0] for q in posteriors])


def decode(vae: VAE, z: Tensor) -> Tensor:
    """The mean of p(x | z): ``(N, *data_shape)`` for ``z`` ``(N, L)``."""
    with evaluating(vae), isolated_rng():
        return torch.cat([mean_or_sample(vae.decode(block)) for block in z.split(BLOCK_SIZE)])


def log_likelihoods(vae: VAE, x: Tensor, *, num_samples: int, seed: int) -> Tensor:
    r"""Estimate of log p(x) per datum, ``(N,)``, in nats: :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s | x)`.

    Every datum uses the same stream of random numbers, that of the first batch of :func:`pyro_vae.log_likelihood` with
    ``chunk_size=1000``: to rounding, its value does not depend on the other data.

    Raises:
        ValueError: a datum lies outside the support of the likelihood.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8. https://arxiv.org/abs/1509.00519
    """
    with evaluating(vae), isolated_rng(seed):
        blocks = x.split(BLOCK_SIZE)
        return torch.cat([value for block in blocks for value in _log_likelihoods(vae, block, num_samples, seed)])


def _log_likelihoods(vae: VAE, block: Tensor, num_samples: int, seed: int) -> Iterator[Tensor]:
    weights = ImportanceWeights(vae.model, vae.guide, (block,), owner="VAETransformer")  # checks all of the block
    sizes = [min(BLOCK_SIZE, num_samples - start) for start in range(0, num_samples, BLOCK_SIZE)]
    for datum in block.split(1):
        reseed(seed, 0)
        log_weights = torch.cat([weights.sample(size, datum).total for size in sizes])  # (S, 1)
        yield log_weights.logsumexp(0) - math.log(num_samples)


def active_dimensions(owner: str, deviations: np.ndarray, threshold: float | None) -> np.ndarray:
    """Mask ``(L,)`` of the dimensions whose standard deviation exceeds the threshold; all if it is None.

    Raises:
        ValueError: no dimension is active.
    """
    active = np.ones(len(deviations), dtype=bool) if threshold is None else deviations > threshold
    rule = f"a latent dimension must vary by more than active_threshold={threshold} over the data"
    advice = "Train for longer, or lower the threshold"
    require(bool(active.any()), owner, rule, f"at most {deviations.max():.3g}", advice)
    return active


def as_array(values: Tensor, *, like: np.ndarray) -> np.ndarray:
    """Convert to an array with the dtype of ``like``."""
    return values.cpu().numpy().astype(like.dtype, copy=False)
