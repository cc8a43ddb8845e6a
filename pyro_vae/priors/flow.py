"""The normalizing flow prior."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import check_count, refusal
from pyro_vae.flows import (
    AffineFlow,
    AutoregressiveFlow,
    CouplingFlow,
    Flow,
    FlowDistribution,
    InverseFlow,
    ReverseFlow,
)
from pyro_vae.flows.coupling import coupling_network
from pyro_vae.flows.made import MADE
from pyro_vae.networks import Shape
from pyro_vae.priors.base import Prior

Kind = Literal["autoregressive", "coupling"]
NUM_BINS, BOUND = 8, 5.0
MAX_LOG_SCALE = 3.0  # soft limit of one autoregressive flow, without which float32 overflows in training


class FlowPrior(Prior):
    r"""A normalizing flow as prior, :math:`p(z) = \mathcal{N}(f(z); 0, I)\, |\det \partial f / \partial z|`.

    Args:
        latent_dim: number of latent dimensions L.
        kind: ``"autoregressive"``: masked affine flows, with one pass per flow for densities and L passes for samples;
            ``"coupling"``: neural splines with a learned loc and scale, one pass for both.
        num_flows: number of flows T; the order of the components is reversed between them.
        hidden: widths of the flows' networks.

    Raises:
        ValueError: ``kind`` is unknown, a number is not positive, or a coupling has fewer than two dimensions.

    References:
        Variational lossy autoencoder (Chen et al., 2017), section 3.2. https://arxiv.org/abs/1611.02731
        Masked autoregressive flow for density estimation (Papamakarios et al., 2017), eq. 4 and 5.
        https://arxiv.org/abs/1705.07057
        Neural spline flows (Durkan et al., 2019), section 3. https://arxiv.org/abs/1906.04032

    Example:
        >>> import torch
        >>> from pyro_vae.priors import FlowPrior
        >>> p = FlowPrior(20)()
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    zeros: Tensor
    ones: Tensor

    def __init__(
        self,
        latent_dim: int,
        *,
        kind: Kind = "autoregressive",
        num_flows: int = 4,
        hidden: Shape = (100, 100),
    ) -> None:
        super().__init__(latent_dim)
        _check(kind, latent_dim, num_flows)
        self.kind = kind
        if kind == "autoregressive":
            self.nets = nn.ModuleList(MADE(latent_dim, 2, hidden=hidden, gain=0.1) for _ in range(num_flows))
        else:
            self.nets = nn.ModuleList(
                coupling_network(latent_dim, hidden=hidden, num_bins=NUM_BINS) for _ in range(num_flows)
            )
            self.loc, self.log_scale = (nn.Parameter(torch.zeros(latent_dim)) for _ in range(2))
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def flows(self) -> Sequence[Flow]:
        """The flows from noise to z, in the order of application."""
        if self.kind == "autoregressive":
            # Inverted, so that training, from z to noise, takes one pass.
            return _reversed_between(InverseFlow(AutoregressiveFlow(partial(_affine, net))) for net in self.nets)
        couplings = _reversed_between(CouplingFlow(net, bound=BOUND) for net in self.nets)
        return [*couplings, AffineFlow(self.loc, self.log_scale)]

    def forward(self) -> TorchDistribution:
        return FlowDistribution(Normal(self.zeros, self.ones).to_event(1), self.flows())


def _affine(net: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    shift, raw = net(z).unbind(-2)  # (*batch, L) each
    return shift, MAX_LOG_SCALE * (raw / MAX_LOG_SCALE).tanh()


def _reversed_between(flows: Iterable[Flow]) -> list[Flow]:
    return [part for flow in flows for part in (flow, ReverseFlow())][:-1]


def _check(kind: Kind, latent_dim: int, num_flows: int) -> None:
    check_count("FlowPrior", num_flows=num_flows)
    if kind == "coupling" and latent_dim < 2:
        rule, what = "kind='coupling' must have at least 2 dimensions", f"latent_dim={latent_dim}"
        raise refusal("FlowPrior", rule, what, "Use kind='autoregressive'")
