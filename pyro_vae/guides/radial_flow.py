"""The radial flow guide."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae._core.checks import check_count
from pyro_vae.flows import Flow, RadialFlow
from pyro_vae.guides.flow import START, FlowGuide
from pyro_vae.networks import MLP, NetworkFactory, Shape


class RadialFlowGuide(FlowGuide):
    r"""Radial flows, :math:`z_t = z_{t - 1} + \beta_t(x) (z_{t - 1} - c_t(x)) / (\alpha_t(x) + r)`.

    r is the distance of z from the centre c. Each flow moves mass towards the centre or away from it, which
    bends a normal's tails rather than correlating dimensions.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder.
        num_flows: number of flows T.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Variational inference with normalizing flows (Rezende and Mohamed, 2015), eq. 14 and appendix A.2; here
        alpha + beta is a multiple of alpha. https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch
        >>> from pyro_vae.guides import RadialFlowGuide
        >>> RadialFlowGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, data_shape: Shape, latent_dim: int, *, net: NetworkFactory = MLP, num_flows: int = 8) -> None:
        check_count("RadialFlowGuide", num_flows=num_flows)
        self.num_flows = num_flows
        super().__init__(data_shape, latent_dim, num_params=num_flows * (latent_dim + 2), net=net)

    def flows(self, params: Tensor) -> Sequence[Flow]:
        parts = params.unflatten(-1, (self.num_flows, -1)).unbind(-2)  # (*batch, L + 2) each
        return [self._flow(*part.split([self.latent_dim, 1, 1], -1)) for part in parts]

    def _flow(self, center: Tensor, width: Tensor, ratio: Tensor) -> Flow:
        alpha = _positive(width)
        return RadialFlow(center, alpha, alpha * _positive(START * ratio))


def _positive(x: Tensor) -> Tensor:
    return softplus(x + math.log(math.e - 1))  # 1 at 0
