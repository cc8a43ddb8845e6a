"""The evidence lower bound and its weighted forms, as Pyro ELBOs that report reconstruction and KL."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae._core.checks import check_positive, refusal
from pyro_vae._core.modes import takes_plate
from pyro_vae._core.traces import masked, sites
from pyro_vae._core.types import Program
from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.schedules import Schedule


class TraceObjective(Objective):
    r"""Mixin that weights the traces of one of Pyro's ELBOs: :math:`-(w\, reconstruction - \beta\, KL)`."""

    def __init__(
        self, *, num_particles: int = 1, beta: float | Schedule = 1.0, reconstruction_weight: float = 1.0
    ) -> None:
        super().__init__(num_particles=num_particles, beta=beta)
        check_positive(type(self).__name__, at_least_zero=True, reconstruction_weight=reconstruction_weight)
        self.reconstruction_weight = float(reconstruction_weight)
        self._pair: tuple[Program, Program] | None = None
        self._particle_terms: list[Terms] = []

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, with the gradient to follow."""
        self._start(model, guide, args, kwargs)
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        self._collect()
        return loss

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the batch, as a number."""
        self._start(model, guide, args, kwargs)
        loss = super().loss(model, guide, *args, **kwargs)
        self._collect()
        return loss

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the batch, as a number; its gradient is added to the parameters'."""
        self._start(model, guide, args, kwargs)
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self._collect()
        return loss

    def _start(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        self._particle_terms = []
        if self._pair == (model, guide):
            return
        # Pyro's ELBO stores the plate nesting of its first model: determine it again for another pair.
        if self._pair is not None:
            self.max_plate_nesting = float("inf")
        self._pair = (model, guide)
        if self.num_particles > 1:
            self.vectorize_particles = takes_plate(type(self).__name__, model, guide, args, kwargs)

    def _collect(self) -> None:
        columns = zip(*self._particle_terms, strict=True)
        sums = (torch.stack([torch.as_tensor(v) for v in values]).sum(0) for values in columns)
        self.terms = Terms(*(total / self.num_particles for total in sums))

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        # The guide's factors, such as the reverse model of an auxiliary variable, are part of the KL.
        beta = self._weight
        weighted = _Weights(self.reconstruction_weight, beta)(model), _Weights(beta, beta)(guide)
        model_trace, guide_trace = super()._get_trace(*weighted, args, kwargs)
        self._particle_terms.append(self._terms(model_trace, guide_trace))
        return model_trace, guide_trace

    @abstractmethod
    def _terms(self, model_trace: Trace, guide_trace: Trace) -> Terms:
        """The terms of one particle's traces."""


class _SampledKL(TraceObjective, Trace_ELBO):
    def _terms(self, model_trace: Trace, guide_trace: Trace) -> Terms:
        return Terms(_reconstruction(model_trace), _sampled_kl(model_trace, guide_trace).detach())


class ELBO(_SampledKL):
    r"""Evidence lower bound by Monte Carlo, :math:`E_q[\log p(x, z) - \log q(z | x)]`: Pyro's ``Trace_ELBO``.

    Args:
        num_particles: number of particles K per datum.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), eq. 6. https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> elbo = objectives.ELBO(num_particles=3)
        >>> elbo(vae.model, vae.guide)(torch.ones(7, 5)).backward()
        >>> elbo.terms.kl.shape
        torch.Size([])
    """

    def __init__(self, *, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)


class _AnalyticKL(TraceObjective, TraceMeanField_ELBO):
    analytic_kl = True

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> Terms:
        return Terms(_reconstruction(model_trace), _analytic_kl(model_trace, guide_trace).detach())


class MeanFieldELBO(_AnalyticKL):
    r"""Evidence lower bound with the analytic KL, :math:`E_q[\log p(x | z)] - KL(q(z | x) \| p(z))`.

    Pyro's ``TraceMeanField_ELBO``, which raises instead of being silently wrong (latent sites in different orders in
    guide and model) or silently sampling (no analytic KL of the two distributions).

    Args:
        num_particles: number of particles K per datum.

    Raises:
        ValueError: at a call: the KL has no closed form for this pair, or the order of the sites differs.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), eq. 7. https://arxiv.org/abs/1312.6114
    """

    def __init__(self, *, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)


class BetaELBO(_SampledKL):
    r"""Weighted bound, :math:`w\, E_q[\log p(x | z)] - \beta\, E_q[\log q(z | x) - \log p(z)]`.

    Schedules advance by :meth:`set_progress`, which :func:`pyro_vae.fit` calls before every step; other training loops,
    such as Pyro's ``SVI``, have to call it, or beta keeps its initial value.

    ``beta=0`` is an autoencoder without regularisation towards the prior; with ``reconstruction_weight=0`` the guide
    becomes the prior.

    Args:
        beta: weight of the KL, a number or a :class:`~pyro_vae.objectives.Schedule`.
        reconstruction_weight: weight of the reconstruction.
        num_particles: number of particles K per datum.

    Raises:
        ValueError: a negative weight.

    References:
        beta-VAE: learning basic visual concepts with a constrained variational framework (Higgins et al., 2017),
        eq. 4. https://openreview.net/forum?id=Sy2fzU9gl

    Example:
        >>> from pyro_vae.objectives import BetaELBO, LinearWarmUp
        >>> objective = BetaELBO(beta=LinearWarmUp(100, unit="epochs"))
        >>> objective.set_progress(step=500, epoch=50.0)
        >>> objective.beta
        0.5
    """

    def __init__(
        self, *, beta: float | Schedule = 1.0, reconstruction_weight: float = 1.0, num_particles: int = 1
    ) -> None:
        super().__init__(num_particles=num_particles, beta=beta, reconstruction_weight=reconstruction_weight)


class BetaMeanFieldELBO(_AnalyticKL):
    r"""Weighted bound with the analytic KL, :math:`w\, E_q[\log p(x | z)] - \beta\, KL(q(z | x) \| p(z))`.

    Args:
        beta: weight of the KL, a number or a :class:`~pyro_vae.objectives.Schedule`.
        reconstruction_weight: weight of the reconstruction.
        num_particles: number of particles K per datum.

    Raises:
        ValueError: as :class:`MeanFieldELBO` and :class:`BetaELBO`.

    References:
        beta-VAE: learning basic visual concepts with a constrained variational framework (Higgins et al., 2017),
        eq. 4. https://openreview.net/forum?id=Sy2fzU9gl
    """

    def __init__(
        self, *, beta: float | Schedule = 1.0, reconstruction_weight: float = 1.0, num_particles: int = 1
    ) -> None:
        super().__init__(num_particles=num_particles, beta=beta, reconstruction_weight=reconstruction_weight)


class _Weights(Messenger):
    """Scale the log-probabilities of observed and of latent sites; unlike ``poutine.scale``, also by 0."""

    def __init__(self, observed: float | Tensor, latent: float | Tensor) -> None:
        super().__init__()
        self.observed, self.latent = observed, latent

    def _pyro_sample(self, msg: Any) -> None:
        if msg["infer"].get("is_loss"):
            return
        weight = self.observed if msg["is_observed"] else self.latent
        if isinstance(weight, Tensor) or weight != 1.0:
            msg["scale"] = msg["scale"] * weight


def _reconstruction(model_trace: Trace) -> Tensor:
    sites = (model_trace.nodes[name] for name in model_trace.observation_nodes)
    return sum((_log_prob(site).sum() for site in sites), torch.zeros(())).detach()


def _sampled_kl(model_trace: Trace, guide_trace: Trace) -> Tensor:
    # A guide's factors are observed sites: the reverse model of an auxiliary variable is one.
    log_q = sum((_log_prob(site).sum() for site in sites(guide_trace)), torch.zeros(()))
    log_p = sum((_log_prob(model_trace.nodes[name]).sum() for name in model_trace.stochastic_nodes), torch.zeros(()))
    return log_q - log_p


def _analytic_kl(model_trace: Trace, guide_trace: Trace) -> Tensor:
    extra = [name for name in guide_trace.stochastic_nodes if name not in model_trace.nodes]
    if extra:
        rule = "the guide must sample the model's latent sites and no others"
        raise refusal("MeanFieldELBO", rule, f"additional sites {extra}", "Use ELBO")
    names = [name for name in model_trace.stochastic_nodes if name in guide_trace.nodes]
    if names != [name for name in guide_trace.stochastic_nodes if name in model_trace.nodes]:
        what = f"model={names}, guide={guide_trace.stochastic_nodes}"
        rule = "model and guide must sample their sites in the same order"
        raise refusal("MeanFieldELBO", rule, what, "Use ELBO, which is right for any order")
    return sum((_site_kl(guide_trace.nodes[name], model_trace.nodes[name]) for name in names), torch.zeros(()))


def _site_kl(guide_site: Any, model_site: Any) -> Tensor:
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        kinds = f"q={type(guide_site['fn']).__name__}, p={type(model_site['fn']).__name__}"
        rule = f"site {model_site['name']!r} must have an analytic KL"
        raise refusal("MeanFieldELBO", rule, kinds, "Use ELBO") from None
    return masked(kl, guide_site["mask"]).sum()


def _log_prob(site: Any) -> Tensor:
    """Log-probability with masks, without plate or beta scales."""
    return masked(site["unscaled_log_prob"], site["mask"])
