"""The Sylvester flow guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, refusal
from pyro_vae.flows import Flow, SylvesterFlow
from pyro_vae.flows.householder import householder_matrix
from pyro_vae.flows.sylvester import orthonormal
from pyro_vae.guides.flow import START, FlowGuide
from pyro_vae.guides.householder_flow import paired_units
from pyro_vae.networks import MLP, NetworkFactory, Shape

Kind = Literal["orthogonal", "householder", "triangular"]


class SylvesterFlowGuide(FlowGuide):
    r"""Sylvester flows, :math:`z_t = z_{t - 1} + Q_t R_t \tanh(\tilde{R}_t Q_t^\top z_{t - 1} + b_t)`.

    All parameters are functions of x.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder.
        kind: form of Q. ``"orthogonal"``: any ``num_ortho`` orthonormal columns; ``"householder"``: a product of
            ``num_householder`` reflections; ``"triangular"``: alternately the identity and the reversal.
        num_flows: number of flows T.
        num_ortho: number of columns M of the orthogonal kind, at most L; default min(L, 8).
        num_householder: reflections per flow of the Householder kind; an even number starts at the identity.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``kind`` is unknown, or a number is out of its range.

    References:
        Sylvester normalizing flows for variational inference (van den Berg et al., 2018), section 3 and 4; the
        columns are made orthogonal exactly, not to a tolerance. https://arxiv.org/abs/1803.05649

    Example:
        >>> import torch
        >>> from pyro_vae.guides import SylvesterFlowGuide
        >>> guide = SylvesterFlowGuide((1, 28, 28), 20, kind="householder")
        >>> guide.posterior(torch.zeros(5, 1, 28, 28)).rsample().shape
        torch.Size([5, 20])
    """

    start: Tensor
    unit: Tensor

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        net: NetworkFactory = MLP,
        kind: Kind = "orthogonal",
        num_flows: int = 4,
        num_ortho: int | None = None,
        num_householder: int = 8,
    ) -> None:
        check_count("SylvesterFlowGuide", latent_dim=latent_dim, num_flows=num_flows, num_householder=num_householder)
        self.kind, self.num_flows = kind, num_flows
        self.num_ortho = _num_columns(kind, latent_dim, num_ortho)
        start = _start(kind, num_flows, latent_dim, self.num_ortho, num_householder)
        m = self.num_ortho
        self._sizes = (0 if kind == "triangular" else start[0].numel(), m * m, 2 * m, m)  # of one flow
        super().__init__(data_shape, latent_dim, num_params=num_flows * sum(self._sizes), net=net)
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("unit", torch.eye(m), persistent=False)

    def flows(self, params: Tensor) -> Sequence[Flow]:
        parts = params.unflatten(-1, (self.num_flows, -1)).split(self._sizes, -1)  # (*batch, T, size) each
        q = self._orthogonal(parts[0])
        r, r_tilde = self._triangular(parts[1], parts[2])
        flows = zip(q.unbind(-3), r.unbind(-3), r_tilde.unbind(-3), parts[3].unbind(-2), strict=True)
        return [SylvesterFlow(*tensors) for tensors in flows]

    def _orthogonal(self, params: Tensor) -> Tensor:
        """Q of all flows, ``(*batch, T, L, M)``, or ``(T, L, M)`` of the triangular kind."""
        if self.kind == "triangular":
            return self.start
        moved = self.start + START * params.unflatten(-1, self.start.shape[1:])
        return orthonormal(moved) if self.kind == "orthogonal" else householder_matrix(moved)

    def _triangular(self, full: Tensor, diagonals: Tensor) -> tuple[Tensor, Tensor]:
        """R near zero and R-tilde near the identity; a full matrix holds the entries above both diagonals."""
        m = self.num_ortho
        full = START * full.unflatten(-1, (m, m))
        r, r_tilde = (START * diagonals.unflatten(-1, (2, m))).diag_embed().unbind(-3)
        return full.triu(1) + r, full.mT.triu(1) + r_tilde + self.unit


def _num_columns(kind: Kind, latent_dim: int, num_ortho: int | None) -> int:
    if num_ortho is not None and (kind != "orthogonal" or not 1 <= num_ortho <= latent_dim):
        rule = "num_ortho must be between 1 and latent_dim and is for kind='orthogonal'"
        what = f"num_ortho={num_ortho}, latent_dim={latent_dim}, kind={kind!r}"
        raise refusal("SylvesterFlowGuide", rule, what, "Omit it")
    return num_ortho or (min(latent_dim, 8) if kind == "orthogonal" else latent_dim)


def _start(kind: Kind, num_flows: int, latent_dim: int, num_ortho: int, num_householder: int) -> Tensor:
    """Initial columns, vectors of the reflections, or Q itself, for each flow."""
    if kind == "householder":
        return paired_units(num_householder, latent_dim).repeat(num_flows, 1, 1)
    unit = torch.eye(latent_dim)
    if kind == "triangular":
        return torch.stack([unit.flip(0) if t % 2 else unit for t in range(num_flows)])
    return torch.stack([unit.roll(t * num_ortho, 0)[:, :num_ortho] for t in range(num_flows)])
