"""The neural spline flow guide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import check_count, check_positive
from pyro_vae.flows import AffineFlow, CouplingFlow, Flow, FlowDistribution, ReverseFlow
from pyro_vae.flows.coupling import coupling_network
from pyro_vae.guides.base import AmortizedGuide
from pyro_vae.guides.flow import LOG_SCALE_BOUNDS
from pyro_vae.networks import MLP, NetworkFactory, Shape


class SplineFlowGuide(AmortizedGuide):
    r"""Neural spline flow, :math:`z = \mu(x) + \sigma(x) \odot (f_T \circ \dots \circ f_1)(\epsilon)`.

    Each :math:`f_t` transforms one half of the components by monotone splines whose knots a network computes from the
    other half and the encoder's context h(x); sampling and density evaluation take one pass each. The splines precede
    loc and scale, so that their interval is in standard deviations of the posterior.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder, ``net(data_shape, (2 * latent_dim + context_dim,))``.
        num_flows: number of flows T.
        hidden: widths of the coupling networks' hidden layers.
        context_dim: size of the context h.
        num_bins: number of bins K of each spline.
        bound: the splines act on [-bound, bound].

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Neural spline flows (Durkan et al., 2019), section 4.2. https://arxiv.org/abs/1906.04032

    Example:
        >>> import torch
        >>> from pyro_vae.guides import SplineFlowGuide
        >>> SplineFlowGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        net: NetworkFactory = MLP,
        num_flows: int = 4,
        hidden: Shape = (100, 100),
        context_dim: int = 64,
        num_bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        super().__init__(data_shape, latent_dim, param_shape=(2 * latent_dim + context_dim,), net=net)
        check_count("SplineFlowGuide", num_flows=num_flows, context_dim=context_dim, num_bins=num_bins)
        check_positive("SplineFlowGuide", bound=bound, advice="Use for example 5.0")
        self.context_dim, self.bound = context_dim, float(bound)
        network = partial(coupling_network, latent_dim, hidden=hidden, num_bins=num_bins, context_dim=context_dim)
        self.couplings = nn.ModuleList(network() for _ in range(num_flows))

    def flows(self, context: Tensor) -> Sequence[Flow]:
        """The coupling flows with the encoder's context, ``(*batch, context_dim)``."""
        flows: list[Flow] = []
        for coupling in self.couplings:
            flows += [CouplingFlow(partial(_knots, coupling, context), bound=self.bound), ReverseFlow()]
        return flows[:-1]

    def distribution(self, params: Tensor) -> TorchDistribution:
        loc, log_scale, context = params.split([self.latent_dim, self.latent_dim, self.context_dim], -1)
        base = Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        affine = AffineFlow(loc, log_scale.clamp(*LOG_SCALE_BOUNDS))
        return FlowDistribution(base, [*self.flows(context), affine])


def _knots(coupling: nn.Module, context: Tensor, a: Tensor) -> Tensor:
    return coupling(torch.cat([a, context.expand(*a.shape[:-1], -1)], -1))
