"""Wake-sleep and its importance-weighted form: the guide learns by maximum likelihood, without a path or a score."""

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
    guide descends KL(p(z | x) || q(z | x)) instead, on the data (wake) or on what the model dreams up (sleep,
    :math:`\nabla_\phi \log q(z | x)` at :math:`(x, z) \sim p`). Both serve discrete guides.

    Args:
        num_particles: number of draws of z per datum K.
        guide_phase: ``"wake"``, ``"sleep"``, or ``"both"``, their mean.

    Raises:
        ValueError: an unknown phase; at a call: no weights per datum; for the sleep phase: a guide with auxiliary
            sites, or an observed site whose value is not, as it is, an argument of the programs.

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
        known = guide_phase in ("wake", "sleep", "both")
        self._require("guide_phase", repr(guide_phase), known, "must be 'wake', 'sleep' or 'both'", "Use one")
        self.guide_phase = guide_phase
        self.wake = {"wake": 1.0, "both": 0.5, "sleep": 0.0}[guide_phase]

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        if self.wake < 1:
            _check_dreams(layout, guide_trace)

    def _estimate(self, programs: Programs) -> Estimate:
        draws = programs.draw_without_path()
        weight = draws.log_weight.detach().softmax(0)  # (K, B)
        surrogate = (weight * (draws.log_model + self.wake * draws.log_guide)).sum(0)
        if self.wake < 1:
            surrogate = surrogate + (1 - self.wake) * dream(programs)
        return Estimate(log_mean_exp(draws.log_weight), surrogate, draws)


class WakeSleep(PerDatumObjective):
    r"""Wake-sleep: :math:`\nabla_\theta \log p(x, z)` awake, :math:`\nabla_\phi \log q(z | x)` asleep.

    Awake, x is of the data and z of the guide; asleep, :math:`(x, z) \sim p`.

    The value is the ELBO, which only the model's gradient raises: the guide learns to invert what the model dreams up.
    The method that AEVB's paper compares itself with.

    Args:
        num_particles: number of draws of z per datum K, which are averaged.

    Raises:
        ValueError: at a call: no weights per datum, a guide with auxiliary sites, or an observed site whose value is
            not, as it is, an argument of the programs.

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
        _check_dreams(layout, guide_trace)

    def _estimate(self, programs: Programs) -> Estimate:
        draws = programs.draw_without_path()
        return Estimate(draws.log_weight.mean(0), draws.log_model.mean(0) + dream(programs), draws)


def dream(programs: Programs) -> Tensor:
    """log q(z | x) of one dream (x, z) of the model per datum, ``(B,)``."""
    with torch.no_grad():
        model = poutine.uncondition(programs.model)
        trace = poutine.trace(model).get_trace(*programs.args, **programs.kwargs)
    seen = {id(s["infer"]["obs"]): s for s in latents(trace) if s["infer"].get("was_observed")}
    given = {id(a) for a in (*programs.args, *programs.kwargs.values())}
    for site in (site for key, site in seen.items() if key not in given):
        raise refusal(
            programs.layout.owner,
            "data must be observed as they are given, for the model to dream up others",
            f"site {site['name']!r} with a value that is not an argument",
            "Pass to the programs what is observed, or use guide_phase='wake'",
        )
    args = [seen[id(a)]["value"] if id(a) in seen else a for a in programs.args]
    kwargs = {k: seen[id(a)]["value"] if id(a) in seen else a for k, a in programs.kwargs.items()}
    dreaming = Programs(programs.runs.single(), programs.owners, programs.guide, args, kwargs, 1)
    latent = dreaming.density_at(trace, [trace]).latent
    return latent[0] if latent.dim() else latent


def _check_dreams(layout: Layout, guide_trace: Trace) -> None:
    for site in latents(guide_trace):
        if site["infer"].get("is_auxiliary"):
            rule, what = "the model must know every site of the guide, to dream it up", f"{site['name']!r}"
            raise refusal(layout.owner, rule, what, "Use ReweightedWakeSleep(guide_phase='wake')")
