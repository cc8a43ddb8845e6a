"""The diagonal normal guide."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.guides.base import AmortizedGuide, check_log_scale_bounds, diagonal_normal
from pyro_vae.networks import MLP, NetworkFactory, Shape


class DiagonalNormalGuide(AmortizedGuide):
    r"""Mean-field normal, :math:`q(z | x) = \mathcal{N}(z; \mu(x), \mathrm{diag}(\sigma^2(x)))`.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder, ``net(data_shape, (2, latent_dim))``, which returns loc and log scale.
        log_scale_bounds: limits of the log scale. The default keeps the scale representable and is not reached in
            ordinary training; the VampPrior paper clips to (-3, 1).

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), eq. 9. https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> DiagonalNormalGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28)).sample().shape
        torch.Size([5, 20])
    """

    has_marginals = True

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        net: NetworkFactory = MLP,
        log_scale_bounds: tuple[float, float] = (-12.0, 12.0),
    ) -> None:
        super().__init__(data_shape, latent_dim, param_shape=(2, latent_dim), net=net)
        self.log_scale_bounds = check_log_scale_bounds("DiagonalNormalGuide", log_scale_bounds)

    def distribution(self, params: Tensor) -> TorchDistribution:
        return diagonal_normal(params, self.log_scale_bounds)
