"""The mixture of normals guide."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae._core.checks import check_count
from pyro_vae.distributions import MixtureOfNormals
from pyro_vae.guides.base import AmortizedGuide, check_log_scale_bounds
from pyro_vae.networks import MLP, NetworkFactory, Shape


class MixtureOfNormalsGuide(AmortizedGuide):
    r"""Mixture, :math:`q(z | x) = \sum_c \pi_c(x)\, \mathcal{N}(z; \mu_c(x), \mathrm{diag}(\sigma_c^2(x)))`.

    Reparameterised by implicit differentiation, so that objectives with pathwise gradients train the weights as well.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        num_components: number of normals C.
        net: builds the encoder, ``net(data_shape, (C, 2 * L + 1))``, which returns loc, log scale and logit of each.
        log_scale_bounds: limits of the log scales.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``num_components`` is not positive.

    References:
        Implicit reparameterization gradients (Figurnov et al., 2018), eq. 7. https://arxiv.org/abs/1805.08498
        Stochastic backpropagation through mixture density distributions (Graves, 2016).
        https://arxiv.org/abs/1607.05690

    Example:
        >>> import torch
        >>> from pyro_vae.guides import MixtureOfNormalsGuide
        >>> MixtureOfNormalsGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28)).weights.shape
        torch.Size([5, 4])
    """

    has_marginals = True

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        num_components: int = 4,
        net: NetworkFactory = MLP,
        log_scale_bounds: tuple[float, float] = (-12.0, 12.0),
    ) -> None:
        check_count("MixtureOfNormalsGuide", num_components=num_components)
        super().__init__(data_shape, latent_dim, param_shape=(num_components, 2 * latent_dim + 1), net=net)
        self.log_scale_bounds = check_log_scale_bounds("MixtureOfNormalsGuide", log_scale_bounds)

    def distribution(self, params: Tensor) -> TorchDistribution:
        locs, log_scales, logits = params.split([self.latent_dim, self.latent_dim, 1], -1)
        return MixtureOfNormals(logits.squeeze(-1), locs, log_scales.clamp(*self.log_scale_bounds).exp())
