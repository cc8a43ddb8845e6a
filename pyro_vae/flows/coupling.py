"""The coupling flow with splines."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_positive
from pyro_vae.flows.base import Flow
from pyro_vae.flows.spline import RationalQuadraticSpline
from pyro_vae.networks import MLP, Shape


class CouplingFlow(Flow):
    r"""Neural spline coupling, :math:`y_a = z_a`, :math:`y_b = \mathrm{spline}(z_b; \theta(z_a))`.

    a are the first ``L // 2`` components, b the others. Both directions take one pass.

    Args:
        parameters: z_a ``(*batch, L // 2)`` to the raw parameters of the splines, ``(*batch, L - L // 2, 3 K - 1)``.
        bound: the splines act on [-bound, bound].

    Shape:
        ``(*batch, L)`` to the same and ``batch``.

    References:
        Neural spline flows (Durkan et al., 2019), section 3.2. https://arxiv.org/abs/1906.04032
        Density estimation using Real NVP (Dinh et al., 2017), eq. 4. https://arxiv.org/abs/1605.08803

    Example:
        >>> import torch
        >>> flow = CouplingFlow(lambda a: a.sum(-1)[..., None, None] + torch.zeros(2, 11), bound=3.0)
        >>> y, log_det = flow.forward(torch.zeros(5, 3))
        >>> y.shape, log_det.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, parameters: Callable[[Tensor], Tensor], *, bound: float) -> None:
        check_positive("CouplingFlow", bound=bound)
        self.parameters, self.bound = parameters, bound

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        a, b, spline = self._split(z)
        y, log_slope = spline.forward(b)
        return torch.cat([a, y], -1), log_slope.sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b, spline = self._split(y)
        z, log_slope = spline.inverse(b)
        return torch.cat([a, z], -1), log_slope.sum(-1)

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor, RationalQuadraticSpline]:
        half = z.shape[-1] // 2
        a, b = z[..., :half], z[..., half:]
        return a, b, RationalQuadraticSpline(self.parameters(a), bound=self.bound)


def coupling_network(latent_dim: int, *, hidden: Shape, num_bins: int, context_dim: int = 0) -> MLP:
    """Network from z_a and a context to the raw parameters of the splines; the flow starts near the identity."""
    half = latent_dim // 2
    net = MLP((half + context_dim,), (latent_dim - half, 3 * num_bins - 1), hidden=hidden, activation="relu")
    nn.init.xavier_uniform_(net.layers[-1].get_parameter("weight"), 0.1)
    return net
