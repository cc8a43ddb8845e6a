"""Wake-sleep and its importance-weighted form: the guide is fitted by maximum likelihood."""

from __future__ import annotations

from typing import Literal

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective, log_mean_exp
from pyro_vae.objectives.programs import Programs

Phase = Literal["wake", "sleep", "both"]


class ReweightedWakeSleep(PerDatumObjective):
    r"""Reweighted wake-sleep: :math:`\sum_k \tilde w_k [\nabla_\theta \log p(x, z_k) + \nabla_\phi \log q(z_k | x)]`.

    :math:`\tilde w_k = w_k / \sum_j w_j`, per datum. The value is IWAE's bound, which the model's gradient raises; the
    guide descends KL(p(z | x) || q(z | x)) instead, on the data (wake) or on samples of the model (sleep,
    :math:`\nabla_\phi \log q(z | x)` at :math:`(x, z) \sim p`). Both apply to discrete guides.

    Args:
        num_particles: number of particles K per datum.
        guide_phase: ``"wake"``, ``"sleep"``, or ``"both"``, their mean.

    Raises:
        ValueError: an unknown phase; at a call: no weights per datum; for the sleep phase: a guide with auxiliary
            sites, or an observed site whose value is not itself an argument of the programs.

    References:
        Reweighted wake-sleep (Bornschein and Bengio, 2015), eq. 5, 8 and 9. https://arxiv.org/abs/1406.2751
        Revisiting reweighted wake-sleep for models with stochastic control flow (Le et al., 2019).
        https://arxiv.org/abs/1805.10469

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.ReweightedWakeSleep(guide_phase="both")(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    pathwise = False

    def __init__(self, *, num_particles: int = 5, guide_phase: Phase = "wake") -> None:
        super().__init__(num_particles=num_particles)
        self.guide_phase = guide_phase
        self.wake = {"wake": 1.0, "both": 0.5, "sleep": 0.0}[guide_phase]

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        if self.wake < 1:
            _check_sleep(layout, guide_trace)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample_detached()
        weight = particles.log_weight.detach().softmax(0)  # (K, B)
        surrogate = (weight * (particles.log_model + self.wake * particles.log_guide)).sum(0)
        if self.wake < 1:
            surrogate = surrogate + (1 - self.wake) * sleep_log_prob(programs)
        return Estimate(log_mean_exp(particles.log_weight), surrogate, particles)


class WakeSleep(PerDatumObjective):
    r"""Wake-sleep: :math:`\nabla_\theta \log p(x, z)` in the wake phase, :math:`\nabla_\phi \log q(z | x)` in sleep.

    In the wake phase x is from the data and z from the guide; in the sleep phase :math:`(x, z) \sim p`.

    The value is the ELBO, which only the model's gradient raises; the guide learns to invert the model on its samples.
    The baseline of the AEVB paper.

    Args:
        num_particles: number of particles K per datum, over which the bound is averaged.

    Raises:
        ValueError: at a call: no weights per datum, a guide with auxiliary sites, or an observed site whose value is
            not itself an argument of the programs.

    References:
        The wake-sleep algorithm for unsupervised neural networks (Hinton et al., 1995).
        https://doi.org/10.1126/science.7761831

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.WakeSleep()(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    pathwise = False

    def __init__(self, *, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        _check_sleep(layout, guide_trace)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample_detached()
        return Estimate(particles.log_weight.mean(0), particles.log_model.mean(0) + sleep_log_prob(programs), particles)


def sleep_log_prob(programs: Programs) -> Tensor:
    """log q(z | x) at one sample (x, z) of the model per datum, ``(B,)``."""
    with torch.no_grad():
        model = poutine.uncondition(programs.model)
        trace = poutine.trace(model).get_trace(*programs.args, **programs.kwargs)
    observed = {id(s["infer"]["obs"]): s for s in latents(trace) if s["infer"].get("was_observed")}
    arguments = {id(a) for a in (*programs.args, *programs.kwargs.values())}
    for site in (site for key, site in observed.items() if key not in arguments):
        raise refusal(
            programs.layout.owner,
            "observed values must be arguments of the programs, to be replaced by samples of the model",
            f"site {site['name']!r} with another value",
            "Pass the observed values to the programs, or use guide_phase='wake'",
        )
    args = [observed[id(a)]["value"] if id(a) in observed else a for a in programs.args]
    kwargs = {k: observed[id(a)]["value"] if id(a) in observed else a for k, a in programs.kwargs.items()}
    sleep = Programs(programs.runs.single(), programs.owners, programs.guide, args, kwargs, 1)
    latent = sleep.density_at(trace, [trace]).latent
    return latent[0] if latent.dim() else latent


def _check_sleep(layout: Layout, guide_trace: Trace) -> None:
    for site in latents(guide_trace):
        if site["infer"].get("is_auxiliary"):
            rule, what = "the model must have every site of the guide, to sample it", f"auxiliary site {site['name']!r}"
            raise refusal(layout.owner, rule, what, "Use ReweightedWakeSleep(guide_phase='wake')")
