"""Inference gaps of a guide: the result, and its computation from log-weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments
from pyro_vae.evaluation.likelihood import PARETO_K_LIMIT
from pyro_vae.evaluation.pareto import pareto_k, tail_length
from pyro_vae.evaluation.result import Quantity, Result

_PARTS = ("log_likelihood", "best_elbo", "elbo", "approximation", "amortization")


@dataclass(frozen=True)
class InferenceGaps(Result):
    r"""Gap between log p(x) and the ELBO of a guide, per datum, in nats, split in two.

    .. math::
        \log p(x) - \mathcal{L}[q_\phi] = \underbrace{\log p(x) - \mathcal{L}[q^*]}_\text{approximation}
        + \underbrace{\mathcal{L}[q^*] - \mathcal{L}[q_\phi]}_\text{amortization}

    :math:`q^*` is the best member of the guide's family for that datum alone, found by local optimisation.
    log p(x) is replaced by a lower bound, so that the reported approximation gap is itself a lower bound. If the
    optimisation misses the optimum, the approximation gap is too large and the amortization gap too small by the same
    number.

    Attributes:
        log_likelihood: ``(N,)``, the lower bound that replaces log p(x).
        standard_error: ``(N,)``, its Monte Carlo standard error.
        pareto_k: ``(N,)``, of its importance weights; nan if these are unknown.
        elbo: ``(N,)``, the ELBO of the guide, :math:`\mathcal{L}[q_\phi]`.
        elbo_error: ``(N,)``, its Monte Carlo standard error.
        best_elbo: ``(N,)``, the ELBO of the best member, :math:`\mathcal{L}[q^*]`.
        best_elbo_error: ``(N,)``, its Monte Carlo standard error.
        approximation: ``(N,)``, the approximation gap, which no encoder can close.
        approximation_error: ``(N,)``, its Monte Carlo standard error.
        amortization: ``(N,)``, the amortization gap, due to the encoder.
        amortization_error: ``(N,)``, its Monte Carlo standard error; both ELBOs use the same random numbers.
        late_gain: ``(N,)``, gain in ELBO from the third quarter of the optimisation (the mean of its parameters) to
            the last; near 0 after convergence.
        late_gain_error: ``(N,)``, its Monte Carlo standard error.

    References:
        Inference suboptimality in variational autoencoders (Cremer et al., 2018), section 3, eq. 3 to 5.
        https://arxiv.org/abs/1801.03558
    """

    method: ClassVar[str] = "gaps"
    title: ClassVar[str] = "Gap between log p(x) and the ELBO, split into approximation and amortization gap"
    topic: ClassVar[str] = "gaps"
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("approximation", "approximation gap", error="approximation_error"),
        Quantity("amortization", "amortization gap", error="amortization_error"),
    )
    phrases: ClassVar[dict[str, str]] = {"num_steps": "{} steps of optimisation"}
    layout: ClassVar[dict[str, str]] = {
        "N": "log_likelihood standard_error pareto_k elbo elbo_error best_elbo best_elbo_error approximation "
        "approximation_error amortization amortization_error late_gain late_gain_error"
    }
    alternative_text: ClassVar[str] = "Bars of approximation and amortization gap"

    log_likelihood: Tensor
    standard_error: Tensor
    pareto_k: Tensor
    elbo: Tensor
    elbo_error: Tensor
    best_elbo: Tensor
    best_elbo_error: Tensor
    approximation: Tensor
    approximation_error: Tensor
    amortization: Tensor
    amortization_error: Tensor
    late_gain: Tensor
    late_gain_error: Tensor

    @property
    def gap(self) -> Tensor:
        """``(N,)``, the whole gap: log-likelihood bound minus ELBO."""
        return self.log_likelihood - self.elbo

    def summary(self) -> dict[str, Any]:
        """The means with their errors, the amortization gap's share, and the late gain of the optimisation."""
        means = self.means(*_PARTS, "late_gain")
        for name, entry in means.items():
            entry["monte_carlo_error"] = self.monte_carlo_error(name)
        return {**means, "amortization_share": self.mean("amortization") / self.mean("gap")}

    def lines(self) -> list[str]:
        """Bound, both ELBOs and both gaps with their errors, and the late gain of the optimisation."""
        lines = [
            f"{name.replace('_', ' '):<15} {self.mean(name):9.3f} +- {self.monte_carlo_error(name):.3f} Monte Carlo, "
            f"+- {self.sampling_error(name):.3f} over data, nats per datum"
            for name in _PARTS
        ]
        gain = f"{self.mean('late_gain'):.4f} +- {self.monte_carlo_error('late_gain'):.4f} nats per datum"
        return [*lines, f"the local optimisation gained {gain} from its third quarter to its last"]


