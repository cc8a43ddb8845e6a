"""Figures of importance estimates: the estimate, its convergence, and the reliability of its weights."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments, refusal, require
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.evaluation.likelihood import PARETO_K_LIMIT
from pyro_vae.plotting.panels import PALETTE, log_axis, number, page
from pyro_vae.plotting.registry import result_figure


@result_figure.register(LogLikelihood)
def bound_curve(result: LogLikelihood, *, caption: str = "") -> Figure:
    r"""The mean of the importance bound :math:`L_K` against the number of samples K; :math:`L_1` is the ELBO.

    The band is one standard error of :math:`L_K - L_S` over the data, S the largest K: the precision of the remaining
    gain. It excludes the spread of :math:`L_S` over the data, which is common to all K. The bar at S is the Monte Carlo
    error.

    Args:
        result: from :func:`log_likelihood`, with its curve.
        caption: printed below.

    Raises:
        ValueError: the result has no curve.

    Example:
        >>> rest = [torch.ones(3)] * 6
        >>> curve = torch.tensor([[-3.0, -2.0, -1.5]] * 3)
        >>> result = LogLikelihood(curve[:, 2], *rest, curve, protocol={"num_samples": 4})
        >>> bound_curve(result).axes[0].lines[0].get_ydata().tolist()
        [-3.0, -2.0, -1.5]
    """
    check_arguments(bound_curve, locals())
    if result.curve is None:
        raise refusal("bound_curve", "result must have a curve", "None", "Evaluate the run again")
    sizes, means = result.curve_sizes(), result.curve.mean(0)
    error = (result.curve - result.curve[:, -1:]).std(0) / len(result) ** 0.5 if len(result) > 1 else means * torch.nan
    with page(2.2, caption) as (figure, (ax,)):
        label = f"$L_K$, at the end {number(result.mean(), '.2f')}"
        ax.plot(sizes, means.tolist(), "o-", color=PALETTE[0], label=label)
        low, high = (means - error).tolist(), (means + error).tolist()
        ax.fill_between(sizes, low, high, color=PALETTE[0], alpha=0.25, lw=0, label="$\\pm$ 1 s.e. of $L_K - L_S$")
        ax.errorbar(sizes[-1:], means[-1:].tolist(), [result.monte_carlo_error()], color=PALETTE[0], capsize=2)
        ax.axhline(float(means[0]), color=PALETTE[3], ls="--", lw=0.8, label=f"ELBO {number(float(means[0]), '.2f')}")
        log_axis(ax, sizes, "Importance samples K")
        ax.set_ylabel("Bound on log p(x)\n(nats per datum)")
        ax.set_title(_flags(result))
        ax.legend(loc="center right")
    return figure


def pareto_shapes(result: LogLikelihood, *, caption: str = "") -> Figure:
    """Histogram of the Pareto k of the importance weights; right of the line an estimate is unreliable.

    Args:
        result: from :func:`log_likelihood`.
        caption: printed below.

    Raises:
        ValueError: no k is finite, since there were fewer than 25 samples.
    """
    check_arguments(pareto_shapes, locals())
    k = result.pareto_k[result.pareto_k.isfinite()].cpu()
    require(len(k) > 0, "pareto_shapes", "result must have finite Pareto k", "nan", "Take 25 samples or more")
    with page(1.8, caption) as (figure, (ax,)):
        low, high = min(float(k.min()), 0.0), max(float(k.max()), 1.0)
        ax.hist(k.numpy(), torch.linspace(low, high, 41).tolist(), color=PALETTE[0])
        ax.axvline(PARETO_K_LIMIT, color=PALETTE[3], ls="--", lw=0.8)
        ax.set(xlabel="Pareto k of the weights (no unit)", ylabel="Number of examples", title=_flags(result))
    return figure


def log_likelihood_histogram(result: LogLikelihood, *, caption: str = "") -> Figure:
    """Histograms of the estimate of log p(x) and of the ELBO; lines at their means.

    Args:
        result: from :func:`log_likelihood`.
        caption: printed below.

    Raises:
        ValueError: no value is finite.
    """
    check_arguments(log_likelihood_histogram, locals())
    values = {"log-likelihood": result.log_likelihood.cpu().double(), "ELBO": result.elbo.cpu().double()}
    finite = torch.cat([v[v.isfinite()] for v in values.values()])
    require(len(finite) > 0, "log_likelihood_histogram", "result must hold finite values", f"{len(result)} others")
    bins = torch.linspace(float(finite.min()), float(finite.max()), 41).tolist()
    styles: list[dict[str, Any]] = [
        {"color": PALETTE[0], "alpha": 0.5},
        {"color": PALETTE[3], "histtype": "step", "linewidth": 1.2},
    ]
    with page(2.1, caption) as (figure, (ax,)):
        for style, (name, value) in zip(styles, values.items(), strict=True):
            mean = float(value.mean())
            ax.hist(value[value.isfinite()].numpy(), bins, label=f"{name}: mean {number(mean, '.2f')}", **style)
            ax.axvline(mean, color=style["color"], ls="--", lw=0.8)
        num = result.protocol.get("num_samples")
        ax.set_xlabel(f"Estimate{'' if num is None else f', {num} samples'} (nats per datum)")
        ax.set_ylabel("Number of examples")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def _flags(result: LogLikelihood) -> str:
    return f"{len(result.flagged())} of {len(result)} examples have Pareto k > {PARETO_K_LIMIT}"
