"""Diagnostics of the latent space: active units, KL of each dimension, and the decomposition of the ELBO."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.failures import program_errors
from pyro_vae._core.owners import evaluating, placement
from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation.aggregate import TERMS, decompose
from pyro_vae.evaluation.marginals import kl_per_dimension, moments
from pyro_vae.evaluation.result import Quantity, Result
from pyro_vae.models import VAE

ACTIVE_VARIANCE = 0.01  # variance of the posterior mean above which a unit counts as active (Burda et al., 2016)
FEW_ACTIVE_SHARE = 0.25  # share of active units below which advice is given
COLLAPSED = 0.1  # nats; a smaller rate means that z carries almost no information about x
PRIOR_DRAWS = 2_000

_REMEDIES = (
    "Train with a KL warm-up (objectives.BetaELBO with a LinearWarmUp), objectives.FreeBits or objectives.InfoVAE; "
    "start the decoder at the data's mean (init_at_mean, Likelihood.initialise_mean); or give the decoder less power: "
    "fewer units, or of an AutoregressiveLikelihood a smaller receptive_field."
)


@dataclass(frozen=True)
class LatentDiagnostics(Result):
    r"""Active units, decomposition of the ELBO and aggregate posterior of a data set.

    With the aggregate posterior of the first M data, :math:`q(z) = \frac1M \sum_n q(z | x_n)`, the ELBO is

    .. math:: E_q[\log p(x|z)] - I(n; z) - KL(q(z) \| \textstyle\prod_j q(z_j)) - \sum_j KL(q(z_j) \| p(z_j)):

    minus distortion, index-code mutual information, total correlation and dimension-wise KL; the last two sum to the
    marginal KL(q(z) || p(z)) if the prior factorises. The identity holds to rounding for every datum, since all terms
    use the same samples.

    **I(n; z) is at most log M.** Near that bound (:attr:`saturated`) it only shows that z identifies each of the M
    data: more data would raise it, and lower the marginal KL by as much. Its rows, per datum, can be negative.

    Attributes:
        means: ``(N, latent_dim)``, the posterior mean of every datum.
        activity: ``(latent_dim,)``, Var_x(E_q[z | x]); a unit is active above :data:`ACTIVE_VARIANCE`. If means are
            estimated from samples, the variance that the samples add is subtracted.
        kl: ``(latent_dim,)``, the mean KL(q(z_i | x) || p(z_i)) of the marginals in nats; their sum is the rate if
            both factorise. None if a marginal has no closed form.
        elbo: ``(M,)``, reconstruction - rate, in nats like all following terms.
        reconstruction: ``(M,)``, E_q[log p(x | z)], minus the distortion.
        rate: ``(M,)``, E_q[log q(z | x) - log p(z)].
        information: ``(M,)``, E_q[log q(z | x) - log q(z)].
        marginal_kl: ``(M,)``, E_q[log q(z) - log p(z)].
        total_correlation: ``(M,)``, E_q[log q(z) - sum_j log q(z_j)]; None if the marginals of q have no closed form
            (flows).
        dimension_kl: ``(M,)``, E_q[sum_j log q(z_j) - log p(z)]; None if in addition the prior does not factorise.
        term_errors: ``(M, 7)``, Monte Carlo standard errors of the seven terms, elbo to dimension_kl; nan for None.
        aggregate_mean: ``(latent_dim,)``, the mean of the aggregate posterior of all N data.
        aggregate_variance: ``(latent_dim,)``, its variance, E[Var_q(z | x)] + Var(E_q[z | x]).
        prior_mean: ``(latent_dim,)``.
        prior_variance: ``(latent_dim,)``.
        draws: ``(M, latent_dim)``, samples of the aggregate posterior, one per datum.
        prior_draws: ``(2000, latent_dim)``, samples of the prior.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman and Johnson, 2016),
        section 2. http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018), eq. 2.
        https://arxiv.org/abs/1802.04942
        Importance Weighted Autoencoders (Burda et al., 2016), section 5.2: the activity and its threshold.
        https://arxiv.org/abs/1509.00519
    """

    method: ClassVar[str] = "diagnostics"
    title: ClassVar[str] = "Active units, decomposition of the ELBO and aggregate posterior"
    topic: ClassVar[str] = "diagnostics"
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("active_units", "active units", "dimensions", paired=False),
        Quantity("information", "mutual information"),
        Quantity("total_correlation", "total correlation"),
        Quantity("dimension_kl", "dimension-wise KL"),
    )
    layout: ClassVar[dict[str, str]] = {
        "ND": "means",
        "D": "activity kl aggregate_mean aggregate_variance prior_mean prior_variance",
        "M": "elbo reconstruction rate information marginal_kl total_correlation dimension_kl",
        "MT": "term_errors",
    }
    alternative_text: ClassVar[str] = "Bars of the terms of the ELBO"

    means: Tensor = field()  # type: ignore[assignment]  # replaces the base's method, which is not used here
    activity: Tensor
    kl: Tensor | None = None
    elbo: Tensor | None = None
    reconstruction: Tensor | None = None
    rate: Tensor | None = None
    information: Tensor | None = None
    marginal_kl: Tensor | None = None
    total_correlation: Tensor | None = None
    dimension_kl: Tensor | None = None
    term_errors: Tensor | None = None
    aggregate_mean: Tensor | None = None
    aggregate_variance: Tensor | None = None
    prior_mean: Tensor | None = None
    prior_variance: Tensor | None = None
    draws: Tensor | None = None
    prior_draws: Tensor | None = None

    @property
    def active_units(self) -> int:
        """Number of dimensions with an activity above :data:`ACTIVE_VARIANCE`."""
        return int((self.activity > ACTIVE_VARIANCE).sum())

    @property
    def available(self) -> list[str]:
        """Names of the ELBO's terms that are not None."""
        return [name for name in TERMS if getattr(self, name) is not None]

    @property
    def information_bound(self) -> float:
        """log M, in nats: the upper bound of the mutual information; nan if that is not available."""
        return math.nan if self.information is None else math.log(len(self.information))

    @property
    def saturated(self) -> bool:
        """Whether the mutual information is within log 2 of its bound."""
        return self.information is not None and self.mean("information") > self.information_bound - math.log(2)

    def standard_errors(self, name: str = "elbo") -> Tensor | None:
        """Monte Carlo standard errors of a term, one per datum; None if the ELBO was not decomposed."""
        return None if self.term_errors is None else self.term_errors[:, TERMS.index(name)]

    def advice(self) -> str:
        """Explain posterior collapse, inactive units or a saturated mutual information; empty otherwise."""
        active, dims, notes = self.active_units, len(self.activity), []
        rate = math.inf if self.rate is None else self.mean("rate")
        if active == 0 or rate < COLLAPSED:
            nats = "" if self.rate is None else f", the rate is {rate:.3f} nats"
            notes.append(f"The posterior has collapsed: {active} of {dims} units are active{nats}. {_REMEDIES}")
        elif active < FEW_ACTIVE_SHARE * dims:
            notes.append(f"Few units, {active} of {dims}, are active. If more were expected: {_REMEDIES}")
        if self.saturated:
            notes.append(
                f"The mutual information, {self.mean('information'):.2f} nats, is at its bound, the log of the number "
                f"of data, {self.information_bound:.2f}: a sample of z identifies its datum among these. With more "
                "data (num_decomposed) the mutual information would be larger and the marginal KL smaller."
            )
        return " ".join(notes)

    def summary(self) -> dict[str, Any]:
        """Active units, the ELBO's terms with their errors, and the advice."""
        parts = {n: {"mean": self.mean(n), "monte_carlo_error": self.monte_carlo_error(n)} for n in self.available}
        head = {"active_units": self.active_units, "latent_dim": len(self.activity)}
        bound = {"information_bound": self.information_bound, "saturated": self.saturated}
        return {**head, **parts, **bound, "advice": self.advice()}

    def lines(self) -> list[str]:
        """Active units, and the ELBO's terms with their errors."""
        lines = [f"active units       {self.active_units} of {len(self.activity)}"]
        for name in self.available:
            at_most = f" (at most log M = {self.information_bound:.3f})" if name == "information" else ""
            error = self.monte_carlo_error(name)
            lines.append(f"{name.replace('_', ' '):<18} {self.mean(name):.3f} +- {error:.3f} Monte Carlo{at_most}")
        return lines


