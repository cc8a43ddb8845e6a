"""The hyperprior of quantized codes: scales and means that are functions of a second code."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus
from torch.special import log_ndtr

from pyro_vae._core.checks import check_count, require
from pyro_vae.distributions import AuxiliaryJoint, WithUniformNoise
from pyro_vae.networks import MLP, NetworkFactory, build_network
from pyro_vae.priors.base import Prior
from pyro_vae.priors.factorized import FactorizedPrior

MIN_LOG_SCALE = -2.2  # scale 0.11: a code at its mean costs 1e-5 bits


class HyperPrior(Prior):
    r"""A code y and a hyper code h, :math:`p(z) = p(h) \prod_i [\Phi_i(y_i + 1/2) - \Phi_i(y_i - 1/2)]`, z = (y, h).

    :math:`\Phi_i` is the distribution function of a normal whose loc and scale are functions of h, a network's output;
    p(h) is a :class:`~pyro_vae.priors.FactorizedPrior`. What codes share, such as the contrast of an image, is paid for
    once, in h. A :class:`~pyro_vae.guides.QuantizedGuide` computes both codes from the datum, and the decoder has both,
    while in the references h is computed from y, and the decoder has y alone.

    Args:
        latent_dim: number of latent dimensions L, of both codes.
        hyper_dim: number of dimensions of h, the last ones of z.
        net: builds the network from h to loc and scale, ``net((hyper_dim,), (2, latent_dim - hyper_dim))``.

    Shape:
        ``forward()`` returns a distribution with batch shape ``()`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``hyper_dim`` is not between 1 and ``latent_dim - 1``.

    References:
        Variational image compression with a scale hyperprior (Balle et al., 2018), section 3.
        https://arxiv.org/abs/1802.01436
        Joint autoregressive and hierarchical priors for learned image compression (Minnen, Balle and Toderici, 2018),
        eq. 4, without the autoregressive part. https://arxiv.org/abs/1809.02736

    Example:
        >>> from pyro_vae.priors import HyperPrior
        >>> HyperPrior(20, hyper_dim=4)().sample().shape
        torch.Size([20])
    """

    def __init__(self, latent_dim: int, *, hyper_dim: int = 1, net: NetworkFactory = MLP) -> None:
        super().__init__(latent_dim)
        check_count("HyperPrior", hyper_dim=hyper_dim)
        rule, got = "hyper_dim must be less than latent_dim", f"hyper_dim={hyper_dim}, latent_dim={latent_dim}"
        require(hyper_dim < latent_dim, "HyperPrior", rule, got)
        self.hyper_dim, self.code_dim = hyper_dim, latent_dim - hyper_dim
        self.hyper, self.net = FactorizedPrior(hyper_dim), build_network(net, (hyper_dim,), (2, self.code_dim))

    def parameters_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and log scale of the normals, ``(*batch, code_dim)`` each, at hyper codes ``(*batch, hyper_dim)``."""
        loc, raw = self.net(h).unbind(-2)
        return loc, softplus(raw - MIN_LOG_SCALE) + MIN_LOG_SCALE

    def forward(self) -> TorchDistribution:
        return AuxiliaryJoint(self.hyper(), self.code_distribution, self.code_dim)

    def code_distribution(self, h: Tensor) -> TorchDistribution:
        """p(y | h), with batch shape ``batch`` and event shape ``(code_dim,)``."""
        loc, log_scale = self.parameters_of(h)
        precision = (-log_scale).exp()

        def logits(y: Tensor) -> Tensor:
            t = (y - loc) * precision
            return log_ndtr(t) - log_ndtr(-t)

        return WithUniformNoise(logits, loc).to_event(1)
