"""Figures of latent diagnostics: terms of the ELBO, aggregate posterior, ranks, predictive checks."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments, refusal
from pyro_vae.evaluation import Calibration, LatentDiagnostics, PredictiveCheck
from pyro_vae.plotting.latents import active_units
from pyro_vae.plotting.panels import PALETTE, number, page
from pyro_vae.plotting.registry import result_figure

_NAMES = {
    "distortion": "Distortion",
    "information": "Mutual information",
    "total_correlation": "Total correlation",
    "dimension_kl": "Dimension-wise KL",
    "marginal_kl": "Marginal KL",
}
_QUANTILE = 0.999  # of the samples, at the right edge of the view


@result_figure.register(LatentDiagnostics)
def _diagnostics_figure(diagnostics: LatentDiagnostics, *, caption: str = "") -> Figure:
    draw = active_units if diagnostics.information is None else elbo_decomposition
    return draw(diagnostics, caption=caption)


def elbo_decomposition(diagnostics: LatentDiagnostics, *, caption: str = "") -> Figure:
    """The terms that sum to minus the ELBO: distortion, information, total correlation, dimension-wise KL.

    Error bars are Monte Carlo standard errors; a dotted line is the upper bound of the mutual information, log M. The
    marginal KL replaces the last two terms if these are not available.

    Args:
        diagnostics: from :func:`latent_diagnostics`.
        caption: printed below.

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
    check_arguments(elbo_decomposition, locals())
    d = diagnostics
    if d.information is None:
        reason = d.protocol.get("unavailable", {}).get("information", "num_decomposed=0")
        advice = "Use another guide, or num_decomposed=None"
        raise refusal("elbo_decomposition", "the mutual information must be available", f"None ({reason})", advice)
    terms = _terms(d)
    with page(0.24 * len(terms) + 0.75, caption) as (figure, (ax,)):
        colors = [PALETTE[8] if name == "distortion" else PALETTE[0] for name in terms]
        values, errors = ([term[i] for term in terms.values()] for i in (0, 1))
        ax.barh(range(len(terms)), values, xerr=errors, height=0.65, color=colors, error_kw={"elinewidth": 0.8})
        row = list(terms).index("information")
        for y, value in enumerate(values):
            style = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
            end = max(value, d.information_bound if y == row else 0.0)
            ax.annotate(number(value, ".2f"), (end, y), **style)
        ax.plot([d.information_bound] * 2, [row - 0.42, row + 0.42], color=PALETTE[3], ls=":", label="log M, its bound")
        ax.axvline(0, color="black", lw=0.6)
        ax.set_yticks(range(len(terms)), [_NAMES[name] for name in terms])
        ax.invert_yaxis()
        ax.margins(x=0.16)
        ax.set_xlabel("Nats per datum")
        ax.legend(loc="lower right")
        if d.elbo is not None:
            ax.set_title(f"ELBO: {number(d.mean('elbo'), '.2f')}")
    return figure


def _terms(d: LatentDiagnostics) -> dict[str, tuple[float, float]]:
    """Mean and Monte Carlo error of each available term of minus the ELBO, top row first."""
    rest = ("total_correlation", "dimension_kl") if d.dimension_kl is not None else ("marginal_kl",)
    terms = {name: (d.mean(name), d.monte_carlo_error(name)) for name in ("information", *rest)}
    if d.reconstruction is None:
        return terms
    return {"distortion": (-d.mean("reconstruction"), d.monte_carlo_error("reconstruction")), **terms}


def aggregate_posterior(diagnostics: LatentDiagnostics, *, num: int = 4, caption: str = "") -> Figure:
    """Histograms of samples of the aggregate posterior and of the prior, for the most active dimensions.

    A mismatch means that samples of the prior lie where the decoder was not trained, or that the prior does not cover
    the latents of the data.

    Args:
        diagnostics: from :func:`latent_diagnostics`.
        num: number of dimensions, sorted by activity.
        caption: printed below.

    Raises:
        ValueError: there are no samples, or ``num`` is not positive.
    """
    check_arguments(aggregate_posterior, locals(), num=1)
    d = diagnostics
    if d.draws is None or d.prior_draws is None:
        raise refusal("aggregate_posterior", "diagnostics must hold draws", "None", "Use num_decomposed=None")
    order = d.activity.argsort(descending=True)[:num].tolist()
    both = torch.cat([d.draws, d.prior_draws]).double()[:, order]
    ends = both.flatten().quantile(torch.tensor([1 - _QUANTILE, _QUANTILE], dtype=torch.float64))
    bins = torch.linspace(float(ends[0]), float(ends[1]), 41, dtype=torch.float64).tolist()
    with page(0.72 * len(order) + 0.6, caption, rows=len(order)) as (figure, axes):
        for ax, j in zip(axes, order, strict=True):
            ax.hist(d.prior_draws[:, j].tolist(), bins, density=True, color=PALETTE[8], alpha=0.5, label="prior")
            style = {"histtype": "step", "color": PALETTE[0], "lw": 1.0, "label": "aggregate posterior"}
            ax.hist(d.draws[:, j].tolist(), bins, density=True, **style)
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