def latent_diagnostics(
    vae: VAE,
    data: Data,
    *,
    batch_size: int = 500,
    num_samples: int = 100,
    num_decomposed: int | None = None,
    num_draws: int = 2,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
) -> LatentDiagnostics:
    r"""Active units, :math:`\mathrm{Var}_x(E_{q(z | x)}[z_i]) > 0.01`, KL per dimension, and decomposition of the ELBO.

    The decomposition uses the aggregate posterior of the first M = ``num_decomposed`` data, evaluated without
    subsampling: M * M posterior densities per sample, in blocks at fixed memory. A density that inverts a flow is much
    more expensive than a normal one.

    Args:
        vae: the model.
        data: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches.
        batch_size: data at a time.
        num_samples: samples per datum, at least 2, to estimate moments without a closed form.
        num_decomposed: M; 0 omits the decomposition; None takes 2,000, or 200 if the marginals of a posterior have no
            closed form (flows).
        num_draws: samples per datum, at least 2, to estimate the terms of the decomposition.
        seed: of the samples; the global generator is restored.
        protocol: entries to add to the result's protocol, such as the data set's.

    Returns:
        The diagnostics; terms that are not available are None, with the reason in ``protocol["unavailable"]``.

    Raises:
        ValueError: a number is too small, or the data are empty.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman and Johnson, 2016),
        section 2. http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018), eq. 2, there
        estimated from minibatches. https://arxiv.org/abs/1802.04942

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> diagnostics = latent_diagnostics(vae, torch.rand(50, 5).round())
        >>> diagnostics.kl.shape, diagnostics.mean("information") < diagnostics.information_bound
        (torch.Size([2]), True)
    """
    check_arguments(latent_diagnostics, locals(), batch_size=1, num_samples=2, num_draws=2, num_decomposed=0)
    entries: dict[str, Any] = {"estimator": "aggregate posterior", "num_samples": num_samples, "num_draws": num_draws}
    with evaluating(vae), isolated_rng(seed):
        tensors = _moments(vae, data, batch_size, num_samples, seed)
        finite = bool(tensors["means"].isfinite().all())  # type: ignore[union-attr]
        require(finite, "latent_diagnostics", "posterior means of the data must be finite", "nan or inf")
        if num_decomposed != 0:
            sizes = {"num_data": num_decomposed, "num_draws": num_draws, "batch_size": batch_size}
            terms = decompose(vae, data, seed=seed, **sizes)  # type: ignore[arg-type]
            tensors |= {**terms.per_datum(), "term_errors": terms.errors(), "draws": terms.draws.cpu()}
            entries |= {"num_decomposed": len(terms.draws), "unavailable": terms.unavailable}
    entries |= {"num_data": len(tensors["means"]), "sample_seed": seed}  # type: ignore[arg-type]
    return LatentDiagnostics(**tensors, protocol={**(protocol or {}), **entries})  # type: ignore[arg-type]


