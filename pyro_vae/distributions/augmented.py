"""Posteriors of z with an auxiliary variable a: the joint q(z, a | x) and its marginal in z."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._core.checks import CheckedArguments, check_count


class AugmentedPosterior(TorchDistribution, CheckedArguments):
    r"""The marginal :math:`q(z | x) = \int q(z, a | x)\, da`, bounded with a reverse model :math:`r(a | x, z)`.

    The marginal has no density in closed form, so the model is extended by r: with the log-weight
    :math:`\log p(x, z) + \log r(a | x, z) - \log q(z, a | x)` every bound and every importance estimate of log p(x)
    stays valid, for any r. As a Pyro program it has the auxiliary site ``"z_joint"`` with the joint density, the
    site ``"z"``, a deterministic function of it, and the factor ``"z_reverse"`` with :math:`-\log r`.

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
        check_count("AugmentedPosterior", latent_dim=latent_dim)
        self.joint, self.latent_dim, self.reverse = joint, latent_dim, reverse
        super().__init__(joint.batch_shape, torch.Size([latent_dim]), validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.joint.rsample(sample_shape)[..., : self.latent_dim]

    def log_prob(self, value: Tensor) -> Tensor:
        """Not available: the density of z alone has no closed form.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "AugmentedPosterior: z must come with its auxiliary variable, got z alone, whose density has no closed "
            "form. Run the guide as a program, as ELBO, log_weights and log_likelihood do."
        )

    def program(self, name: str) -> Tensor:
        """Run the Pyro statements and return the value of the site ``name``."""
        pair = pyro.sample(f"{name}_joint", self.joint, infer={"is_auxiliary": True})
        z, a = pair[..., : self.latent_dim], pair[..., self.latent_dim :]
        z = pyro.sample(name, Delta(z, event_dim=1))
        pyro.factor(f"{name}_reverse", -self.reverse(z).log_prob(a), has_rsample=True)
        return z


class AuxiliaryJoint(TorchDistribution, CheckedArguments):
    r"""The joint distribution :math:`q(a)\, q(z | a)` of the vector (z, a).

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

    def __init__(
        self, auxiliary: TorchDistribution, conditional: Callable[[Tensor], TorchDistribution], latent_dim: int
    ) -> None:
        check_count("AuxiliaryJoint", latent_dim=latent_dim)
        self.auxiliary, self.conditional, self.latent_dim = auxiliary, conditional, latent_dim
        self.has_rsample = auxiliary.has_rsample
        event = torch.Size([latent_dim + auxiliary.event_shape[0]])
        super().__init__(auxiliary.batch_shape, event, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> AuxiliaryJoint:
        """The same distribution with batch dimensions added."""
        return AuxiliaryJoint(self.auxiliary.expand(batch_shape), self.conditional, self.latent_dim)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        a = self.auxiliary.sample(sample_shape)
        return torch.cat([self.conditional(a).sample(), a], -1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        a = self.auxiliary.rsample(sample_shape)
        return torch.cat([self.conditional(a).rsample(), a], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        z, a = value[..., : self.latent_dim], value[..., self.latent_dim :]
        return self.auxiliary.log_prob(a) + self.conditional(a).log_prob(z)
