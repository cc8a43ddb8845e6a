"""The guide whose local parameters are improved per datum."""

from __future__ import annotations

from collections.abc import Callable

from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from pyro_vae.distributions import gradient
from pyro_vae.guides.base import AmortizedGuide, Guide
from pyro_vae.guides.diagonal_normal import DiagonalNormalGuide
from pyro_vae.networks import Shape


class SemiAmortizedGuide(Guide):
    r"""Amortised start, then steps per datum, :math:`\lambda_{t+1} = \lambda_t + \eta \nabla ELBO(x; \lambda_t)`.

    :math:`\lambda_0` are the parameters that a guide's network computes for x, and the posterior is that guide's
    distribution at :math:`\lambda_k`, after k steps on the ELBO of the model that this guide is attached to, per datum.

    The ELBO of each step is estimated from draws of its own, so the posterior of x is random through the steps. All
    bounds and importance estimates hold as ever: whatever the steps, z is drawn after them, from the very distribution
    whose density is used. All draws that one call makes for a datum share one :math:`\lambda_k`.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        guide: builds the guide that is improved, ``guide(data_shape, latent_dim)``; any
            :class:`~pyro_vae.guides.AmortizedGuide` with reparameterised draws.
        num_steps: number of steps k.
        lr: step size of the ascent.
        num_particles: draws of z per datum and step.
        clip_norm: largest norm of a datum's gradient; without it, a scale that starts too large would overshoot.
        unrolled: differentiate through the steps, which takes second derivatives of the model. Otherwise what the steps
            add is a constant for the gradient.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``guide`` builds no such guide, or a number is not positive.

    References:
        Semi-amortized variational autoencoders (Kim et al., 2018), algorithm 1; momentum is left out.
        https://arxiv.org/abs/1802.02550
        Iterative refinement of the approximate posterior for directed belief networks (Hjelm et al., 2016).
        https://arxiv.org/abs/1511.06382

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> from pyro_vae.guides import SemiAmortizedGuide
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), SemiAmortizedGuide((5,), 2, num_steps=3))
        >>> vae.guide.posterior(torch.ones(7, 5)).batch_shape
        torch.Size([7])
    """

    needs_model = True

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        guide: Callable[[Shape, int], AmortizedGuide] = DiagonalNormalGuide,
        num_steps: int = 10,
        lr: float = 0.01,
        num_particles: int = 1,
        clip_norm: float = 5.0,
        unrolled: bool = True,
    ) -> None:
        super().__init__(data_shape, latent_dim)
        numbers = {"num_steps": num_steps, "lr": lr, "num_particles": num_particles, "clip_norm": clip_norm}
        for name, value in numbers.items():
            if not value > 0:
                raise ValueError(
                    f"SemiAmortizedGuide: {name} must be positive, got {name}={value}. "
                    "Use for example num_steps=10, lr=0.01, num_particles=1, clip_norm=5.0."
                )
        self.num_steps, self.lr, self.num_particles = num_steps, float(lr), num_particles
        self.clip_norm, self.unrolled = float(clip_norm), unrolled
        self.guide = guide(self.data_shape, latent_dim)
        if not isinstance(self.guide, AmortizedGuide):
            raise ValueError(
                "SemiAmortizedGuide: guide must build an AmortizedGuide, whose parameters can be improved, got "
                f"guide={type(self.guide).__name__}. Use for example DiagonalNormalGuide."
            )

    def posterior(self, x: Tensor) -> TorchDistribution:
        params = self.guide.net(x)
        for _ in range(self.num_steps):
            params = params + self.lr * self._direction(x, params)
        return self.guide.distribution(params)

    def _direction(self, x: Tensor, params: Tensor) -> Tensor:
        slope = gradient(lambda p: self._elbo(x, p), params, follow=self.unrolled)
        own = tuple(range(x.dim() - len(self.data_shape), slope.dim()))  # the dimensions of one datum's parameters
        squared = slope.square().sum(own, keepdim=True).clamp_min(1e-20)
        return slope * (self.clip_norm * squared.rsqrt()).clamp_max(1.0)

    def _elbo(self, x: Tensor, params: Tensor) -> Tensor:
        q = self.guide.distribution(params)
        if not q.has_rsample:
            raise ValueError(
                "SemiAmortizedGuide: guide must have reparameterised draws, got "
                f"guide={type(self.guide).__name__}. Use for example DiagonalNormalGuide."
            )
        z = q.rsample(Size([self.num_particles]))  # (P, *batch, L)
        return (self.log_joint(x, z) - q.log_prob(z)).mean(0)
