"""The joint distribution of an auxiliary variable and of what depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class AuxiliaryJoint(TorchDistribution):
    r"""The pair (z, a) with density :math:`q(a)\, q(z | a)`, z first.

    Args:
        auxiliary: q(a), with event shape ``(A,)``.
        conditional: q(z | a): from a ``(*sample, *batch, A)`` to a distribution with event shape ``(latent_dim,)``.
        latent_dim: number of dimensions of z.

    Shape:
        batch shape that of ``auxiliary``, event shape ``(latent_dim + A,)``.

    Example:
        >>> import torch
        >>> from pyro.distributions import Normal
        >>> a = Normal(torch.zeros(5, 1), 1.0).to_event(1)
        >>> AuxiliaryJoint(a, lambda a: Normal(a.expand(*a.shape[:-1], 2), 1.0).to_event(1), 2).rsample().shape
        torch.Size([5, 3])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, auxiliary: TorchDistribution, conditional: Callable[[Tensor], TorchDistribution], latent_dim: int
    ) -> None:
        self.auxiliary, self.conditional, self.latent_dim = auxiliary, conditional, latent_dim
        event = torch.Size([latent_dim + auxiliary.event_shape[0]])
        super().__init__(auxiliary.batch_shape, event, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> AuxiliaryJoint:
        """The same distribution with batch dimensions added."""
        return AuxiliaryJoint(self.auxiliary.expand(batch_shape), self.conditional, self.latent_dim)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        a = self.auxiliary.rsample(sample_shape)
        return torch.cat([self.conditional(a).rsample(), a], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        z, a = value[..., : self.latent_dim], value[..., self.latent_dim :]
        return self.auxiliary.log_prob(a) + self.conditional(a).log_prob(z)
