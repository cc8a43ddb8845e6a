"""Result of importance sampling: estimate, diagnostics and bounds per datum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae.evaluation.result import LOG_LIKELIHOOD, Quantity, Result

_BOUNDS = ("elbo", "distortion", "rate")
PARETO_K_LIMIT = 0.7
"""Largest Pareto k of a reliable importance estimate (Vehtari et al., 2024)."""
_DOUBTFUL_SHARE = 0.1  # of flagged data, above which the mean itself is in doubt


@dataclass(frozen=True)
class LogLikelihood(Result):
    r"""Importance-weighted estimate of log p(x), per datum, in nats.

    :math:`L_S = \log \frac1S \sum_s w_s`, :math:`w_s = p(x, z_s) / q(z_s | x)`: a lower bound on log p(x) in
    expectation, for every S, which tightens as S grows. Higher is better.

    The ELBO is minus the sum of two costs in nats. The *distortion* :math:`-E_q[\log p(x | z)]` is the reconstruction
    error, the code length of x given z. The *rate* :math:`E_q[\log q(z | x) - \log p(z)] = KL(q(z | x) \| p(z))` is the
    information that z carries about x.

    Attributes:
        log_likelihood: ``(N,)``, the estimate.
        standard_error: ``(N,)``, its Monte Carlo standard error by the delta method,
            :math:`\sqrt{\mathrm{Var}(w) / S} / \bar w`. It does not include the bias of the bound.
        effective_sample_size: ``(N,)``, :math:`(\sum w)^2 / \sum w^2`, between 1 and S.
        pareto_k: ``(N,)``, the shape of the weights' tail; above 0.7 estimate and standard error are unreliable.
        elbo: ``(N,)``, the mean log-weight: the evidence lower bound from the same samples.
        distortion: ``(N,)``, in nats.
        rate: ``(N,)``, in nats; elbo = -(distortion + rate).
        curve: ``(N, J)``, the bounds L_1, L_2, L_4, ... and L_S at :meth:`curve_sizes`, from the same samples: L_K is
            the mean over disjoint blocks of K samples. None in files of earlier versions.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8 and theorem 1. https://arxiv.org/abs/1509.00519
        Fixing a broken ELBO (Alemi et al., 2018), section 2: rate and distortion. https://arxiv.org/abs/1711.00464
        Pareto smoothed importance sampling (Vehtari et al., 2024). https://arxiv.org/abs/1507.02646
    """

    method: ClassVar[str] = "importance"
    title: ClassVar[str] = "Importance-weighted bound on the log-likelihood, with its curve and Pareto k"
    topic: ClassVar[str] = "bounds"
    quantities: ClassVar[tuple[Quantity, ...]] = (LOG_LIKELIHOOD, Quantity("elbo", "ELBO"), Quantity("rate", "rate"))
    phrases: ClassVar[dict[str, str]] = {"num_samples": "{} importance samples"}
    layout: ClassVar[dict[str, str]] = {
        "N": "log_likelihood standard_error effective_sample_size pareto_k elbo distortion rate",
        "NJ": "curve",
    }
    alternative_text: ClassVar[str] = "Importance bound against the number of samples"

    log_likelihood: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    elbo: Tensor
    distortion: Tensor
    rate: Tensor
    curve: Tensor | None = None

    def curve_sizes(self) -> list[int]:
        """Number of samples K of each column of ``curve``: powers of two, and S itself."""
        s = int(self.protocol["num_samples"])
        powers = [2**j for j in range(s.bit_length())]
        return powers if powers[-1] == s else [*powers, s]

    def bits_per_dim(self, name: str = "log_likelihood") -> float:
        """Minus the mean of a lower bound, in bits per entry of the datum.

        A code length for discrete data only; for a density it can be negative.
        """
        return -self.mean(name) / math.log(2) / int(self.protocol["dimensions"])

    def untrusted(self) -> float:
        """Share of the data with a Pareto k above 0.7; nan if there were too few samples to estimate k."""
        known = self.pareto_k[~self.pareto_k.isnan()]
        return float((known > PARETO_K_LIMIT).double().mean()) if len(known) else math.nan

    def flagged(self) -> Tensor:
        """``(M,)``, the rows whose estimate is unreliable: Pareto k above 0.7."""
        return (self.pareto_k > PARETO_K_LIMIT).nonzero().squeeze(-1)

    def is_doubtful(self) -> bool:
        """Whether more than a tenth of the data are flagged."""
        return self.untrusted() > _DOUBTFUL_SHARE

    def advice(self) -> str:
        """Explain how to improve the estimates of the flagged data; empty if no datum is flagged."""
        if not len(self.flagged()):
            return ""
        flagged = f"{len(self.flagged())} of {len(self)} data have a Pareto k above {PARETO_K_LIMIT}"
        if not self.is_doubtful():
            return f"{flagged}: their estimates may be too low. More samples (num_samples) would show it."
        return (
            f"{flagged}: their estimates are not to be trusted, they may be far too low and their error bars too "
            "small. Take more samples (num_samples), fit a better guide (refit_guide), or use annealed importance "
            "sampling (annealed_log_likelihood, sandwich)."
        )

    def summary(self) -> dict[str, Any]:
        """The means with their errors, the curve's means, and the diagnostics."""
        means = self.means("log_likelihood", "elbo", "rate", "distortion")
        diagnostics = {
            "effective_sample_size_median": float(self.effective_sample_size.median()),
            "pareto_k_above_0.7": self.untrusted(),
        }
        names = ("log_likelihood", "elbo") if self.protocol["discrete"] else ()
        bits = {f"{name}_bits_per_dim": self.bits_per_dim(name) for name in names}
        return {**means, **bits, **diagnostics, **self._curve()}

    def _curve(self) -> dict[str, Any]:
        if self.curve is None:
            return {}
        bounds = self.curve.mean(0).tolist()
        return {"curve": [{"num_samples": k, "bound": b} for k, b in zip(self.curve_sizes(), bounds, strict=True)]}

    def lines(self) -> list[str]:
        """Bound, ELBO, rate and distortion with their errors, and the diagnostics of the weights."""
        bits = f" ({self.bits_per_dim():.4f} bits per dimension)" if self.protocol["discrete"] else ""
        bad = "unknown (fewer than 25 samples)" if math.isnan(self.untrusted()) else f"for {self.untrusted():.1%}"
        ess = f"{float(self.effective_sample_size.median()):.1f} of {self.protocol['num_samples']}"
        if self.protocol.get("estimator") == "exact":
            return [*self.log_likelihood_lines(bits), "exact: there are no latent variables"]
        return [
            *self.log_likelihood_lines(bits),
            *(f"{n:<15} {self.mean(n):.3f} +- {self.sampling_error(n):.3f} over data" for n in _BOUNDS),
            f"effective sample size, median: {ess}; Pareto k > {PARETO_K_LIMIT}: {bad}",
        ]
