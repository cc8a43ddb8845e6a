"""Traversals: one latent dimension at a time, over the quantiles of the aggregate posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, require
from pyro_vae.data.batches import Data
from pyro_vae.latents.aggregate import aggregate_marginals
from pyro_vae.latents.space import Inputs, Model, latent_space


@dataclass(frozen=True)
class Traversal:
    """Traversals of D latent dimensions for N data.

    Attributes:
        dims: the D dimensions, counted from 0.
        levels: ``(T,)``, probabilities of the quantiles.
        values: ``(D, T)``, the quantiles of the aggregate posterior.
        kl: ``(D,)``, mean KL of the dimensions to the prior in nats; None without a closed form.
        means: ``(N, D, T, *data_shape)``, the means of p(x | z).
        site: name of the latent.
    """

    dims: list[int]
    levels: Tensor
    values: Tensor
    kl: Tensor | None
    means: Tensor
    site: str


def traverse(
    vae: Model,
    x: Inputs,
    data: Data,
    *,
    dims: Literal["active"] | Sequence[int] = "active",
    num: int = 7,
    coverage: float = 0.98,
) -> Traversal:
    """Vary one latent dimension of x at a time over the quantiles of the aggregate posterior of a data set.

    The probabilities of the quantiles are evenly spaced. The other dimensions keep the posterior mean of x. Quantiles
    are exact if the marginals of the guide have closed forms, and otherwise those of samples.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        x: data ``(N, *data_shape)``, a tuple of data and classes ``(N,)``, or codes.
        data: the data set of the aggregate posterior: an ``ImageSet``, a tensor, or an iterable of batches.
        dims: ``"active"`` for those with a variance of the posterior mean above 0.01, from the largest KL to the
            smallest (by that variance if the KL has no closed form), or their numbers from 0.
        num: number of quantiles T, at least 2.
        coverage: probability between the first and the last quantile.

    Raises:
        ValueError: no dimension is active, one does not exist, ``coverage`` is not between 0 and 1, ``num`` is below 2,
            or as :class:`~pyro_vae.latents.LatentSpace`.

    References:
        beta-VAE: learning basic visual concepts with a constrained variational framework (Higgins et al., 2017),
        there over a fixed range. https://openreview.net/forum?id=Sy2fzU9gl

    Example:
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> guide, likelihood = guides.DiagonalNormalGuide((5,), 2), likelihoods.BernoulliLikelihood(2, (5,))
        >>> vae = VAE(priors.StandardNormalPrior(2), likelihood, guide)
        >>> traverse(vae, torch.ones(1, 5), torch.rand(50, 5), dims=[1], num=9).means.shape
        torch.Size([1, 1, 9, 5])
    """
    check_count("traverse", 2, num=num)
    require(0 < coverage < 1, "traverse", "coverage must lie between 0 and 1", f"coverage={coverage}", "Use 0.98")
    levels = torch.linspace((1 - coverage) / 2, (1 + coverage) / 2, num, dtype=torch.float64)
    with latent_space(vae) as space:
        codes, marginals = space.encode(x), aggregate_marginals(space, data)
        chosen = marginals.order(active=True) if dims == "active" else [int(j) for j in dims]
        rule, size = "there must be dimensions to vary", codes.z.shape[-1]
        require(bool(chosen), "traverse", rule, "no active one", "Pass dims; latent_diagnostics explains why")
        require(set(chosen) <= set(range(size)), "traverse", f"dims must lie in 0..{size - 1}", f"dims={chosen}")
        values = marginals.quantiles(levels.to(codes.z.device))[:, chosen].mT  # (D, T)
        varied = codes.repeat(len(chosen) * num)
        z = varied.z.unflatten(0, (len(codes), len(chosen), num)).clone()  # (N, D, T, L)
        for row, j in enumerate(chosen):
            z[:, row, :, j] = values[row].to(z)
        means = space.decode(varied.at(z.flatten(0, 2))).unflatten(0, z.shape[:3])
        kl = None if marginals.kl is None else marginals.kl[chosen]
        return Traversal(chosen, levels, values, kl, means, codes.site)
