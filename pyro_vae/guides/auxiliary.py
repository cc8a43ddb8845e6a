"""The guide with an auxiliary variable."""

from __future__ import annotations

from torch import Tensor, nn

from pyro_vae._core.checks import check_count, refusal
from pyro_vae.distributions import AugmentedPosterior, AuxiliaryJoint
from pyro_vae.guides.base import Guide, check_log_scale_bounds, diagonal_normal
from pyro_vae.networks import MLP, ContextNetwork, NetworkFactory, Shape, build_network


class AuxiliaryGuide(Guide):
    r"""Continuous mixture of normals, :math:`q(z | x) = \int q(a | x)\, q(z | a, x)\, da`, with reverse r(a | x, z).

    All three are diagonal normals; the marginal q(z | x) is not, and has no density in closed form. The reverse model
    gives a bound instead, see :class:`~pyro_vae.distributions.AugmentedPosterior`: the objective trains r as well, and
    every estimate of log p(x) holds for any r.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        auxiliary_dim: number of dimensions of a; default ``latent_dim``.
        net: builds the networks of x: ``net(data_shape, (2, auxiliary_dim))`` for q(a | x), and the layers before
            the common ones, ``net(data_shape, hidden[:1])``, for q(z | a, x) and r(a | x, z).
        hidden: widths of the common layers, of x and a or of x and z.
        log_scale_bounds: limits of the log scales.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``auxiliary_dim`` is not positive.

    References:
        Auxiliary deep generative models (Maaloe et al., 2016), section 2.1. https://arxiv.org/abs/1602.05473
        Hierarchical variational models (Ranganath et al., 2016), section 3. https://arxiv.org/abs/1511.02386

    Example:
        >>> import torch
        >>> from pyro_vae.guides import AuxiliaryGuide
        >>> AuxiliaryGuide((1, 28, 28), 20, auxiliary_dim=5)(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 20])
    """

    has_density = False

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        auxiliary_dim: int | None = None,
        net: NetworkFactory = MLP,
        hidden: Shape = (200,),
        log_scale_bounds: tuple[float, float] = (-12.0, 12.0),
    ) -> None:
        super().__init__(data_shape, latent_dim)
        check_count("AuxiliaryGuide", auxiliary_dim=auxiliary_dim)
        size = latent_dim if auxiliary_dim is None else auxiliary_dim
        self.log_scale_bounds = check_log_scale_bounds("AuxiliaryGuide", log_scale_bounds)
        self.auxiliary = build_network(net, self.data_shape, (2, size))
        self.net = ContextNetwork(self.data_shape, (2, latent_dim), context_dim=size, net=net, hidden=hidden)
        self.reverse = ContextNetwork(self.data_shape, (2, size), context_dim=latent_dim, net=net, hidden=hidden)
        if any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.net.modules()):
            advice = "Use a network without: q(z | a, x) would be sampled and evaluated with different masks"
            raise refusal("AuxiliaryGuide", "net must not have dropout", "a network with dropout", advice)

    def posterior(self, x: Tensor) -> AugmentedPosterior:
        limits = self.log_scale_bounds
        auxiliary = diagonal_normal(self.auxiliary(x), limits)
        joint = AuxiliaryJoint(auxiliary, lambda a: diagonal_normal(self.net(x, a), limits), self.latent_dim)
        return AugmentedPosterior(joint, self.latent_dim, lambda z: diagonal_normal(self.reverse(x, z), limits))
