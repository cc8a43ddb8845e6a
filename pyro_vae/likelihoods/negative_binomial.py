"""Negative binomial likelihood of overdispersed counts."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.distributions import LogMeanNegativeBinomial
from pyro_vae.likelihoods.counts import CountLikelihood, Dispersion, InverseDispersion
from pyro_vae.networks import MLP, NetworkFactory, Shape


class NegativeBinomialLikelihood(CountLikelihood):
    r"""Independent overdispersed counts, :math:`p(x | z) = \prod_d \mathrm{NB}(x_d; \mu_d, r_d)`, :math:`\mu = e^f`.

    A Poisson distribution whose rate is gamma distributed: the variance is :math:`\mu + \mu^2 / r`. r is called the
    inverse dispersion; large r gives :class:`~pyro_vae.likelihoods.PoissonLikelihood`, r = 1 a geometric distribution.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum; values are 0, 1, 2, ...
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns log means f; they are clamped to
            [-30, 30]. For ``dispersion="network"`` with twice the channels (for vectors ``(2, D)``), also g.
        dispersion: ``"global"``, one learned r; ``"pixel"``, one learned per entry of the datum (scvi-tools'
            ``"gene"``); ``"network"``, one per entry that depends on z (``"gene-cell"``). log r is
            :math:`15 \tanh(a + g(z) / 15)` with the learned a and the output g, if there is one; r = 1 at a = g = 0.
        size_factor: whether the means are multiplied by a size factor of each datum, whose logarithm ``(*batch, 1)`` is
            then the last argument of every call: ``likelihood(z, log_size)``, ``vae.model(x, log_size)``. The
            density p(x | z, size) is normalised for each size.

    Attributes:
        offset: ``(*data_shape)``, added to the log means. With size factors :meth:`initialise_mean` takes the mean of
            x / size.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: an unknown ``dispersion``; at a call: ``size_factor`` without log size factors.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), methods. The means there are a
        softmax times the size, here an exponential. https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import NegativeBinomialLikelihood
        >>> p = NegativeBinomialLikelihood(2, (5,)).initialise_mean(torch.full((5,), 3.0))(torch.zeros(7, 2))
        >>> p.mean.shape, p.log_prob(p.sample()).shape
        (torch.Size([7, 5]), torch.Size([7]))
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        dispersion: Dispersion = "pixel",
        size_factor: bool = False,
    ) -> None:
        outputs = 1 + (dispersion == "network")
        super().__init__(latent_dim, data_shape, net=net, size_factor=size_factor, num_outputs=outputs)
        self.log_inverse_dispersion = InverseDispersion(type(self).__name__, dispersion, self.data_shape)

    def family(self, log_mean: Tensor, *outputs: Tensor) -> TorchDistribution:
        return LogMeanNegativeBinomial(log_mean, self.log_inverse_dispersion(*outputs))
