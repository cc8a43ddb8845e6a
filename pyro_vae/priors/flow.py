"""The normalizing flow prior."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

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
MAX_LOG_SCALE = 3.0  # of one autoregressive flow; a soft limit, as none makes float32 overflow in training


class FlowPrior(Prior):
    r"""A normalizing flow as prior, :math:`p(z) = \mathcal{N}(f(z); 0, I)\, |\det \partial f / \partial z|`.

    Args:
        latent_dim: number of latent dimensions L.
        kind: ``"autoregressive"``: masked affine flows, whose density takes one pass and whose draws take L passes per
            flow; ``"coupling"``: neural splines after a learned loc and scale, one pass both ways.
        num_flows: number of flows T; the order of the components is reversed in between.
        hidden: widths of the flows' networks.

    Raises:
        ValueError: there is no such kind, a number is not positive, or there is nothing to couple.

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
        """The flows from noise to z, in the order in which a draw passes them."""
        if self.kind == "autoregressive":
            # Backwards, so that the direction of one pass is the one that training takes: z to noise.
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
    if kind not in get_args(Kind):
        raise ValueError(f"FlowPrior: kind must be one of {', '.join(get_args(Kind))}, got kind={kind!r}. Pick one.")
    if num_flows < 1:
        raise ValueError(f"FlowPrior: num_flows must be at least 1, got num_flows={num_flows}. Use for example 4.")
    if kind == "coupling" and latent_dim < 2:
        raise ValueError(
            f"FlowPrior: kind='coupling' must have at least 2 dimensions, got latent_dim={latent_dim}. "
            "Use kind='autoregressive'."
        )
