"""Gradients by the score of q, which need no path through the draws: for discrete guides, and for comparison."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective, log_mean_exp
from pyro_vae.objectives.programs import Programs

Baseline = Literal["none", "batch", "leave-one-out"]


class ScoreFunction(PerDatumObjective):
    r"""The ELBO, its gradient by the score, :math:`E[(f(z) - b)\, \nabla_\phi \log q_\phi(z | x)]`, :math:`f = \log w`.

    Also called REINFORCE. It needs no path through the draws, so it serves discrete guides; the path of a
    reparameterised one is ignored. The baselines b are independent of the draw that they are subtracted from, so that
    the gradient keeps its mean.

    Args:
        num_particles: number of draws of z per datum K.
        baseline: ``"none"``; ``"batch"``, the mean of f over the other data of the batch; ``"leave-one-out"``, that
            over the other draws for the same datum.

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
        known = baseline in ("none", "batch", "leave-one-out")
        self._require("baseline", repr(baseline), known, "must be 'none', 'batch' or 'leave-one-out'", "Use one")
        enough = num_particles > 1 or baseline != "leave-one-out"
        self._require("num_particles", num_particles, enough, "must be at least 2 for 'leave-one-out'", "Use 4")
        self.baseline, self.additive = baseline, baseline != "batch"

    def _estimate(self, programs: Programs) -> Estimate:
        draws = programs.draw_without_path()
        signal = (draws.log_weight - draws.loss).detach()  # (K, B)
        signal = signal - self._baseline(signal)
        surrogate = (draws.log_model + signal * draws.log_guide).mean(0)
        return Estimate(draws.log_weight.mean(0), surrogate, draws)

    def _baseline(self, signal: Tensor) -> Tensor:
        if self.baseline == "none" or (self.baseline == "batch" and signal.shape[1] == 1):
            return torch.zeros_like(signal)
        return _mean_of_the_others(signal, 1 if self.baseline == "batch" else 0)


class VIMCO(PerDatumObjective):
    r"""IWAE's bound, its gradient by the score, each draw with what it adds to the bound as its signal.

    The signal of draw k is :math:`\hat L - \hat L_{-k}`: the bound, less the bound where :math:`w_k` is replaced by
    the geometric mean of the other weights.

    Args:
        num_particles: number of draws of z per datum K, at least 2.

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

    def __init__(self, *, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)
        self._require("num_particles", num_particles, num_particles > 1, "must be at least 2", "Use 5")

    def _estimate(self, programs: Programs) -> Estimate:
        draws = programs.draw_without_path()
        bound = log_mean_exp(draws.log_weight)
        log_weight = draws.log_weight.detach()  # (K, B)
        signal = bound.detach() - _bound_without_each(log_weight)
        if draws.loss.dim():  # it may depend on the draws too, and is a mean over them
            signal = signal - (draws.loss - _mean_of_the_others(draws.loss, 0)).detach() / self.num_particles
        return Estimate(bound, bound + (signal * draws.log_guide).sum(0), draws)


def _bound_without_each(log_weight: Tensor) -> Tensor:
    """(K, B): the bound with log-weight k replaced by the mean of the other log-weights."""
    num = len(log_weight)
    own = torch.eye(num, dtype=torch.bool, device=log_weight.device).unsqueeze(-1)
    replaced = torch.where(own, _mean_of_the_others(log_weight, 0), log_weight)  # (K, K, B)
    return replaced.logsumexp(1) - math.log(num)


def _mean_of_the_others(values: Tensor, dim: int) -> Tensor:
    return (values.sum(dim, keepdim=True) - values) / (values.shape[dim] - 1)
