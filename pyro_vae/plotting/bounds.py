"""Bounds on log p(x): how they tighten, how far they are apart, and which data they cannot be trusted for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from pyro_vae.evaluation import LogLikelihood, Result
from pyro_vae.evaluation.likelihood import PARETO_K_LIMIT
from pyro_vae.plotting.panels import PALETTE, need, number, page


def bound_curve(result: LogLikelihood, *, caption: str = "") -> Figure:
    r"""The mean of the importance bound :math:`L_K` against the number of samples K; :math:`L_1` is the ELBO.

    The band is one standard error of :math:`L_K - L_S` over the data, S the largest K: of how much is still gained. The
    spread of :math:`L_S` itself over the data is common to all K and not in it. The bar at S is the Monte Carlo error.

    Args:
        result: from :func:`log_likelihood`, with its curve.

    Raises:
        ValueError: the result has no curve.

    Example:
        >>> rest = [torch.ones(3)] * 6
        >>> curve = torch.tensor([[-3.0, -2.0, -1.5]] * 3)
        >>> result = LogLikelihood(curve[:, 2], *rest, curve, protocol={"num_samples": 4})
        >>> bound_curve(result).axes[0].lines[0].get_ydata().tolist()
        [-3.0, -2.0, -1.5]
    """
    need(result.curve is not None, "bound_curve: result must have a curve, got none. Evaluate it again.")
    curve: Any = result.curve
    sizes, means, error = result.curve_sizes(), curve.mean(0), _paired_error(curve - curve[:, -1:])
    with page(2.2, caption) as (figure, (ax,)):
        ax.plot(
            sizes, means.tolist(), "o-", color=PALETTE[0], label=f"$L_K$, at the end {number(result.mean(), '.2f')}"
        )
        low, high = (means - error).tolist(), (means + error).tolist()
        ax.fill_between(sizes, low, high, color=PALETTE[0], alpha=0.25, lw=0, label="$\\pm$ 1 s.e. of $L_K - L_S$")
        ax.errorbar(sizes[-1:], means[-1:].tolist(), [result.monte_carlo_error()], color=PALETTE[0], capsize=2)
        ax.axhline(float(means[0]), color=PALETTE[3], ls="--", lw=0.8, label=f"ELBO {number(float(means[0]), '.2f')}")
        _log_axis(ax, sizes, "Importance samples K")
        ax.set_ylabel("Bound on log p(x)\n(nats per datum)")
        ax.set_title(_flags(result))
        ax.legend(loc="center right")
    return figure


def pareto_shapes(result: LogLikelihood, *, caption: str = "") -> Figure:
    """How the Pareto k of the importance weights varies over the data; above the line an estimate is not to be trusted.

    Args:
        result: from :func:`log_likelihood`.

    Raises:
        ValueError: no finite k: there were fewer than 25 samples.
    """
    k = result.pareto_k[result.pareto_k.isfinite()].cpu()
    need(len(k) > 0, "pareto_shapes: result must have finite Pareto k, got none. Take 25 samples or more.")
    with page(1.8, caption) as (figure, (ax,)):
        low, high = min(float(k.min()), 0.0), max(float(k.max()), 1.0)
        ax.hist(k.numpy(), torch.linspace(low, high, 41).tolist(), color=PALETTE[0])
        ax.axvline(PARETO_K_LIMIT, color=PALETTE[3], ls="--", lw=0.8)
        ax.set(xlabel="Pareto k of the weights (no unit)", ylabel="Number of data", title=_flags(result))
    return figure


def annealed_bounds(results: Sequence[Result], *, importance: LogLikelihood | None = None, caption: str = "") -> Figure:
    """The mean AIS bound against the number of distributions, with the importance bound of the same data as a line.

    The bars are Monte Carlo errors of the mean, the spread over the data being common to all.

    Args:
        results: from :func:`annealed_log_likelihood`, of the same data.
        importance: from :func:`log_likelihood`, of the same data.

    Raises:
        ValueError: no result, or of different data.
    """
    need(len(results) > 0, "annealed_bounds: results must not be empty, got none. Run annealed_log_likelihood.")
    sizes = {len(r) for r in [*results, *([importance] if importance else [])]}
    need(len(sizes) == 1, f"annealed_bounds: results must be of the same data, got {sorted(sizes)} data. Match them.")
    ordered = sorted(results, key=lambda r: int(r.protocol["num_distributions"]))
    numbers = [int(r.protocol["num_distributions"]) for r in ordered]
    with page(2.0, caption) as (figure, (ax,)):
        means, errors = [r.mean() for r in ordered], [_monte_carlo(r) for r in ordered]
        ax.errorbar(numbers, means, errors, fmt="o-", color=PALETTE[0], capsize=2, label="AIS")
        if importance is not None:
            label = f"importance, {importance.protocol.get('num_samples', '')} samples"
            ax.axhline(importance.mean(), color=PALETTE[3], ls="--", lw=0.8, label=label)
        _log_axis(ax, numbers, "Annealing distributions")
        ax.set_ylabel("Bound on log p(x)\n(nats per datum)")
        ax.legend(loc="best")
    return figure


def bound_differences(annealed: Result, importance: LogLikelihood, *, caption: str = "") -> Figure:
    """By how much AIS is above the importance estimate, datum by datum; both are lower bounds.

    Args:
        annealed: from :func:`annealed_log_likelihood`.
        importance: from :func:`log_likelihood`, of the same data.

    Raises:
        ValueError: of different data.
    """
    got = f"{len(annealed)} and {len(importance)}"
    need(len(annealed) == len(importance), f"bound_differences: both must be of the same data, got {got}. Match them.")
    a, b, bad = annealed, importance, importance.pareto_k.cpu() > PARETO_K_LIMIT
    x, y = b.log_likelihood.cpu(), (_get(a, "log_likelihood") - b.log_likelihood).cpu()
    bars = (_get(a, "standard_error").square() + b.standard_error.square()).sqrt().cpu()
    gain, error = float(y.mean()), float(_paired_error(y))
    with page(2.2, caption) as (figure, (ax,)):
        looks = [("Pareto k \N{LESS-THAN OR EQUAL TO} 0.7", ~bad, PALETTE[0]), ("Pareto k > 0.7", bad, PALETTE[3])]
        for label, rows, color in looks:
            if rows.any():
                style: dict[str, Any] = {"fmt": "o", "ms": 2, "lw": 0.5, "color": color, "label": label}
                ax.errorbar(x[rows].tolist(), y[rows].tolist(), bars[rows].tolist(), **style)
        ax.axhline(0, color=PALETTE[8], lw=0.6)
        ax.set(xlabel="Importance estimate (nats)", ylabel="AIS \N{MINUS SIGN} importance\n(nats)")
        ax.set_title(f"mean {number(gain, '+.3f')} \N{PLUS-MINUS SIGN} {error:.3f} nats")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def annealed_chains(result: Result, *, caption: str = "") -> Figure:
    """How far the chains agree: what averaging their weights gains over one chain, and how often HMC accepts.

    Per datum, in the order of the bound. Where the gain is large, more distributions or more chains raise the bound.

    Args:
        result: from :func:`annealed_log_likelihood`.
    """
    order = _get(result, "log_likelihood").argsort().cpu()
    gain = (_get(result, "log_likelihood") - _get(result, "mean_log_weight")).cpu()[order]
    with page(2.4, caption, rows=2) as (figure, axes):
        axes[0].plot(gain.tolist(), ".", color=PALETTE[0], ms=2)
        axes[0].set_ylabel("All chains \N{MINUS SIGN} one\n(nats)")
        axes[0].set_ylim(bottom=0)
        axes[1].plot(_get(result, "acceptance").cpu()[order].tolist(), ".", color=PALETTE[2], ms=2)
        axes[1].set(ylabel="HMC acceptance\n(share)", ylim=(0, 1.05), xlabel="Datum, sorted by its bound")
        axes[0].set_title(f"mean {number(result.mean(), '.3f')} \N{PLUS-MINUS SIGN} {_monte_carlo(result):.3f} nats")
        figure.align_ylabels(axes)
    return figure


def harmonic_reliability(result: Result, *, caption: str = "") -> Figure:
    """Whether the harmonic estimates are to be trusted: R-hat of the posterior samples, Pareto k of the weights.

    Per datum, in the order of the estimate; above the lines they are not.

    Args:
        result: from :func:`harmonic_log_likelihood`.
    """
    order = _get(result, "log_likelihood").argsort().cpu()
    with page(2.4, caption, rows=2) as (figure, axes):
        for ax, name, label, limit in zip(
            axes, ("r_hat", "pareto_k"), ("R-hat", "Pareto k"), (1.05, PARETO_K_LIMIT), strict=True
        ):
            ax.plot(_get(result, name).cpu()[order].tolist(), ".", color=PALETTE[0], ms=2)
            ax.axhline(limit, color=PALETTE[3], ls="--", lw=0.8)
            ax.set_ylabel(f"{label}\n(no unit)")
        axes[0].set_title(f"mean {number(result.mean(), '.3f')} \N{PLUS-MINUS SIGN} {_monte_carlo(result):.3f} nats")
        axes[1].set_xlabel("Datum, sorted by its estimate")
        figure.align_ylabels(axes)
    return figure


def sandwich_bounds(result: Result, *, caption: str = "") -> Figure:
    """Data simulated from the model: the bracket of each log p(x), sorted, and the width of each bracket below.

    Args:
        result: from :func:`sandwich`.
    """
    order = (_get(result, "lower") + _get(result, "upper")).argsort().cpu()
    low, high = (_get(result, name).cpu()[order] for name in ("lower", "upper"))
    bars = (_get(result, "lower_error").square() + _get(result, "upper_error").square()).sqrt().cpu()[order]
    (gap, error), places = _get(result, "gap")(), list(range(len(low)))
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


def _get(result: Result, name: str) -> Any:
    """A field of a method's own kind of result."""
    return getattr(result, name)


def _paired_error(differences: Tensor) -> Tensor:
    """Standard error of the mean over the data; nan for one datum."""
    return differences.std(0) / len(differences) ** 0.5 if len(differences) > 1 else differences[0] * torch.nan


def _monte_carlo(result: Result) -> float:
    return float(_get(result, "standard_error").square().sum().sqrt() / len(result))


def _flags(result: LogLikelihood) -> str:
    return f"{len(result.flagged())} of {len(result)} data have Pareto k > {PARETO_K_LIMIT}"


def _log_axis(ax: Axes, sizes: Sequence[int], label: str) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator() if max(sizes) >= 10 * min(sizes) else LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel(label)
