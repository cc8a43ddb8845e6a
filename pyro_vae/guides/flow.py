"""Base class of guides with normalizing flows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

from pyro_vae.flows import Flow, FlowDistribution
from pyro_vae.guides.base import AmortizedGuide
from pyro_vae.networks import NetworkFactory, Shape

# Factor of those outputs of the encoder that are 0 for the identity: a new guide is near the diagonal normal one.
START = 0.1
LOG_SCALE_BOUNDS = (-12.0, 12.0)  # as in the diagonal normal guide; not reached in ordinary training


class FlowGuide(AmortizedGuide):
    r"""A diagonal normal transformed by flows, :math:`z = f_T \circ \dots \circ f_1(\mu(x) + \sigma(x) \epsilon)`.

    The density of a sample is a by-product of sampling; that of other values takes the inverses, see
    :class:`~pyro_vae.flows.FlowDistribution`.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        num_params: number of parameters of one datum's flows, P.
        net: builds the encoder, ``net(data_shape, (2 * latent_dim + num_params,))``: loc, log scale and parameters.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Variational inference with normalizing flows (Rezende and Mohamed, 2015), section 4.
        https://arxiv.org/abs/1505.05770
    """

    def __init__(self, data_shape: Shape, latent_dim: int, *, num_params: int, net: NetworkFactory) -> None:
        super().__init__(data_shape, latent_dim, param_shape=(2 * latent_dim + num_params,), net=net)
        self.num_params = num_params

    @abstractmethod
    def flows(self, params: Tensor) -> Sequence[Flow]:
        """The flows with parameters ``(*batch, num_params)``, in the order f_1, ..., f_T."""

    def distribution(self, params: Tensor) -> TorchDistribution:
        loc, log_scale, rest = params.split([self.latent_dim, self.latent_dim, self.num_params], -1)
        base = Normal(loc, log_scale.clamp(*LOG_SCALE_BOUNDS).exp()).to_event(1)
        return FlowDistribution(base, self.flows(rest))
