"""Rate plus weighted squared error: the objective of a rate-distortion autoencoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from pyro_vae._core.checks import check_positive, refusal
from pyro_vae._core.modes import joined
from pyro_vae._core.traces import masked, observations
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Particles, Programs


class RateDistortion(PerDatumObjective):
    r"""Rate plus weighted squared error, :math:`E_q[\log q(z | x) - \log p(z)] + \lambda E_q \|x - \hat x(z)\|^2`.

    :math:`\hat x` is the mean of p(x | z). With a :class:`~pyro_vae.guides.QuantizedGuide`, whose log q is 0, the rate
    is the expected length of the code. The loss is minus the ELBO of a normal likelihood of variance
    :math:`1 / (2 \lambda)`, without its constant: give ``NormalLikelihood`` the scale :math:`(2 \lambda)^{-1/2}`, and
    its log-likelihood is that of the trained model. ``terms.kl`` is the rate in nats, ``terms.reconstruction`` minus
    the weighted squared error.

    Args:
        weight: lambda, nats per squared unit of the data; about ``L / (2 D MSE)`` reaches a mean squared error MSE of
            the D entries of a datum with L latents.
        num_particles: number of particles K per datum.

    Raises:
        ValueError: ``weight`` is not positive; at a call: the likelihood has no mean.

    References:
        End-to-end optimized image compression (Balle, Laparra and Simoncelli, 2017), eq. 1 and 10.
        https://arxiv.org/abs/1611.01704

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import QuantizedGuide
        >>> from pyro_vae.likelihoods import NormalLikelihood
        >>> from pyro_vae.priors import FactorizedPrior
        >>> vae = VAE(FactorizedPrior(2), NormalLikelihood(2, (5,), scale=0.1), QuantizedGuide((5,), 2))
        >>> objectives.RateDistortion(weight=50.0)(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    def __init__(self, *, weight: float = 30.0, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)
        check_positive("RateDistortion", weight=weight)
        self.weight = float(weight)

    def numbers(self) -> dict[str, float]:
        return {"weight": self.weight}

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        particles = replace(particles, log_likelihood=-self.weight * _squared_error(particles))
        bound = (particles.log_likelihood - particles.kl).mean(0)
        return Estimate(bound, bound, particles)


def _squared_error(particles: Particles) -> Tensor:
    """Squared error of each datum, ``(K, B)``."""
    layout, each = particles.runs.model_layout, particles.num // len(particles.model_traces)
    runs = []
    for trace in particles.model_traces:
        errors = [layout.per_datum(each, s, masked(_errors(s), s["mask"])) for s in observations(trace)]
        runs.append(sum(errors[1:], errors[0]))
    return joined(runs)


def _errors(site: Any) -> Tensor:
    """Squared error of a site's value, with the site's batch shape; missing entries have none."""
    p, x = site["fn"], site["value"]
    try:
        difference = (p.mean - x).masked_fill(x.isnan(), 0.0)
    except NotImplementedError:
        rule, what = "p(x | z) must have a mean", type(p).__name__
        raise refusal("RateDistortion", rule, what, "Use NormalLikelihood") from None
    return difference.square().flatten(difference.dim() - p.event_dim).sum(-1) if p.event_dim else difference.square()
