"""Tensors to latents, back, and to their log-likelihood, in blocks and with nothing outside noticing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.owners import evaluating
from pyro_vae.evaluation.marginals import moments
from pyro_vae.evaluation.weights import ImportanceWeights
from pyro_vae.models import VAE

BLOCK = 1000  # data encoded, or draws weighed, at a time
DRAWS = 100  # per datum, for the mean of a posterior that has none in closed form


def encode(vae: VAE, x: Tensor, *, sample: bool, seed: int) -> Tensor:
    """The mean of q(z | x), or one draw of it: ``(N, L)`` for ``x`` ``(N, *data_shape)``."""
    with evaluating(vae), isolated_rng(seed):
        posteriors = map(vae.encode, x.split(BLOCK))
        return torch.cat([q.sample() if sample else moments(q, DRAWS)[0] for q in posteriors])


def decode(vae: VAE, z: Tensor) -> Tensor:
    """The mean of p(x | z): ``(N, *data_shape)`` for ``z`` ``(N, L)``."""
    with evaluating(vae), isolated_rng():
        return torch.cat([vae.decode(part).mean for part in z.split(BLOCK)])


def log_likelihoods(vae: VAE, x: Tensor, *, num_samples: int, seed: int) -> Tensor:
    r"""Estimate of log p(x) per datum, ``(N,)``, in nats: :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s | x)`.

    Every datum has the same stream of random numbers, that of the first batch of :func:`pyro_vae.log_likelihood` with
    ``chunk_size=1000``: to rounding, its value does not depend on the other data.

    Raises:
        ValueError: a datum lies outside the support of the likelihood.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8. https://arxiv.org/abs/1509.00519
    """
    with evaluating(vae), isolated_rng(seed):
        return torch.cat([value for block in x.split(BLOCK) for value in _weighed(vae, block, num_samples, seed)])


def _weighed(vae: VAE, block: Tensor, num_samples: int, seed: int) -> Iterator[Tensor]:
    weigher = ImportanceWeights(
        vae.model, vae.guide, (block,), owner="VAETransformer"
    )  # examines the programs, and the support for the whole block
    sizes = [min(BLOCK, num_samples - start) for start in range(0, num_samples, BLOCK)]
    for datum in block.split(1):
        reseed(seed, 0)
        weights = torch.cat([weigher.sample(size, datum).total for size in sizes])  # (S, 1)
        yield weights.logsumexp(0) - math.log(num_samples)


def active_dimensions(owner: str, deviations: np.ndarray, threshold: float | None) -> np.ndarray:
    """Which dimensions vary by more than the threshold over the data, ``(L,)``; all where it is None.

    Raises:
        ValueError: none does.
    """
    if threshold is None:
        return np.ones(len(deviations), dtype=bool)
    active = deviations > threshold
    if not active.any():
        raise ValueError(
            f"{owner}: a latent dimension must vary by more than active_threshold={threshold} over the data, got at "
            f"most {deviations.max():.3g}. Train for longer, or lower the threshold."
        )
    return active


def as_array(values: Tensor, *, like: np.ndarray) -> np.ndarray:
    """As an array of the dtype of another."""
    return values.cpu().numpy().astype(like.dtype, copy=False)
