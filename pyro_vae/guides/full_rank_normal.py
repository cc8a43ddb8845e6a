"""The full-rank normal guide."""

from __future__ import annotations

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from torch import Tensor

from pyro_vae.guides.base import AmortizedGuide, check_log_scale_bounds
from pyro_vae.networks import MLP, NetworkFactory, Shape


class FullRankNormalGuide(AmortizedGuide):
    r"""Full-rank normal, :math:`q(z | x) = \mathcal{N}(z; \mu, C C')`, with :math:`C = \mathrm{diag}(s)(I + A / L)`.

    C is the Cholesky factor: s(x) positive, A(x) strictly lower triangular. The division by L starts the guide near
    the diagonal one.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder, ``net(data_shape, (L * (L + 3) / 2,))``, which returns loc, the log of s, and the rows
            of A.
        log_scale_bounds: limits of the log of s.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Stochastic backpropagation and approximate inference in deep generative models (Rezende et al., 2014),
        section 4.3. https://arxiv.org/abs/1401.4082
        An introduction to variational autoencoders (Kingma and Welling, 2019), section 2.5.1.
        https://arxiv.org/abs/1906.02691

    Example:
        >>> import torch
        >>> from pyro_vae.guides import FullRankNormalGuide
        >>> FullRankNormalGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28)).covariance_matrix.shape
        torch.Size([5, 20, 20])
    """

    below: Tensor
    has_marginals = True

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        net: NetworkFactory = MLP,
        log_scale_bounds: tuple[float, float] = (-12.0, 12.0),
    ) -> None:
        super().__init__(data_shape, latent_dim, param_shape=(latent_dim * (latent_dim + 3) // 2,), net=net)
        self.log_scale_bounds = check_log_scale_bounds("FullRankNormalGuide", log_scale_bounds)
        # Positions of A's entries in the flattened matrix: a constant, so not saved.
        row, column = torch.tril_indices(latent_dim, latent_dim, -1)
        self.register_buffer("below", row * latent_dim + column, persistent=False)

    def distribution(self, params: Tensor) -> TorchDistribution:
        n = self.latent_dim
        loc, log_scale, entries = params.split([n, n, len(self.below)], -1)
        scale = log_scale.clamp(*self.log_scale_bounds).exp()
        flat = params.new_zeros(*params.shape[:-1], n * n).index_copy(-1, self.below, entries / n)
        unit = flat.unflatten(-1, (n, n)) + torch.eye(n, dtype=params.dtype, device=params.device)
        return MultivariateNormal(loc, scale_tril=scale.unsqueeze(-1) * unit)
