"""Adversarial variational Bayes: an estimate of the ELBO of implicit guides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pyro.distributions import MultivariateNormal
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae._core.checks import check_count, refusal, require
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents
from pyro_vae.distributions import Implicit
from pyro_vae.networks import MLP, NetworkFactory
from pyro_vae.objectives.per_datum import Estimate
from pyro_vae.objectives.programs import Programs
from pyro_vae.objectives.ratio import RatioNetwork, RatioTraining
from pyro_vae.objectives.ratio_objective import RatioObjective

_MIN_SCALE = 1e-3


class AdversarialELBO(RatioObjective):
    r"""Adversarial variational Bayes: the ELBO with :math:`\log q(z | x) \approx T(x, z) + \log r(z | x)`, no bound.

    For an :class:`~pyro_vae.guides.ImplicitGuide`. The contrast r is the normal with the mean and the covariance C C'
    of :math:`q(z | x)`, taken at the same points of the noise for every x (adaptive contrast), so that the network T
    only has to learn how far q is from a normal. T is the logit of a classifier of :math:`(x, \bar z)`, with
    :math:`\bar z = C^{-1} (z - \mu)`, against :math:`(x, \epsilon)`, :math:`\epsilon \sim \mathcal{N}(0, I)`; it takes
    ``ratio_steps`` steps of its own Adam after the gradient of each batch. Its weights, and the moments, are constants
    in the gradient of the guide, whose omitted terms have mean zero.

    The value is **not a bound**: an imperfect T makes it too high or too low. Report
    :func:`~pyro_vae.evaluation.annealed_log_likelihood` or :func:`~pyro_vae.evaluation.sandwich` instead.

    Args:
        ratio: builds T, ``ratio((D + L,), (1,))`` for data of D entries, flattened and followed by the standardized z.
        num_particles: number of particles K per datum, for the gradient and for T.
        num_moments: number of points of the noise that determine the contrast, more than L.
        ratio_steps: steps of T per batch.
        lr: learning rate of T.
        betas: decay of the averages of its Adam.
        spectral_norm, gradient_penalty: see :class:`~pyro_vae.objectives.RatioNetwork` and
            :class:`~pyro_vae.objectives.RatioTraining`.

    Raises:
        ValueError: a rate or a number is not positive; at a call: the guide has not exactly one implicit site.

    References:
        Adversarial variational Bayes: unifying variational autoencoders and generative adversarial networks (Mescheder,
        Nowozin and Geiger, 2017), algorithm 1 and section 4; there the contrast is a diagonal normal whose moments are
        estimated from new samples.
        https://arxiv.org/abs/1701.04722

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import ImplicitGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), ImplicitGuide((5,), 2))
        >>> objective = objectives.AdversarialELBO()
        >>> objective(vae.model, vae.guide)(torch.ones(7, 5)).backward()
        >>> loss = objective.update()
    """

    def __init__(
        self,
        *,
        ratio: NetworkFactory = MLP,
        num_particles: int = 1,
        num_moments: int = 64,
        ratio_steps: int = 1,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.5, 0.9),
        spectral_norm: bool = False,
        gradient_penalty: float = 0.0,
    ) -> None:
        check_count("AdversarialELBO", 2, num_moments=num_moments)
        check_count("AdversarialELBO", ratio_steps=ratio_steps)
        network = partial(RatioNetwork, net=ratio, spectral_norm=spectral_norm)
        training = partial(RatioTraining, lr=lr, betas=betas, gradient_penalty=gradient_penalty)
        training(nn.Linear(1, 1))  # checks its options
        super().__init__(network, training, num_particles=num_particles, steps=ratio_steps)
        self.num_moments = num_moments

    def score(self, q: Implicit, z: Tensor) -> Tensor:
        """The estimate of log q(z | x), ``batch``, in nats; its gradient is that by z."""
        if q.has_mean:
            raise q.refusal()
        contrast = self._contrast(q)
        x = q.given.flatten(len(q.given_batch)).expand(*z.shape[:-1], -1)
        centred = (z - contrast.loc).unsqueeze(-1)
        standardized = torch.linalg.solve_triangular(contrast.scale_tril, centred, upper=False).squeeze(-1)
        pairs = torch.cat([x, standardized], -1)  # (*batch, D + L)
        self._samples = pairs.detach().flatten(0, -2), z.shape[-1]
        network = self._build(pairs.shape[-1:], pairs.detach())
        return network(pairs) + contrast.log_prob(z)

    def _contrast(self, q: Implicit) -> MultivariateNormal:
        if not self._constants:
            latent_dim = q.event_shape[0]
            value = f"num_moments={self.num_moments} for {latent_dim}"
            rule, advice = "num_moments must exceed the number of latents", "Use four times as many"
            require(self.num_moments > latent_dim, "AdversarialELBO", rule, value, advice)
            noise = torch.randn(self.num_moments, q.noise_dim, generator=torch.Generator().manual_seed(0))
            self._constants = [noise.to(q.given)]
        loc, covariance = q.moments(self._constants[0])
        smallest = _MIN_SCALE**2 * torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        return MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(covariance + smallest))

    def _sides(self, samples: tuple[Tensor, int]) -> tuple[Tensor, Tensor]:
        pairs, size = samples
        x = pairs[:, :-size]
        return pairs, torch.cat([x, torch.randn_like(pairs[:, -size:])], -1)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        names = [site["name"] for site in latents(guide_trace) if isinstance(site["fn"], Implicit)]
        if len(names) != 1:
            rule = "the guide must have one site without a density"
            raise refusal(layout.owner, rule, f"sites {names}", "Use an ImplicitGuide, or ELBO for other guides")

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        bound = particles.log_weight.mean(0)
        return Estimate(bound, bound, particles)
