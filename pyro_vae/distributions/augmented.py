"""A posterior of z that is the margin of a joint distribution with an auxiliary variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class AugmentedPosterior(TorchDistribution):
    r"""The margin :math:`q(z | x) = \int q(z, a | x)\, da`, bounded with a reverse model :math:`r(a | x, z)`.

    The margin has no density in closed form, so the model is extended by r instead: with
    :math:`\log p(x, z) + \log r(a | x, z) - \log q(z, a | x)` every bound and every importance estimate of log p(x)
    stays one, for any r. As a Pyro program it has the auxiliary site ``"z_joint"`` with the density of the pair, the
    site ``"z"``, which follows from it, and the factor ``"z_reverse"`` with :math:`-\log r`.

    Args:
        joint: q(z, a | x), with event shape ``(latent_dim + auxiliary_dim,)``, z first.
        latent_dim: number of dimensions of z.
        reverse: r(a | x, z): from z ``(*batch, latent_dim)`` to a distribution with event shape ``(auxiliary_dim,)``.

    Shape:
        batch shape that of ``joint``, event shape ``(latent_dim,)``.

    References:
        Auxiliary deep generative models (Maaloe et al., 2016), section 2.1. https://arxiv.org/abs/1602.05473
        Hierarchical variational models (Ranganath et al., 2016), section 3. https://arxiv.org/abs/1511.02386

    Example:
        >>> import torch
        >>> from pyro.distributions import Normal
        >>> pair = Normal(torch.zeros(5, 3), 1.0).to_event(1)
        >>> q = AugmentedPosterior(pair, 2, lambda z: Normal(z[..., :1], 1.0).to_event(1))
        >>> q.rsample().shape
        torch.Size([5, 2])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, joint: TorchDistribution, latent_dim: int, reverse: Callable[[Tensor], TorchDistribution]
    ) -> None:
        self.joint, self.latent_dim, self.reverse = joint, latent_dim, reverse
        super().__init__(joint.batch_shape, torch.Size([latent_dim]), validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.joint.rsample(sample_shape)[..., : self.latent_dim]

    def log_prob(self, value: Tensor) -> Tensor:
        """Refused: the margin's density has no closed form.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "AugmentedPosterior: z must come with its auxiliary variable, got z alone: its density has no closed form. "
            "Run the guide as a program, as ELBO, log_weights and log_likelihood do."
        )

    def program(self, name: str) -> Tensor:
        """The Pyro statements; returns the value of the site ``name``."""
        pair = pyro.sample(f"{name}_joint", self.joint, infer={"is_auxiliary": True})
        z, a = pair[..., : self.latent_dim], pair[..., self.latent_dim :]
        z = pyro.sample(name, Delta(z, event_dim=1))
        pyro.factor(f"{name}_reverse", -self.reverse(z).log_prob(a), has_rsample=True)
        return z
