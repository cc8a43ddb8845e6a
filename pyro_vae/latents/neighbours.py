"""Neighbours in latent space by the distance of the posteriors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, LowRankMultivariateNormal, MultivariateNormal

from pyro_vae._core.checks import check_count, require
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.marginals import moments
from pyro_vae.latents.space import Model, latent_space


@dataclass(frozen=True)
class Neighbours:
    """The nearest data of N queries.

    Attributes:
        indices: ``(N, K)``, positions in the data set, from the nearest.
        distances: ``(N, K)``, 2-Wasserstein distances, in the units of z.
    """

    indices: Tensor
    distances: Tensor


def nearest(
    vae: Model,
    x: Tensor | tuple[Tensor, ...],
    data: Data,
    *,
    num: int = 5,
) -> Neighbours:
    r"""The data whose posteriors are nearest to those of x, by the 2-Wasserstein distance of normals.

    .. math:: W^2 = |\mu - \mu'|^2 + |A|_F^2 + |A'|_F^2 - 2 |A^\top A'|_*

    for normals with means :math:`\mu` and covariances :math:`A A^\top`; for diagonal ones,
    :math:`|\mu - \mu'|^2 + |\sigma - \sigma'|^2`. Exact for diagonal, full-rank and low-rank normal guides. Other
    posteriors count as diagonal normals of their means and variances, estimated from samples if these have no closed
    form; this is a lower bound of their distance.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        x: data ``(N, *data_shape)``, or a tuple of data and classes ``(N,)``.
        data: the data set: an ``ImageSet``, a tensor, or an iterable of batches.
        num: number of neighbours K.

    Raises:
        ValueError: ``num`` is not positive or above the number of data, or as
            :class:`~pyro_vae.latents.LatentSpace`.

    References:
        A class of Wasserstein metrics for probability distributions (Givens and Shortt, 1984).
        https://doi.org/10.1307/mmj/1029003026
        On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert spaces (Gelbrich, 1990),
        the bound. https://doi.org/10.1002/mana.19901470121

    Example:
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> guide, likelihood = guides.DiagonalNormalGuide((5,), 2), likelihoods.BernoulliLikelihood(2, (5,))
        >>> vae, x = VAE(priors.StandardNormalPrior(2), likelihood, guide), torch.rand(50, 5)
        >>> nearest(vae, x[[7]], x, num=3).indices[0, 0]
        tensor(7)
    """
    check_count("nearest", num=num)
    with latent_space(vae) as space:
        query = _normal(space.posterior(x)[1], space.num_samples)
        rows = [_distances(query, _normal(q, space.num_samples)) for _, q in space.batches(data)]
    distances = torch.cat(rows, 1)  # (N, M)
    size = distances.shape[1]
    require(num <= size, "nearest", f"num must be at most the number of data, {size}", f"num={num}")
    values, indices = distances.topk(num, largest=False)
    return Neighbours(indices, values)


def _normal(q: Distribution, num_samples: int) -> tuple[Tensor, Tensor]:
    """Mean ``(N, L)`` and a root of the covariance, ``(N, L, L)``, or standard deviations, ``(N, L)``."""
    if isinstance(q, MultivariateNormal | LowRankMultivariateNormal):
        return q.mean, q.scale_tril
    mean, variance, _ = moments(q, num_samples)
    return mean, variance.sqrt()


def _distances(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """2-Wasserstein distances ``(N, M)`` of normals."""
    (mean, root), (mean_, root_) = one, other
    squared = _squared(mean, mean_)
    if root.dim() == 2:
        return (squared + _squared(root, root_)).sqrt()
    cross = torch.linalg.svdvals(root.mT.unsqueeze(1) @ root_).sum(-1)  # (N, M)
    traces = root.square().sum((1, 2))[:, None] + root_.square().sum((1, 2))
    return (squared + traces - 2 * cross).clamp_min(0).sqrt()


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances ``(N, M)``, by differences: by matrix products those of equal vectors would not be 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
