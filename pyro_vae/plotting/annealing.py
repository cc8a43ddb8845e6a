"""Figures of estimates by Markov chains: annealed bounds, their agreement, and bounds from both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.evaluation import AnnealedLogLikelihood, HarmonicLogLikelihood, LogLikelihood, Sandwich
from pyro_vae.evaluation.likelihood import PARETO_K_LIMIT
from pyro_vae.plotting.panels import PALETTE, log_axis, number, page
from pyro_vae.plotting.registry import result_figure


def annealed_bounds(
    results: Sequence[AnnealedLogLikelihood], *, importance: LogLikelihood | None = None, caption: str = ""
) -> Figure:
    """The mean AIS bound against the number of distributions, with the importance bound of the same data as a line.

    The bars are Monte Carlo errors of the mean; the spread over the data is common to all.

    Args:
        results: from :func:`annealed_log_likelihood`, of the same data.
        importance: from :func:`log_likelihood`, of the same data.
        caption: printed below.

    Raises:
        ValueError: there is no result, or the results are of different data.
    """
    check_arguments(annealed_bounds, locals())
    require(len(results) > 0, "annealed_bounds", "results must not be empty", "[]")
    sizes = {len(r) for r in [*results, *([importance] if importance else [])]}
    require(len(sizes) == 1, "annealed_bounds", "results must be of the same data", f"{sorted(sizes)} data")
    ordered = sorted(results, key=lambda r: int(r.protocol["num_distributions"]))
    counts = [int(r.protocol["num_distributions"]) for r in ordered]
    with page(2.0, caption) as (figure, (ax,)):
        means, errors = [r.mean() for r in ordered], [r.monte_carlo_error() for r in ordered]
        ax.errorbar(counts, means, errors, fmt="o-", color=PALETTE[0], capsize=2, label="AIS")
        if importance is not None:
            label = f"importance, {importance.protocol.get('num_samples', '')} samples"
            ax.axhline(importance.mean(), color=PALETTE[3], ls="--", lw=0.8, label=label)
        log_axis(ax, counts, "Annealing distributions")
        ax.set_ylabel("Bound on log p(x)\n(nats per datum)")
        ax.legend(loc="best")
    return figure


def bound_differences(annealed: AnnealedLogLikelihood, importance: LogLikelihood, *, caption: str = "") -> Figure:
    """Difference between the AIS and the importance estimate of each datum; both are lower bounds.

    Args:
        annealed: from :func:`annealed_log_likelihood`.
        importance: from :func:`log_likelihood`, of the same data.
        caption: printed below.

    Raises:
        ValueError: the results are of different data.
    """
    check_arguments(bound_differences, locals())
    sizes = f"{len(annealed)} and {len(importance)} data"
    require(len(annealed) == len(importance), "bound_differences", "both must be of the same data", sizes)
    x, y = importance.log_likelihood.cpu(), (annealed.log_likelihood - importance.log_likelihood).cpu()
    bars = (annealed.standard_error.square() + importance.standard_error.square()).sqrt().cpu()
    unreliable = importance.pareto_k.cpu() > PARETO_K_LIMIT
    gain, error = annealed.gain(importance)
    with page(2.2, caption) as (figure, (ax,)):
        groups = ((f"\N{LESS-THAN OR EQUAL TO} {PARETO_K_LIMIT}", ~unreliable), (f"> {PARETO_K_LIMIT}", unreliable))
        for (range_of_k, rows), color in zip(groups, (PALETTE[0], PALETTE[3]), strict=True):
            if rows.any():
                style: dict[str, Any] = {"fmt": "o", "ms": 2, "lw": 0.5, "color": color}
                points = (x[rows].tolist(), y[rows].tolist(), bars[rows].tolist())
                ax.errorbar(*points, label=f"Pareto k {range_of_k}", **style)
        ax.axhline(0, color=PALETTE[8], lw=0.6)
        ax.set(xlabel="Importance estimate (nats)", ylabel="AIS \N{MINUS SIGN} importance\n(nats)")
        ax.set_title(f"mean {number(gain, '+.3f')} \N{PLUS-MINUS SIGN} {error:.3f} nats")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


@result_figure.register(AnnealedLogLikelihood)
def annealed_chains(result: AnnealedLogLikelihood, *, caption: str = "") -> Figure:
    """Agreement of the chains: gain of averaging their weights over a single chain, and acceptance rate of HMC.

    Per datum, sorted by the bound. If the gain is large, more distributions or more chains raise the bound.

    Args:
        result: from :func:`annealed_log_likelihood`.
        caption: printed below.
    """
    check_arguments(annealed_chains, locals())
    order = result.log_likelihood.argsort().cpu()
    gain = (result.log_likelihood - result.mean_log_weight).cpu()[order]
    with page(2.4, caption, rows=2) as (figure, axes):
        axes[0].plot(gain.tolist(), ".", color=PALETTE[0], ms=2)
        axes[0].set_ylabel("All chains \N{MINUS SIGN} one\n(nats)")
        axes[0].set_ylim(bottom=0)
        axes[1].plot(result.acceptance.cpu()[order].tolist(), ".", color=PALETTE[2], ms=2)
        axes[1].set(ylabel="HMC acceptance\n(share)", ylim=(0, 1.05), xlabel="Datum, sorted by its bound")
        axes[0].set_title(_mean_with_error(result))
        figure.align_ylabels(axes)
    return figure


@result_figure.register(HarmonicLogLikelihood)
def harmonic_reliability(result: HarmonicLogLikelihood, *, caption: str = "") -> Figure:
    """Reliability of harmonic estimates: R-hat of the posterior samples, Pareto k of the weights.

    Per datum, sorted by the estimate; above the lines estimates are unreliable.

    Args:
        result: from :func:`harmonic_log_likelihood`.
        caption: printed below.
    """
    check_arguments(harmonic_reliability, locals())
    order = result.log_likelihood.argsort().cpu()
    panels = (("R-hat", result.r_hat, 1.05), ("Pareto k", result.pareto_k, PARETO_K_LIMIT))
    with page(2.4, caption, rows=2) as (figure, axes):
        for ax, (label, values, limit) in zip(axes, panels, strict=True):
            ax.plot(values.cpu()[order].tolist(), ".", color=PALETTE[0], ms=2)
            ax.axhline(limit, color=PALETTE[3], ls="--", lw=0.8)
            ax.set_ylabel(f"{label}\n(no unit)")
        axes[0].set_title(_mean_with_error(result))
        axes[1].set_xlabel("Datum, sorted by its estimate")
        figure.align_ylabels(axes)
    return figure


@result_figure.register(Sandwich)
def sandwich_bounds(result: Sandwich, *, caption: str = "") -> Figure:
    """Bounds on log p(x) of each datum simulated from the model, sorted, and the distance between them below.

    Args:
        result: from :func:`sandwich`.
        caption: printed below.
    """
    check_arguments(sandwich_bounds, locals())
    order = (result.lower + result.upper).argsort().cpu()
    low, high = result.lower.cpu()[order], result.upper.cpu()[order]
    bars = (result.lower_error.square() + result.upper_error.square()).sqrt().cpu()[order]
    (gap, error), places = result.gap(), list(range(len(low)))
    with page(2.8, caption, rows=2) as (figure, axes):
        axes[0].vlines(places, low.tolist(), high.tolist(), color=PALETTE[8], lw=0.6)
        axes[0].plot(high.tolist(), "v", color=PALETTE[3], ms=2, label="upper bound")
        axes[0].plot(low.tolist(), "^", color=PALETTE[0], ms=2, label="lower bound")
        axes[0].set_ylabel("Bounds on log p(x)\n(nats)")
        axes[0].set_title(f"gap {number(gap, '.3f')} \N{PLUS-MINUS SIGN} {error:.3f} nats, mean of {len(low)}")
        axes[1].errorbar(places, (high - low).tolist(), bars.tolist(), fmt="o", color=PALETTE[7], ms=1.5, lw=0.5)
        axes[1].axhline(gap, color=PALETTE[3], ls="--", lw=0.8)
        axes[1].set(ylabel="Upper \N{MINUS SIGN} lower\n(nats)", xlabel="Simulated datum, sorted by log p(x)")
        figure.legend(loc="outside upper center", ncols=2)
        figure.align_ylabels(axes)
    return figure


def _mean_with_error(result: AnnealedLogLikelihood | HarmonicLogLikelihood) -> str:
    return f"mean {number(result.mean(), '.3f')} \N{PLUS-MINUS SIGN} {result.monte_carlo_error():.3f} nats"