def gaps_of(guide: Tensor, best: Tensor, from_best: Tensor) -> dict[str, Tensor]:
    r"""Both gaps and their standard errors from log-weights of :math:`q_\phi` and :math:`q^*`.

    The errors are standard errors of the samples' influence functions, :math:`w_s / \bar w - 1` for the logarithm of a
    mean, so that samples or random numbers that two terms share cancel in their difference.

    Args:
        guide: log-weights of the guide, ``(S, B)``.
        best: log-weights of the best member, from the same random numbers.
        from_best: ``(B,)``, whether log p(x) is estimated with the best member's weights.

    Example:
        >>> weights = torch.tensor([[-1.0], [-3.0]], dtype=torch.float64)
        >>> gaps_of(weights, torch.full_like(weights, -0.5), torch.tensor([True]))["amortization"]
        tensor([1.5000], dtype=torch.float64)
    """
    num_samples = len(guide)
    chosen = torch.where(from_best, best, guide)
    bound, elbo, best_elbo = chosen.logsumexp(0) - math.log(num_samples), guide.mean(0), best.mean(0)
    of_bound, of_elbo, of_best = (chosen - bound).exp() - 1, guide - elbo, best - best_elbo
    values = {
        "log_likelihood": (bound, of_bound),
        "elbo": (elbo, of_elbo),
        "best_elbo": (best_elbo, of_best),
        "approximation": (bound - best_elbo, of_bound - of_best),
        "amortization": (best_elbo - elbo, of_best - of_elbo),
    }
    tensors = {name: value for name, (value, _) in values.items()}
    tensors |= {f"{name}_error": i.std(0) / math.sqrt(num_samples) for name, (_, i) in values.items()}
    tensors["standard_error"] = tensors.pop("log_likelihood_error")
    return {**tensors, "pareto_k": _pareto_k(chosen)}


def better_proposal(one: Tensor, other: Tensor) -> Tensor:
    """Whether the first of two ``(S, B)`` log-weights is the better estimator of the same p(x), ``(B,)``.

    If both are reliable (Pareto k), the one with the smaller error is better; the larger bound would favour noise.
    If one is unreliable, its error is unknown, and the larger bound has missed less of the posterior.
    """
    bounds = [weights.logsumexp(0) for weights in (one, other)]
    errors = [(w - bound).exp().std(0) for w, bound in zip((one, other), bounds, strict=True)]
    # With too few samples for k, which is then nan, the errors decide.
    unreliable = torch.maximum(_pareto_k(one), _pareto_k(other)) > PARETO_K_LIMIT
    return torch.where(unreliable, bounds[0] > bounds[1], errors[0] < errors[1])


def _pareto_k(log_weights: Tensor) -> Tensor:
    num_samples = len(log_weights)
    return pareto_k(log_weights.topk(min(tail_length(num_samples) + 1, num_samples), dim=0).values, num_samples)


def mean_of(name: str, values: Tensor) -> dict[str, Tensor]:
    """The mean of ``(S, B)`` values and its standard error, as ``name`` and ``name_error``."""
    return {name: values.mean(0), f"{name}_error": values.std(0) / math.sqrt(len(values))}


def gap_table(results: Mapping[str, InferenceGaps]) -> str:
    """Table of the gaps of several guides: means over the data with their Monte Carlo standard errors, in nats.

    Args:
        results: by the guide's name; guides of one frozen model, on the same data.

    Example:
        >>> def result(elbo):
        ...     bound, error, of = torch.zeros(3), torch.full((3,), 0.01), torch.full((3,), -0.5)
        ...     terms = [of, error, -of, error, of - elbo, error]
        ...     return InferenceGaps(bound, error, error, torch.full((3,), elbo), error, *terms, error, error)
        >>> " ".join(gap_table({"diagonal": result(-2.0)}).splitlines()[1].split())
        'diagonal 0.000 +- 0.006 -2.000 +- 0.006 0.500 +- 0.006 1.500 +- 0.006 75%'
    """
    check_arguments(gap_table, locals())
    width = max(len(name) for name in ["guide", *results])
    heads = ("log-likelihood", "ELBO", "approximation", "amortization")
    lines = [f"{'guide':<{width}} " + "".join(f"{head:>18}" for head in heads) + "  share of amortization"]
    for name, result in results.items():
        cells = [_cell(result, key) for key in ("log_likelihood", "elbo", "approximation", "amortization")]
        share = result.summary()["amortization_share"]
        lines.append(f"{name:<{width}} " + "".join(f"{cell:>18}" for cell in cells) + f"{share:23.0%}")
    return "\n".join(lines)


def _cell(result: InferenceGaps, name: str) -> str:
    return f"{result.mean(name):.3f} +- {result.monte_carlo_error(name):.3f}"
