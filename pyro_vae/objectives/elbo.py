"""The evidence lower bound and its weighted forms, as Pyro ELBOs that report reconstruction and KL apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import logger
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.objectives.schedules import ConstantSchedule, Schedule

Program = Callable[..., Any]


class Terms(NamedTuple):
    """What an ELBO is made of: sums over the data of the batch, in nats, unweighted and detached."""

    reconstruction: Tensor
    """E_q[log p(x | z)], all observed sites; higher is better."""
    kl: Tensor
    """E_q[log q(z | x) - log p(z)], all latent sites."""


class Objective(Trace_ELBO):
    r"""A Pyro ELBO that keeps the two terms of its last evaluation, and can weigh them.

    Minimised is :math:`-(w\, \mathrm{reconstruction} - \beta\, \mathrm{KL})`, summed over the batch. As with every Pyro
    ELBO: ``objective(model, guide)`` is a module whose call returns the loss, and ``SVI`` takes it as ``loss``.

    Args:
        num_particles: number of draws of z per datum K.
        beta: weight of the KL, a number or a schedule.
        reconstruction_weight: weight w of the reconstruction.

    References:
        beta-VAE: learning basic visual concepts with a constrained variational framework (Higgins et al., 2017),
        eq. 4. https://openreview.net/forum?id=Sy2fzU9gl

    Attributes:
        terms: the :class:`Terms` of the last ``differentiable_loss`` or ``loss``; None before.
    """

    terms: Terms | None = None
    analytic_kl = False

    def __init__(
        self,
        *,
        num_particles: int = 1,
        beta: float | Schedule = 1.0,
        reconstruction_weight: float = 1.0,
    ) -> None:
        # One particle needs no plate of particles, nor the extra run with which Pyro guesses where to put it.
        super().__init__(num_particles=num_particles, vectorize_particles=num_particles > 1)
        if num_particles < 1:
            raise ValueError(
                f"{type(self).__name__}: num_particles must be at least 1, got num_particles={num_particles}. Use 1."
            )
        for name, value in (("beta", beta), ("reconstruction_weight", reconstruction_weight)):
            if not isinstance(value, Schedule) and not value >= 0:
                raise ValueError(
                    f"{type(self).__name__}: {name} must not be negative, got {name}={value}. Use 0, 1 or above."
                )
        self.schedule = beta if isinstance(beta, Schedule) else ConstantSchedule(beta)
        self.reconstruction_weight = float(reconstruction_weight)
        self.beta = self.schedule(0, 0.0)
        self._beta_tensor: Tensor | None = None
        self._pair: tuple[Program, Program] | None = None
        self._found: list[Terms] = []

    def set_progress(self, step: int, epoch: float) -> None:
        """Move the schedule of beta; :func:`pyro_vae.fit` does it before every step.

        Args:
            step: gradient steps done.
            epoch: passes over the data done, with their fraction.
        """
        self.beta = self.schedule(step, epoch)
        if self._beta_tensor is not None:
            self._beta_tensor.fill_(self.beta)

    def state(self, like: Tensor) -> list[Tensor]:
        """The tensors that a recording has to read anew at each replay: a scheduled beta, or nothing.

        From this call on beta is such a tensor, with the device and dtype of ``like``, moved by :meth:`set_progress`.
        """
        if isinstance(self.schedule, ConstantSchedule):
            return []
        if self._beta_tensor is None or (self._beta_tensor.device, self._beta_tensor.dtype) != (
            like.device,
            like.dtype,
        ):
            self._beta_tensor = torch.full((), self.beta, device=like.device, dtype=like.dtype)
        return [self._beta_tensor]

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, with the gradient to follow."""
        with self._weighing(model, guide):
            loss = super().differentiable_loss(model, guide, *args, **kwargs)
        self._collect()
        return loss

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the batch, as a number."""
        with self._weighing(model, guide):
            loss = super().loss(model, guide, *args, **kwargs)
        self._collect()
        return loss

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the batch, as a number; its gradient is added to the parameters'."""
        with self._weighing(model, guide):
            loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self._collect()
        return loss

    def _weighing(self, model: Program, guide: Program) -> _Weights:
        # Pyro's ELBO remembers the plates of the first model it met: make it look again at another pair.
        if self._pair is not None and self._pair != (model, guide):
            self.max_plate_nesting = float("inf")
        self._pair = (model, guide)
        self._found = []
        return _Weights(self.reconstruction_weight, self.beta if self._beta_tensor is None else self._beta_tensor)

    def _collect(self) -> None:
        sums = (torch.stack([torch.as_tensor(v) for v in values]).sum(0) for values in zip(*self._found, strict=True))
        self.terms = Terms(*(total / self.num_particles for total in sums))

    def _guess_max_plate_nesting(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        level = logger.level
        logger.setLevel("WARNING")  # the user did not ask where Pyro puts its plate of particles
        try:
            super()._guess_max_plate_nesting(model, guide, args, kwargs)
        finally:
            logger.setLevel(level)

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        kl = _analytic_kl if self.analytic_kl else _sampled_kl
        self._found.append(Terms(_reconstruction(model_trace), kl(model_trace, guide_trace).detach()))
        return model_trace, guide_trace


class ELBO(Objective):
    r"""Evidence lower bound by Monte Carlo, :math:`E_q[\log p(x, z) - \log q(z | x)]`: Pyro's ``Trace_ELBO``.

    Args:
        num_particles: number of draws of z per datum K.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), eq. 6. https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, BernoulliLikelihood, DiagonalNormalGuide, StandardNormalPrior, objectives
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> elbo = objectives.ELBO(num_particles=3)
        >>> elbo(vae.model, vae.guide)(torch.ones(7, 5)).backward()
        >>> elbo.terms.kl.shape
        torch.Size([])
    """

    def __init__(self, *, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)


class _AnalyticKL(Objective, TraceMeanField_ELBO):
    analytic_kl = True


class MeanFieldELBO(_AnalyticKL):
    r"""Evidence lower bound with the analytic KL, :math:`E_q[\log p(x | z)] - KL(q(z | x) \| p(z))`.

    Pyro's ``TraceMeanField_ELBO``, but refused where that would be silently wrong (latent sites in another order in
    the guide than in the model) or silently sampled (no analytic KL between the two distributions).

    Args:
        num_particles: number of draws of z per datum K.

    Raises:
        ValueError: the KL has no closed form for this pair, or the order of the sites differs.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), eq. 7. https://arxiv.org/abs/1312.6114
    """

    def __init__(self, *, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)


class BetaELBO(Objective):
    r"""Weighted bound, :math:`w\, E_q[\log p(x | z)] - \beta\, E_q[\log q(z | x) - \log p(z)]`.

    A schedule moves with :meth:`set_progress`, which :func:`pyro_vae.fit` calls before every step; a loop of your own
    (Pyro's ``SVI``, say) has to call it too, or beta stays where the schedule starts.

    ``beta=0`` is the plain autoencoder: nothing keeps the posterior near the prior. ``reconstruction_weight=0`` is the
    other extreme: the guide becomes the prior and the data are forgotten.

    Args:
        beta: weight of the KL, a number or a :class:`~pyro_vae.objectives.Schedule`.
        reconstruction_weight: weight of the reconstruction.
        num_particles: number of draws of z per datum K.

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
        num_particles: number of draws of z per datum K.

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
    """Scales the log-probabilities of observed and of latent sites; unlike ``poutine.scale`` by 0 as well."""

    def __init__(self, observed: float, latent: float | Tensor) -> None:
        super().__init__()
        self.observed, self.latent = observed, latent

    def _pyro_sample(self, msg: Any) -> None:
        weight = self.observed if msg["is_observed"] else self.latent
        if isinstance(weight, Tensor) or weight != 1.0:
            msg["scale"] = msg["scale"] * weight


def _reconstruction(model_trace: Trace) -> Tensor:
    sites = (model_trace.nodes[name] for name in model_trace.observation_nodes)
    return sum((_log_prob(site).sum() for site in sites), torch.zeros(())).detach()


def _sampled_kl(model_trace: Trace, guide_trace: Trace) -> Tensor:
    # A guide's factors are observed sites: the reverse model of an auxiliary variable is one.
    names = [*guide_trace.stochastic_nodes, *guide_trace.observation_nodes]
    log_q = sum((_log_prob(guide_trace.nodes[name]).sum() for name in names), torch.zeros(()))
    log_p = sum((_log_prob(model_trace.nodes[name]).sum() for name in model_trace.stochastic_nodes), torch.zeros(()))
    return log_q - log_p


def _analytic_kl(model_trace: Trace, guide_trace: Trace) -> Tensor:
    extra = [name for name in guide_trace.stochastic_nodes if name not in model_trace.nodes]
    if extra:
        raise ValueError(
            f"MeanFieldELBO: the guide must sample the model's sites alone, got {extra} besides. Use ELBO instead."
        )
    names = [name for name in model_trace.stochastic_nodes if name in guide_trace.nodes]
    if names != [name for name in guide_trace.stochastic_nodes if name in model_trace.nodes]:
        raise ValueError(
            "MeanFieldELBO: model and guide must sample their sites in the same order, "
            f"got model={names}, guide={guide_trace.stochastic_nodes}. Use ELBO, which is right for any order."
        )
    return sum((_site_kl(guide_trace.nodes[name], model_trace.nodes[name]) for name in names), torch.zeros(()))


def _site_kl(guide_site: Any, model_site: Any) -> Tensor:
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        kinds = f"q={type(guide_site['fn']).__name__}, p={type(model_site['fn']).__name__}"
        raise ValueError(
            f"MeanFieldELBO: site {model_site['name']!r} must have an analytic KL, got {kinds}. Use ELBO instead."
        ) from None
    return _masked(kl, guide_site["mask"]).sum()


def _log_prob(site: Any) -> Tensor:
    """Log-probability without any plate or beta scaling, masks applied."""
    return _masked(site["unscaled_log_prob"], site["mask"])


def _masked(value: Tensor, mask: Tensor | bool | None) -> Tensor:
    return value if mask is None else torch.where(torch.as_tensor(mask, device=value.device), value, 0.0)
