"""The Hamiltonian guide: leapfrog steps on the density of the model."""

from __future__ import annotations

import math

import torch
from pyro.distributions import Normal, TransformedDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import check_count, check_positive, refusal
from pyro_vae.distributions import AugmentedPosterior, Leapfrog
from pyro_vae.guides.base import Guide, check_log_scale_bounds, diagonal_normal
from pyro_vae.networks import MLP, ContextNetwork, NetworkFactory, Shape, build_network


class HMCGuide(Guide):
    r"""Hamiltonian variational inference, :math:`(z_T, v_T) = \Phi^T(z_0, v_0)` with leapfrog steps :math:`\Phi`.

    A sample starts at a diagonal normal :math:`q(z_0 | x)` with momentum :math:`v_0 \sim \mathcal{N}(0, I)` and takes
    ``num_steps`` leapfrog steps on :math:`\log p(x, z)` of the model that the guide is attached to. The density of the
    pair is exact; a learned reverse model :math:`r(v_T | x, z_T)` accounts for the momentum. An accept-reject step,
    which could not be differentiated, is not needed: the bound holds for every step size.

    Every step costs a gradient of the model, and training differentiates through it. With tempering, the momentum
    starts hot, :math:`v_0 \sim \mathcal{N}(0, I / \beta_0)` for a learned :math:`\beta_0`, and cools quadratically.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        num_steps: number of leapfrog steps T.
        step_size: initial step size; step sizes are learned per dimension.
        tempering: whether the momentum is cooled.
        net: builds the encoder, ``net(data_shape, (2, latent_dim))``, and the reverse model's layers of x before the
            common ones, ``net(data_shape, hidden[:1])``.
        hidden: widths of the reverse model's common layers of x and z.
        log_scale_bounds: limits of the log scales.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``num_steps`` or ``step_size`` is not positive.

    References:
        Markov chain Monte Carlo and variational inference: bridging the gap (Salimans, Kingma and Welling, 2015),
        section 3. https://arxiv.org/abs/1410.6460
        Hamiltonian variational auto-encoder (Caterini, Doucet and Sejdinovic, 2018), eq. 8 for the tempering; their
        reverse model is a standard normal. https://arxiv.org/abs/1805.11328

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> from pyro_vae.guides import HMCGuide
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), HMCGuide((5,), 2, num_steps=4))
        >>> vae.guide(torch.ones(7, 5)).shape
        torch.Size([7, 2])
    """

    needs_model = True
    has_density = False

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        num_steps: int = 3,
        step_size: float = 0.1,
        tempering: bool = False,
        net: NetworkFactory = MLP,
        hidden: Shape = (200,),
        log_scale_bounds: tuple[float, float] = (-12.0, 12.0),
    ) -> None:
        super().__init__(data_shape, latent_dim)
        check_count("HMCGuide", num_steps=num_steps)
        check_positive("HMCGuide", step_size=step_size, advice="Use 0.1")
        self.num_steps, self.tempering = num_steps, tempering
        self.log_scale_bounds = check_log_scale_bounds("HMCGuide", log_scale_bounds)
        self.net = build_network(net, self.data_shape, (2, latent_dim))
        self.reverse = ContextNetwork(self.data_shape, (2, latent_dim), context_dim=latent_dim, net=net, hidden=hidden)
        self.log_step_size = nn.Parameter(torch.full((latent_dim,), math.log(step_size)))
        # 1 / sqrt(beta_0) = 1 + softplus(log_heat), so beta_0 is at most 1; it starts near 0.6.
        self.log_heat = nn.Parameter(torch.tensor(-1.0)) if tempering else None

    def posterior(self, x: Tensor) -> AugmentedPosterior:
        self._check_model()
        start = diagonal_normal(self.net(x), self.log_scale_bounds).base_dist
        log_heat, log_tempering = self._schedule(start.loc)
        loc = torch.cat([start.loc, torch.zeros_like(start.loc)], -1)
        scale = torch.cat([start.scale, log_heat.exp().expand_as(start.scale)], -1)
        leapfrog = Leapfrog(lambda z: self.log_joint(x, z), self.log_step_size.exp(), log_tempering)
        joint = TransformedDistribution(Normal(loc, scale).to_event(1), [leapfrog])
        return AugmentedPosterior(
            joint, self.latent_dim, lambda z: diagonal_normal(self.reverse(x, z), self.log_scale_bounds)
        )

    def _check_model(self) -> None:
        # With other dropout masks the steps could not be reversed.
        owner = getattr(self._log_joint, "__self__", None)
        modules = owner.modules() if isinstance(owner, nn.Module) else ()
        if any(isinstance(module, nn.Dropout) and module.p > 0 and module.training for module in modules):
            rule, advice = "the model must not have dropout in train mode", "Use a likelihood without, or refit_guide"
            raise refusal("HMCGuide", rule, "a model with dropout", advice)

    def _schedule(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The log of 1 / sqrt(beta_0), and the increments of the momentum's log scale after each step."""
        if self.log_heat is None:
            return like.new_zeros(()), like.new_zeros(self.num_steps)
        heat = 1 + nn.functional.softplus(self.log_heat)  # 1 / sqrt(beta_0)
        share = torch.linspace(0, 1, self.num_steps + 1, dtype=like.dtype, device=like.device).square()
        log_heats = (heat + (1 - heat) * share).log()  # (num_steps + 1,), down to 0
        return log_heats[0], log_heats.diff()
