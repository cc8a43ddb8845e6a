"""The low-rank normal guide."""

from __future__ import annotations

from pyro.distributions import LowRankMultivariateNormal, TorchDistribution
from torch import Tensor

from pyro_vae._core.checks import check_count
from pyro_vae.guides.base import AmortizedGuide, check_log_scale_bounds
from pyro_vae.networks import MLP, NetworkFactory, Shape


class LowRankNormalGuide(AmortizedGuide):
    r"""Diagonal plus low rank, :math:`q(z | x) = \mathcal{N}(z; \mu, S (I + F F' / L^2) S)`, :math:`S = diag(s)`.

    F(x) has ``rank`` columns. A density costs the order of :math:`L r^2` operations, by Woodbury's identity, where the
    full-rank guide's costs :math:`L^2`. The division by L starts the guide near the diagonal one.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        rank: number of columns r of F.
        net: builds the encoder, ``net(data_shape, (2 + rank, latent_dim))``, which returns loc, the log of s, and the
            columns of F.
        log_scale_bounds: limits of the log of s.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``rank`` is not positive.

    References:
        Stochastic backpropagation and approximate inference in deep generative models (Rezende et al., 2014),
        section 4.3: rank one, of the precision; here of the covariance. https://arxiv.org/abs/1401.4082
        Gaussian variational approximation with a factor covariance structure (Ong et al., 2018), section 3.
        https://arxiv.org/abs/1701.03208

    Example:
        >>> import torch
        >>> from pyro_vae.guides import LowRankNormalGuide
        >>> LowRankNormalGuide((1, 28, 28), 20, rank=3).posterior(torch.zeros(5, 1, 28, 28)).cov_factor.shape
        torch.Size([5, 20, 3])
    """

    has_marginals = True

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        rank: int = 1,
        net: NetworkFactory = MLP,
        log_scale_bounds: tuple[float, float] = (-12.0, 12.0),
    ) -> None:
        check_count("LowRankNormalGuide", rank=rank)
        super().__init__(data_shape, latent_dim, param_shape=(2 + rank, latent_dim), net=net)
        self.log_scale_bounds = check_log_scale_bounds("LowRankNormalGuide", log_scale_bounds)

    def distribution(self, params: Tensor) -> TorchDistribution:
        loc, log_scale = params[..., 0, :], params[..., 1, :]
        scale = log_scale.clamp(*self.log_scale_bounds).exp()
        factor = scale.unsqueeze(-1) * params[..., 2:, :].mT / self.latent_dim  # (*batch, L, rank)
        return LowRankMultivariateNormal(loc, factor, scale.square())
