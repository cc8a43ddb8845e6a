"""The semi-amortized guide: local parameters optimised per datum, from amortized initial values."""

from __future__ import annotations

from collections.abc import Callable

from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from pyro_vae._core.checks import check_count, check_positive, refusal
from pyro_vae.distributions import gradient
from pyro_vae.guides.base import AmortizedGuide, Guide
from pyro_vae.guides.diagonal_normal import DiagonalNormalGuide
from pyro_vae.networks import Shape


class SemiAmortizedGuide(Guide):
    r"""Gradient ascent per datum, :math:`\lambda_{t+1} = \lambda_t + \eta \nabla ELBO(x; \lambda_t)`.

    :math:`\lambda_0` is the output of a guide's network for x, and the posterior is that guide's distribution at
    :math:`\lambda_k`, after k steps on the ELBO of the model that this guide is attached to.

    The ELBO of each step is estimated from new samples, so the posterior of x is random. All bounds and importance
    estimates remain valid: z is sampled after the steps from the distribution whose density is evaluated. All samples
    of a datum in one call share :math:`\lambda_k`.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        guide: builds the guide that is optimised, ``guide(data_shape, latent_dim)``; any
            :class:`~pyro_vae.guides.AmortizedGuide` with reparameterised samples.
        num_steps: number of steps k.
        lr: step size of the ascent.
        num_particles: number of samples of z per datum and step.
        clip_norm: largest norm of a datum's gradient; it prevents overshooting from a scale that starts too large.
        unrolled: differentiate through the steps, which takes second derivatives of the model. Otherwise the sum of the
            steps is a constant for the gradient.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``guide`` does not build such a guide, or a number is not positive.

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
    has_marginals = True
    random_posterior = True

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
        check_count("SemiAmortizedGuide", num_steps=num_steps, num_particles=num_particles)
        check_positive("SemiAmortizedGuide", lr=lr, clip_norm=clip_norm)
        self.num_steps, self.lr, self.num_particles = num_steps, float(lr), num_particles
        self.clip_norm, self.unrolled = float(clip_norm), unrolled
        self.guide = guide(self.data_shape, latent_dim)
        if not isinstance(self.guide, AmortizedGuide):
            rule = "guide must build an AmortizedGuide, whose local parameters can be optimised"
            raise _refusal(rule, self.guide)
        self.has_marginals = self.guide.has_marginals

    def posterior(self, x: Tensor) -> TorchDistribution:
        params = self.guide.net(x)
        for _ in range(self.num_steps):
            params = params + self.lr * self._direction(x, params)
        return self.guide.distribution(params)

    def _direction(self, x: Tensor, params: Tensor) -> Tensor:
        slope = gradient(lambda p: self._elbo(x, p), params, create_graph=self.unrolled)
        dims = tuple(range(x.dim() - len(self.data_shape), slope.dim()))  # those of one datum's parameters
        squared = slope.square().sum(dims, keepdim=True).clamp_min(1e-20)
        return slope * (self.clip_norm * squared.rsqrt()).clamp_max(1.0)

    def _elbo(self, x: Tensor, params: Tensor) -> Tensor:
        q = self.guide.distribution(params)
        if not q.has_rsample:
            raise _refusal("guide must have reparameterised samples", self.guide)
        z = q.rsample(Size([self.num_particles]))  # (P, *batch, L)
        return (self.log_joint(x, z) - q.log_prob(z)).mean(0)


def _refusal(rule: str, guide: Guide) -> ValueError:
    return refusal("SemiAmortizedGuide", rule, f"guide={type(guide).__name__}", "Use for example DiagonalNormalGuide")
