"""What the latent space does: active units and the KL of each dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.data import ImageSet
from pyro_vae.data.batches import Batches
from pyro_vae.isolation import evaluating, isolated, placement
from pyro_vae.models import VAE

ACTIVE = 0.01  # variance of the posterior mean above which a unit counts as active (Burda et al., 2016)


@dataclass(frozen=True)
class LatentDiagnostics:
    """Per latent dimension, over a data set.

    Attributes:
        means: ``(N, latent_dim)``, the posterior mean of every datum.
        activity: ``(latent_dim,)``, Var_x(E_q[z | x]); a unit is active above :data:`ACTIVE`.
        kl: ``(latent_dim,)``, the mean KL(q(z_i | x) || p(z_i)) in nats; None unless both are diagonal normals.
    """

    means: Tensor
    activity: Tensor
    kl: Tensor | None

    @property
    def active_units(self) -> int:
        """Number of dimensions with an activity above :data:`ACTIVE`."""
        return int((self.activity > ACTIVE).sum())


def latent_diagnostics(
    vae: VAE, data: ImageSet | Tensor, *, batch_size: int = 500, num_samples: int = 100, seed: int = 0
) -> LatentDiagnostics:
    r"""Active units, :math:`\mathrm{Var}_x(E_{q(z | x)}[z_i]) > 0.01`, and the KL per dimension.

    Args:
        vae: the model.
        data: an ``ImageSet`` or a tensor ``(N, *data_shape)``.
        batch_size: data at a time.
        num_samples: draws per datum that stand in for the mean of a posterior that knows none in closed form.
        seed: of those draws; the global generator is left as it was.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), section 5.2: the activity and its threshold.
        https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyro_vae import BernoulliLikelihood, DiagonalNormalGuide, StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> latent_diagnostics(vae, torch.rand(50, 5)).kl.shape
        torch.Size([2])
    """
    device, dtype = placement(vae)
    means, kls = [], []
    with evaluating(vae), isolated(seed):
        for batch in Batches(data, batch_size, device=device, dtype=dtype).epoch():
            q = vae.encode(batch.args[0])
            means.append(_mean(q, num_samples))
            kls.append(_kl_per_dimension(q, vae.prior()))
    mean = torch.cat(means)
    known = [kl for kl in kls if kl is not None]
    return LatentDiagnostics(mean, mean.var(0, correction=0), torch.cat(known).mean(0) if known else None)


def _mean(q: torch.distributions.Distribution, num_samples: int) -> Tensor:
    try:
        return q.mean
    except NotImplementedError:
        return q.sample(torch.Size([num_samples])).mean(0)


def _kl_per_dimension(q: torch.distributions.Distribution, p: torch.distributions.Distribution) -> Tensor | None:
    """``(batch, latent_dim)`` where both are independent normals over the dimensions, else None."""
    q_dims, p_dims = getattr(q, "base_dist", None), getattr(p, "base_dist", None)
    if not (isinstance(q_dims, torch.distributions.Normal) and isinstance(p_dims, torch.distributions.Normal)):
        return None
    return kl_divergence(q_dims, p_dims)
