"""Poisson likelihood of counts."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.distributions import LogMeanPoisson
from pyro_vae.likelihoods.counts import CountLikelihood
from pyro_vae.networks import MLP, NetworkFactory, Shape


class PoissonLikelihood(CountLikelihood):
    r"""Independent counts, :math:`p(x | z) = \prod_d \mathrm{Poisson}(x_d; e^{f_d(z)})`.

    Their variance given z is their mean; counts of nature often vary more:
    :class:`~pyro_vae.likelihoods.NegativeBinomialLikelihood`.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum; values are 0, 1, 2, ...
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns log means; they are clamped to
            [-30, 30].
        size_factor: whether the means are multiplied by a size factor of each datum, whose logarithm ``(*batch, 1)`` is
            then the last argument of every call: ``likelihood(z, log_size)``, ``vae.model(x, log_size)``. The
            density p(x | z, size) is normalised for each size.

    Attributes:
        offset: ``(*data_shape)``, added to the log means. With size factors :meth:`initialise_mean` takes the mean of
            x / size.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: at a call: ``size_factor`` without log size factors.

    References:
        Variational autoencoders for collaborative filtering (Liang et al., 2018) compares count
        likelihoods. https://arxiv.org/abs/1802.05814

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import PoissonLikelihood
        >>> x, z = torch.poisson(torch.full((7, 5), 3.0)), torch.zeros(7, 2)
        >>> PoissonLikelihood(2, (5,)).initialise_mean(x.mean(0))(z).log_prob(x).shape
        torch.Size([7])
        >>> PoissonLikelihood(2, (5,), size_factor=True)(z, x.sum(-1, keepdim=True).log()).log_prob(x).shape
        torch.Size([7])
    """

    def __init__(
        self, latent_dim: int, data_shape: Shape, *, net: NetworkFactory = MLP, size_factor: bool = False
    ) -> None:
        super().__init__(latent_dim, data_shape, net=net, size_factor=size_factor)

    def family(self, log_mean: Tensor, *outputs: Tensor) -> TorchDistribution:
        return LogMeanPoisson(log_mean)
