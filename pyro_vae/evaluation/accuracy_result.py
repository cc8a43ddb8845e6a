"""Result of an estimate of log p(x) to a given accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae.evaluation.likelihood import PARETO_K_LIMIT
from pyro_vae.evaluation.result import LOG_LIKELIHOOD, Quantity, Result, mean_error

MAX_FLAGGED = 0.1
"""Largest share of data with an unreliable Pareto k in an estimate that counts as accurate."""


@dataclass(frozen=True)
class AccurateLogLikelihood(Result):
    r"""Estimate of log p(x), per datum, by the first estimator whose diagnostics give a small enough bias.

    The bias of the mean over the data is assessed by four diagnostics:

    - the gap between upper and lower bound of the same estimator on data simulated from the model, which bounds the
      bias on such data (:meth:`gap`);
    - the rest of the curve: what further samples or chains would add if the gains of doublings continue geometrically
      (:meth:`rest`);
    - the share of data with an unreliable Pareto k, for importance sampling (:meth:`flagged`);
    - the Monte Carlo standard error of the mean.

    Attributes:
        log_likelihood: ``(N,)``, the estimate.
        standard_error: ``(N,)``, its Monte Carlo standard error.
        pareto_k: ``(N,)``, the shape of the weights' tail; nan for annealed importance sampling.
        curve: ``(N, J)``, bounds for 1, 2, 4, ... samples or chains.
        lower: ``(M,)``, lower bounds on log p(x) of simulated data by this estimator.
        upper: ``(M,)``, their upper bounds.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), section 4.2.
        https://arxiv.org/abs/1511.02543
        Pareto smoothed importance sampling (Vehtari et al., 2024), on limits of k for a number of samples.
        https://arxiv.org/abs/1507.02646
    """

    method: ClassVar[str] = "accurate"
    title: ClassVar[str] = "Log-likelihood to a given accuracy, by the first estimator whose diagnostics confirm it"
    topic: ClassVar[str] = "bounds"
    quantities: ClassVar[tuple[Quantity, ...]] = (
        LOG_LIKELIHOOD,
        Quantity("gap", "gap on simulated data", paired=False),
    )
    phrases: ClassVar[dict[str, str]] = {"num_samples": "{} importance samples", "accuracy": "accuracy {} nats"}
    layout: ClassVar[dict[str, str]] = {
        "N": "log_likelihood standard_error pareto_k",
        "NJ": "curve",
        "M": "lower upper",
    }
    alternative_text: ClassVar[str] = "Gap between upper and lower bound of simulated data for every estimator tried"

    log_likelihood: Tensor
    standard_error: Tensor
    pareto_k: Tensor
    curve: Tensor
    lower: Tensor
    upper: Tensor

    def gap(self) -> tuple[float, float]:
        """Mean of upper - lower over the simulated data, and its standard error, in nats."""
        gaps = self.upper - self.lower
        return float(gaps.mean()), mean_error(gaps)

    def rest(self) -> float:
        """Extrapolated further gain in nats: the last gain times r / (1 - r), r the ratio of the last two gains.

        The ratio is limited to the range from 1/2, of a bias proportional to 1 / K, to 0.9.
        """
        gains = self.curve.mean(0).diff()[-2:].clamp_min(0)
        if len(gains) < 2:
            return math.inf
        ratio = float((gains[1] / gains[0].clamp_min(1e-12)).clamp(0.5, 0.9))
        return float(gains[1]) * ratio / (1 - ratio)

    def flagged(self) -> Tensor:
        """Rows with a Pareto k above min(1 - 1 / log10 S, 0.7), the limit of a reliable estimate from S samples."""
        samples = int(self.protocol.get("num_samples", 1))
        limit = min(1 - 1 / math.log10(samples), PARETO_K_LIMIT) if samples > 1 else math.inf
        return (self.pareto_k > limit).nonzero().squeeze(-1)

    def failures(self) -> list[str]:
        """The diagnostics that do not confirm the accuracy; empty if all do."""
        accuracy = float(self.protocol["accuracy"])
        gap, error = self.gap()
        checks = {
            f"a gap of {gap:.3f} +- {error:.3f} nats on simulated data": not gap + error <= accuracy,
            f"{self.rest():.3f} nats that the curve would still gain": not self.rest() <= accuracy,
            f"{len(self.flagged())} of {len(self)} data with an unreliable Pareto k": (
                len(self.flagged()) > MAX_FLAGGED * len(self)
            ),
            f"a Monte Carlo error of {self.monte_carlo_error():.3f} nats": (
                not self.monte_carlo_error() <= accuracy / 2
            ),
        }
        return [name for name, fails in checks.items() if fails]

    def advice(self) -> str:
        """Explain why the accuracy was not reached; empty if it was."""
        if not self.failures():
            return ""
        return (
            f"The accuracy of {self.protocol['accuracy']} nats is not confirmed: {', '.join(self.failures())}. The "
            "estimate is a lower bound in expectation; raise max_samples and max_distributions, or fit a better guide."
        )

    def summary(self) -> dict[str, Any]:
        """The mean with its errors, and the diagnostics of its bias."""
        mean, error = self.gap()
        return {
            **self.means("log_likelihood"),
            "confirmed": not self.failures(),
            "gap": {"mean": mean, "error": error},
            "rest_of_curve": self.rest(),
            "flagged": len(self.flagged()) / len(self),
        }

    def lines(self) -> list[str]:
        """The estimate, the estimator, what its diagnostics give for its bias, and what was tried before."""
        mean, error = self.gap()
        confirmed = "not confirmed" if self.failures() else "confirmed"
        known = not bool(self.pareto_k.isnan().all())
        share = f"; Pareto k unreliable for {len(self.flagged()) / len(self):.1%}" if known else ""
        tried = [f"tried           {step['estimator']}: {step['outcome']}" for step in self.protocol["tried"]]
        return [
            *self.log_likelihood_lines(f", by {self.protocol['tried'][-1]['estimator']}"),
            f"bias            below {self.protocol['accuracy']} nats: {confirmed}",
            f"                gap of the bounds of {len(self.lower)} simulated data: {mean:.3f} +- {error:.3f} nats",
            f"                rest of the curve: {self.rest():.3f} nats{share}",
            "                not covered: real data whose posteriors are harder than those of simulated data",
            *tried,
        ]