@result_figure.register(Calibration)
def rank_histograms(calibration: Calibration, *, num: int = 4, caption: str = "") -> Figure:
    """Ranks of the true z among samples of the guide, for the dimensions with the smallest p values.

    The grey band contains the bar of a single bin of uniform ranks with probability 99%.

    Args:
        calibration: from :func:`simulation_based_calibration`.
        num: number of dimensions, sorted by p value.
        caption: printed below.

    Raises:
        ValueError: ``num`` is not positive.

    References:
        Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018), figure 1.
        https://arxiv.org/abs/1804.06788
    """
    check_arguments(rank_histograms, locals(), num=1)
    p = calibration.corrected_p_values()
    order = p.argsort(stable=True)[:num].tolist()
    with page(0.85 * len(order) + 0.45, caption, rows=len(order)) as (figure, axes):
        for ax, j in zip(axes, order, strict=True):
            _draw_ranks(ax, calibration, j)
            verdict = _verdict(calibration.shapes()[j], float(p[j]))
            ax.text(0.5, 0.98, verdict, transform=ax.transAxes, ha="center", va="top", size=7)
        axes[-1].set_xlabel(f"Rank of the true z among {calibration.num_ranks - 1} samples of the guide")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center")
        figure.align_ylabels(axes)
    return figure


def _draw_ranks(ax: Axes, c: Calibration, j: int) -> None:
    """The histogram of dimension j and the band of uniform ranks."""
    counts, (low, high), width = c.histogram()[j], c.band(), c.num_ranks / c.num_bins
    ax.axhspan(low, high, color=PALETTE[8], alpha=0.35, lw=0, label="99% of uniform ranks")
    ax.axhline(len(c) / c.num_bins, color="black", lw=0.6)
    color = PALETTE[0] if c.shapes()[j] == "uniform" else PALETTE[3]
    lefts = [b * width - 0.5 for b in range(c.num_bins)]
    ax.bar(lefts, counts.tolist(), width=0.92 * width, align="edge", color=color, zorder=0)
    ax.patches[0].set_zorder(1)
    ax.set_ylim(0, 1.25 * max(high, int(counts.max())))
    ax.set_ylabel(f"$z_{{{j + 1}}}$\ncount")


def _verdict(shape: str, p: float) -> str:
    p_value = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{shape if shape == 'uniform' else 'guide ' + shape}, {p_value}"


@result_figure.register(PredictiveCheck)
def predictive_checks(check: PredictiveCheck, *, caption: str = "") -> Figure:
    """Histograms of predictive p values per datum, a panel per statistic.

    The title of a panel has the means of data and replicates, and the p value of the whole data set. The line is the
    histogram of uniform p values; posterior predictive p values of a good model concentrate around 1/2.

    Args:
        check: from :func:`posterior_predictive_check`.
        caption: printed below.
    """
    check_arguments(predictive_checks, locals())
    names, p_set = check.statistics, check.set_p_values().tolist()
    bins = torch.linspace(0, 1, 21, dtype=torch.float64).tolist()
    with page(0.85 * len(names) + 0.3, caption, rows=len(names)) as (figure, axes):
        for ax, name, p, values in zip(axes, names, p_set, check.p_values.T, strict=True):
            ax.hist(values.tolist(), bins, color=PALETTE[0])
            ax.axhline(len(values) / 20, color="black", lw=0.6, ls=":")
            ax.set_ylabel("Number of\nexamples")
            ax.set_title(f"{name}: {_means(check, name)}, p {p:.3f}", fontsize=6.5, loc="left")
            ax.set_xlim(0, 1)
        axes[-1].set_xlabel("Share of replicates with a larger statistic")
        figure.align_ylabels(axes)
    return figure


def _means(check: PredictiveCheck, name: str) -> str:
    column = check.statistics.index(name)
    data, model = (float(t[:, column].mean()) for t in (check.set_observed, check.set_replicated))
    return f"data {number(data, '.3g')}, model {number(model, '.3g')}"
