"""Score-function gradients, for discrete guides and for comparison with pathwise gradients."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pyro_vae._core.checks import require
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective, log_mean_exp
from pyro_vae.objectives.programs import Programs

Baseline = Literal["none", "batch", "leave-one-out"]


class ScoreFunction(PerDatumObjective):
    r"""The ELBO by the score function, :math:`E[(f(z) - b)\, \nabla_\phi \log q_\phi(z | x)]`, :math:`f = \log w`.

    Also called REINFORCE. It applies to discrete guides; for reparameterised ones the pathwise gradient is ignored. The
    baselines b are independent of the sample that they are subtracted from, so that the gradient stays unbiased.

    Args:
        num_particles: number of particles K per datum.
        baseline: ``"none"``; ``"batch"``, the mean of f over the other data of the batch; ``"leave-one-out"``, the mean
            of f over the other particles of the datum.

    Raises:
        ValueError: ``"leave-one-out"`` with one particle; at a call: no weights per datum.

    References:
        Simple statistical gradient-following algorithms for connectionist reinforcement learning (Williams, 1992).
        https://doi.org/10.1007/BF00992696
        Neural variational inference and learning in belief networks (Mnih and Gregor, 2014), eq. 5 and 7.
        https://arxiv.org/abs/1402.0030
        Buy 4 REINFORCE samples, get a baseline for free! (Kool et al., 2019).
        https://openreview.net/forum?id=r1lgTGL5DE

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objective = objectives.ScoreFunction(num_particles=4, baseline="leave-one-out")
        >>> objective(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    pathwise = False

    def __init__(self, *, num_particles: int = 1, baseline: Baseline = "batch") -> None:
        super().__init__(num_particles=num_particles)
        enough = num_particles > 1 or baseline != "leave-one-out"
        rule = "num_particles must be at least 2 for 'leave-one-out'"
        require(enough, "ScoreFunction", rule, f"num_particles={num_particles}", "Use 4")
        self.baseline, self.additive = baseline, baseline != "batch"

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample_detached()
        signal = (particles.log_weight - particles.loss).detach()  # (K, B)
        signal = signal - self._baseline(signal)
        surrogate = (particles.log_model + signal * particles.log_guide).mean(0)
        return Estimate(particles.log_weight.mean(0), surrogate, particles)

    def _baseline(self, signal: Tensor) -> Tensor:
        if self.baseline == "none" or (self.baseline == "batch" and signal.shape[1] == 1):
            return torch.zeros_like(signal)
        return _mean_of_the_others(signal, 1 if self.baseline == "batch" else 0)


class VIMCO(PerDatumObjective):
    r"""IWAE's bound with a score-function gradient whose learning signals are :math:`\hat L - \hat L_{-k}`.

    :math:`\hat L_{-k}` is the bound with :math:`w_k` replaced by the geometric mean of the other weights, so that the
    signal of particle k is its contribution to the bound.

    Args:
        num_particles: number of particles K per datum, at least 2.

    Raises:
        ValueError: fewer than two particles; at a call: no weights per datum.

    References:
        Variational inference for Monte Carlo objectives (Mnih and Rezende, 2016), eq. 10 and 11.
        https://arxiv.org/abs/1602.06725

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.VIMCO(num_particles=5)(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    pathwise = False
    min_particles = 2

    def __init__(self, *, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample_detached()
        bound = log_mean_exp(particles.log_weight)
        log_weight = particles.log_weight.detach()  # (K, B)
        signal = bound.detach() - _bound_without_each(log_weight)
        if particles.loss.dim():  # it may depend on the samples, and is averaged over them
            signal = signal - (particles.loss - _mean_of_the_others(particles.loss, 0)).detach() / self.num_particles
        return Estimate(bound, bound + (signal * particles.log_guide).sum(0), particles)


def _bound_without_each(log_weight: Tensor) -> Tensor:
    """The bound with log-weight k replaced by the mean of the other log-weights, ``(K, B)``."""
    num = len(log_weight)
    diagonal = torch.eye(num, dtype=torch.bool, device=log_weight.device).unsqueeze(-1)
    replaced = torch.where(diagonal, _mean_of_the_others(log_weight, 0), log_weight)  # (K, K, B)
    return replaced.logsumexp(1) - math.log(num)


def _mean_of_the_others(values: Tensor, dim: int) -> Tensor:
    return (values.sum(dim, keepdim=True) - values) / (values.shape[dim] - 1)
