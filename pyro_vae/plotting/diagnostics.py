"""Figures of what the latent space does: parts of the ELBO, aggregate posterior, ranks, predictive checks."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from pyro_vae.evaluation import Calibration, LatentDiagnostics, PredictiveCheck
from pyro_vae.plotting.panels import PALETTE, need, number, page

_NAMES = {
    "distortion": "Distortion",
    "information": "Mutual information",
    "total_correlation": "Total correlation",
    "dimension_kl": "Dimension-wise KL",
    "marginal_kl": "Marginal KL",
}
_VIEW = 0.999  # share of the draws in view


def elbo_decomposition(diagnostics: LatentDiagnostics, *, caption: str = "") -> Figure:
    """The parts whose sum is minus the ELBO: distortion, information, total correlation, dimension-wise KL.

    Error bars are Monte Carlo standard errors, a dotted line is the bound of the mutual information, log M. The
    marginal KL stands for the last two where these are not available.

    Args:
        diagnostics: from :func:`latent_diagnostics`.

    Raises:
        ValueError: the mutual information is not available.

    Example:
        >>> from pyro_vae import VAE, latent_diagnostics
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> figure = elbo_decomposition(latent_diagnostics(vae, torch.ones(9, 5)))
        >>> figure.axes[0].get_xlabel()
        'Nats per datum'
    """
    d = diagnostics
    have = "distortion" if d.reconstruction is not None else ""
    rest = ("total_correlation", "dimension_kl") if d.dimension_kl is not None else ("marginal_kl",)
    reason = d.protocol.get("unavailable", {}).get("information", "num_decomposed=0")
    need(
        d.information is not None,
        f"elbo_decomposition: diagnostics must hold the mutual information, got none ({reason}). "
        "Use another guide, or num_decomposed=None.",
    )
    parts = [name for name in (have, "information", *rest) if name]
    with page(0.24 * len(parts) + 0.75, caption) as (figure, (ax,)):
        values = [-d.mean("reconstruction") if name == "distortion" else d.mean(name) for name in parts]
        errors = [d.monte_carlo_error(name.replace("distortion", "reconstruction")) for name in parts]
        colors = [PALETTE[8] if name == "distortion" else PALETTE[0] for name in parts]
        ax.barh(range(len(parts)), values, xerr=errors, height=0.65, color=colors, error_kw={"elinewidth": 0.8})
        row = parts.index("information")
        for at, value in enumerate(values):
            text = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
            end = max(value, d.information_bound if at == row else 0.0)
            ax.annotate(number(value, ".2f"), (end, at), **text)
        ax.plot([d.information_bound] * 2, [row - 0.42, row + 0.42], color=PALETTE[3], ls=":", label="log M, its bound")
        ax.axvline(0, color="black", lw=0.6)
        ax.set_yticks(range(len(parts)), [_NAMES[name] for name in parts])
        ax.invert_yaxis()
        ax.margins(x=0.16)
        ax.set_xlabel("Nats per datum")
        ax.legend(loc="lower right")
        if d.elbo is not None:
            ax.set_title(f"ELBO: {number(d.mean('elbo'), '.2f')}")
    return figure


def aggregate_posterior(diagnostics: LatentDiagnostics, *, num: int = 4, caption: str = "") -> Figure:
    """Densities of the aggregate posterior and of the prior, for the most active dimensions, as histograms of draws.

    Where they differ, draws of the prior fall where the decoder was not trained, or the prior misses what it was.

    Args:
        diagnostics: from :func:`latent_diagnostics`.
        num: number of dimensions, in the order of their activity.

    Raises:
        ValueError: there are no draws, or ``num`` is not positive.
    """
    d = diagnostics
    need(num > 0, f"aggregate_posterior: num must be positive, got num={num}. Use 4.")
    if d.draws is None or d.prior_draws is None:
        raise ValueError("aggregate_posterior: diagnostics must hold draws, got none. Use num_decomposed=None.")
    order = d.activity.argsort(descending=True)[:num].tolist()
    both = torch.cat([d.draws, d.prior_draws]).double()[:, order]
    ends = both.flatten().quantile(torch.tensor([1 - _VIEW, _VIEW], dtype=torch.float64))
    bins = torch.linspace(float(ends[0]), float(ends[1]), 41, dtype=torch.float64).tolist()
    with page(0.72 * len(order) + 0.6, caption, rows=len(order)) as (figure, axes):
        for ax, j in zip(axes, order, strict=True):
            ax.hist(d.prior_draws[:, j].tolist(), bins, density=True, color=PALETTE[8], alpha=0.5, label="prior")
            look = {"histtype": "step", "color": PALETTE[0], "lw": 1.0, "label": "aggregate posterior"}
            ax.hist(d.draws[:, j].tolist(), bins, density=True, **look)
            ax.set_ylabel(f"$z_{{{j + 1}}}$")
            ax.set_yticks([])
            ax.text(0.99, 0.95, _moments(d, j), transform=ax.transAxes, ha="right", va="top", fontsize=6)
        axes[-1].set_xlabel("Value of the latent dimension")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _moments(d: LatentDiagnostics, j: int) -> str:
    if d.aggregate_mean is None or d.aggregate_variance is None:
        return ""
    mean, variance = float(d.aggregate_mean[j]), float(d.aggregate_variance[j])
    return f"mean {number(mean, '.2f')}\nvariance {number(variance, '.2f')}"


def rank_histograms(calibration: Calibration, *, num: int = 4, caption: str = "") -> Figure:
    """Ranks of the true z among draws of the guide, for the dimensions that are most off.

    In the grey band lies each bar of uniform ranks with a probability of 99%, taken by itself.

    Args:
        calibration: from :func:`simulation_based_calibration`.
        num: number of dimensions, in the order of their probabilities.

    Raises:
        ValueError: ``num`` is not positive.

    References:
        Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018), figure 1.
        https://arxiv.org/abs/1804.06788
    """
    need(num > 0, f"rank_histograms: num must be positive, got num={num}. Use 4.")
    c = calibration
    p, counts, shapes, (low, high) = c.corrected_p_values(), c.histogram(), c.shapes(), c.band()
    order = p.argsort(stable=True)[:num].tolist()
    width = c.num_ranks / c.num_bins
    lefts = [b * width - 0.5 for b in range(c.num_bins)]
    with page(0.85 * len(order) + 0.45, caption, rows=len(order)) as (figure, axes):
        for ax, j in zip(axes, order, strict=True):
            ax.axhspan(low, high, color=PALETTE[8], alpha=0.35, lw=0, label="99% of uniform ranks")
            ax.axhline(len(c) / c.num_bins, color="black", lw=0.6)
            color = PALETTE[0] if shapes[j] == "uniform" else PALETTE[3]
            ax.bar(lefts, counts[j].tolist(), width=0.92 * width, align="edge", color=color, zorder=0)
            ax.patches[0].set_zorder(1)
            ax.set_ylim(0, 1.25 * max(high, int(counts[j].max())))
            ax.set_ylabel(f"$z_{{{j + 1}}}$\ncount")
            ax.text(0.5, 0.98, _verdict(shapes[j], float(p[j])), transform=ax.transAxes, ha="center", va="top", size=7)
        axes[-1].set_xlabel(f"Rank of the true z among {c.num_ranks - 1} draws of the guide")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center")
        figure.align_ylabels(axes)
    return figure


def _verdict(shape: str, p: float) -> str:
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{shape if shape == 'uniform' else 'guide ' + shape}, {shown}"


def predictive_checks(check: PredictiveCheck, *, caption: str = "") -> Figure:
    """Predictive probabilities of the data, a panel per statistic.

    Above it, the means of the data and of the model's replicates, and the probability of the whole set.

    The line is where uniform probabilities would lie; with the posterior those of a good model crowd around 1/2.

    Args:
        check: from :func:`posterior_predictive_check`.
    """
    names, p_set = check.statistics, check.set_p_values().tolist()
    bins = torch.linspace(0, 1, 21, dtype=torch.float64).tolist()
    with page(0.85 * len(names) + 0.3, caption, rows=len(names)) as (figure, axes):
        for ax, name, p, values in zip(axes, names, p_set, check.p_values.T, strict=True):
            ax.hist(values.tolist(), bins, color=PALETTE[0])
            ax.axhline(len(values) / 20, color="black", lw=0.6, ls=":")
            ax.set_ylabel("Number\nof data")
            ax.set_title(f"{name}: {_compared(check, name)}, p {p:.3f}", fontsize=6.5, loc="left")
            ax.set_xlim(0, 1)
        axes[-1].set_xlabel("Share of replicates with a larger statistic")
        figure.align_ylabels(axes)
    return figure


def _compared(check: PredictiveCheck, name: str) -> str:
    column = check.statistics.index(name)
    ours, theirs = (float(t[:, column].mean()) for t in (check.set_observed, check.set_replicated))
    return f"data {number(ours, '.3g')}, model {number(theirs, '.3g')}"