def _moments(vae: VAE, data: Data, batch_size: int, num_samples: int, seed: int) -> dict[str, Tensor | None]:
    rows = [[t.cpu() for t in row] for row in _batches(vae, data, batch_size, num_samples, seed)]
    mean, variance, noise, *kl = (torch.cat(column) for column in zip(*rows, strict=True))
    activity, p = activity_of(mean, noise), vae.prior()
    prior_mean, prior_variance, _ = moments(p, PRIOR_DRAWS)
    return {
        "means": mean,
        "activity": activity,
        "kl": kl[0].mean(0) if kl else None,
        "aggregate_mean": mean.mean(0),
        "aggregate_variance": variance.mean(0) + activity,
        "prior_mean": prior_mean.cpu(),
        "prior_variance": prior_variance.cpu(),
        "prior_draws": p.sample(torch.Size([PRIOR_DRAWS])).cpu(),
    }


def activity_of(mean: Tensor, noise: Tensor) -> Tensor:
    """Var_x(E_q[z | x]), ``(L,)``, of means ``(N, L)`` that are estimated with the variances ``noise``."""
    # Subtract the Monte Carlo variance of estimated means, which alone would put a collapsed unit at the threshold.
    monte_carlo = noise.mean(0) * (len(mean) - 1) / len(mean)
    return (mean.var(0, correction=0) - monte_carlo).clamp_min(0)


def _batches(vae: VAE, data: Data, batch_size: int, num_samples: int, seed: int) -> Iterator[list[Tensor]]:
    """Mean, variance, variance of the mean and, if available, KL per datum, ``(batch, L)`` each."""
    device, dtype = placement(vae)
    batches = Batches(data, batch_size, device=device, dtype=dtype, owner="latent_diagnostics")
    for number, batch in enumerate(batches.epoch()):
        reseed(seed, number)
        with program_errors("latent_diagnostics", batch.args, vae.guide):
            q = vae.encode(batch.args[0])
            kl = kl_per_dimension(q, vae.prior(), num_samples)
            row = [*moments(q, num_samples), *([] if kl is None else [kl])]
        yield row
