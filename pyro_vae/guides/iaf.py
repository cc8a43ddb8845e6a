"""The inverse autoregressive flow guide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyro_vae._core.checks import check_count
from pyro_vae.flows import AutoregressiveFlow, Flow, ReverseFlow
from pyro_vae.flows.made import MADE
from pyro_vae.guides.flow import FlowGuide
from pyro_vae.networks import MLP, NetworkFactory, Shape

OPEN = 2.0  # added to the gate's logit: the gate starts at sigmoid(2) = 0.88, near the identity
LIMIT = 6.0  # soft limit of the logit before that: a gate above 0.018 can be inverted in single precision


class IAFGuide(FlowGuide):
    r"""Inverse autoregressive flow, :math:`z_t = \sigma_t \odot z_{t - 1} + (1 - \sigma_t) \odot m_t`.

    :math:`m_t` and the gate :math:`\sigma_t = \mathrm{sigmoid}(s_t)` are the outputs of a masked network of
    :math:`z_{t - 1}` and the encoder's context :math:`h(x)`; the order of the components is reversed from flow to flow.
    A sample with its density takes one pass per flow, the density of other values L passes.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder.
        num_flows: number of flows T.
        hidden: widths of the masked networks' hidden layers.
        context_dim: size of the context h.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Improved variational inference with inverse autoregressive flow (Kingma et al., 2016), algorithm 1; here the
        gate stays away from zero. https://arxiv.org/abs/1606.04934

    Example:
        >>> import torch
        >>> from pyro_vae.guides import IAFGuide
        >>> IAFGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        net: NetworkFactory = MLP,
        num_flows: int = 4,
        hidden: Shape = (200, 200),
        context_dim: int = 64,
    ) -> None:
        check_count("IAFGuide", num_flows=num_flows, context_dim=context_dim)
        super().__init__(data_shape, latent_dim, num_params=context_dim, net=net)
        made = partial(MADE, latent_dim, 2, hidden=hidden, context_dim=context_dim, gain=0.1)
        self.mades = nn.ModuleList(made() for _ in range(num_flows))

    def flows(self, params: Tensor) -> Sequence[Flow]:
        flows: list[Flow] = []
        for made in self.mades:
            flows += [AutoregressiveFlow(partial(_gated, made, params)), ReverseFlow()]
        return flows[:-1]


def _gated(made: nn.Module, context: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    m, s = made(z, context).unbind(-2)  # (*sample, *batch, L) each
    s = LIMIT * (s / LIMIT).tanh()
    return (-s - OPEN).sigmoid() * m, logsigmoid(s + OPEN)
