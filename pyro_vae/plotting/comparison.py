"""Figures that compare guides of one model, and weights of the KL."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments, check_count, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae.evaluation import InferenceGaps, LogLikelihood, Result
from pyro_vae.models import VAE
from pyro_vae.plotting.panels import PALETTE, as_images, page, show_grid
from pyro_vae.plotting.registry import result_figure

_GAPS = {
    "approximation": ("Approximation gap", PALETTE[0], "//"),
    "amortization": ("Amortization gap", PALETTE[1], ""),
}


def guide_comparison(results: Mapping[str, LogLikelihood], *, caption: str = "") -> Figure:
    """ELBO and log-likelihood bound of each guide of one model, the gap between them as a line.

    The bars at the ELBO are standard errors of its difference to the first guide's, paired by datum: the spread over
    the data is common to all guides.

    Args:
        results: by the guide's name, of the same model and data; the others are compared with the first.
        caption: printed below.

    Raises:
        ValueError: there are fewer than two results, or they are of different data.

    Example:
        >>> import torch
        >>> from pyro_vae.evaluation import LogLikelihood
        >>> def result(elbo):
        ...     rest = [torch.ones(3)] * 5
        ...     return LogLikelihood(torch.zeros(3), torch.ones(3), *rest[:2], torch.full((3,), elbo), *rest[:2])
        >>> figure = guide_comparison({"diagonal": result(-3.0), "full rank": result(-2.0)})
        >>> figure.axes[0].get_xlabel()
        'Nats per datum (higher is better)'
    """
    check_arguments(guide_comparison, locals())
    require(len(results) > 1, "guide_comparison", "results must be of two or more guides", str(len(results)))
    _check_data("guide_comparison", results)
    first = next(iter(results.values()))
    with page(0.19 * len(results) + 0.75, caption) as (figure, (ax,)):
        for row, result in enumerate(results.values()):
            elbo, bound = result.mean("elbo"), result.mean()
            ax.plot([elbo, bound], [row, row], color=PALETTE[8], linewidth=0.8, zorder=1)
            _, error = result.gain(first, "elbo")
            ax.errorbar(elbo, row, xerr=error, color=PALETTE[0], marker="o", capsize=1.5)
            ax.plot(bound, row, color=PALETTE[3], marker="D")
        ax.axvline(first.mean("elbo"), color=PALETTE[0], linewidth=0.5, linestyle=":", zorder=0)
        ax.set_yticks(range(len(results)), list(results))
        ax.invert_yaxis()
        ax.set_xlabel("Nats per datum (higher is better)")
        handles = [ax.lines[1], ax.lines[-2]]
        figure.legend(handles, ["ELBO", "Log-likelihood bound"], loc="outside upper center", ncols=2)
    return figure


def gap_bars(results: Mapping[str, InferenceGaps], *, caption: str = "") -> Figure:
    """Stacked bars of the approximation and amortization gap of each guide, whose sum is log p(x) - ELBO.

    The error bar at the end of a gap's bar is the standard error of its mean, including the spread over the data.

    Args:
        results: by the guide's name, of the same model and data.
        caption: printed below.

    Raises:
        ValueError: there are no results, or they are of different data.

    Example:
        >>> import torch
        >>> def result(gap):
        ...     return InferenceGaps(*[torch.full((3,), gap)] * 13)
        >>> figure = gap_bars({"diagonal": result(2.0), "full rank": result(1.0)})
        >>> figure.axes[0].get_xlabel()
        'Gap to log p(x) (nats per datum)'
    """
    check_arguments(gap_bars, locals())
    require(len(results) > 0, "gap_bars", "results must not be empty", "{}")
    _check_data("gap_bars", results)
    rows, left = range(len(results)), [0.0] * len(results)
    with page(0.26 * len(results) + 0.75, caption) as (figure, (ax,)):
        for offset, (name, (label, color, hatch)) in zip((-0.12, 0.12), _GAPS.items(), strict=True):
            means = [result.mean(name) for result in results.values()]
            errors = [result.sampling_error(name) for result in results.values()]
            style = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
            ax.barh(rows, means, 0.6, left, label=label, **style)
            left = [start + mean for start, mean in zip(left, means, strict=True)]
            ax.errorbar(left, [row + offset for row in rows], xerr=errors, fmt="none", ecolor=PALETTE[7], capsize=1.5)
        ax.set_yticks(rows, list(results))
        ax.invert_yaxis()
        ax.set_xlim(left=min(0.0, *ax.get_xlim()))
        ax.set_xlabel("Gap to log p(x) (nats per datum)")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def rate_distortion(
    results: Mapping[str, LogLikelihood],
    models: Mapping[str, VAE] | None = None,
    *,
    num_samples: int = 10,
    caption: str = "",
) -> Figure:
    """Distortion against rate of models with several weights of the KL, above samples of each.

    The grey lines have slope -1: on one of them the ELBO, minus the sum of rate and distortion, is constant. Samples
    are means of p(x | z) at samples z of the prior, from the same random numbers for all models.

    Args:
        results: by the weight of the KL, or another name, of the same data.
        models: the models by the same names, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``; None omits the samples.
        num_samples: number of samples of each model.
        caption: printed below.

    Raises:
        ValueError: there are no results, they are of different data or have other names than the models, the data are
            not images, or ``num_samples`` is not positive.

    References:
        Fixing a broken ELBO (Alemi et al., 2018), figure 1. https://arxiv.org/abs/1711.00464
    """
    check_arguments(rate_distortion, locals())
    check_count("rate_distortion", num_samples=num_samples)
    require(len(results) > 0, "rate_distortion", "results must not be empty", "{}")
    _check_data("rate_distortion", results)
    same = models is None or list(models) == list(results)
    names = f"{', '.join(models or ())} and {', '.join(results)}"
    require(same, "rate_distortion", "models and results must have the same names", names)
    images = [_samples(vae, num_samples) for vae in (models or {}).values()]  # (S, C, H, W) each
    with page(2.2, caption, rows=1 + bool(images), share=False) as (figure, axes):
        _plane(axes[0], {name: (result.mean("rate"), result.mean("distortion")) for name, result in results.items()})
        if images:
            height, (_, bottom) = figure.get_size_inches()[1], axes
            pad = show_grid(bottom, torch.cat(images), num_samples, margin=0.45)
            extra = figure.get_size_inches()[1] - height
            axes[0].get_gridspec().set_height_ratios([2.2, extra])
            step = images[0].shape[-2] + pad
            bottom.set_yticks([pad / 2 + step * (row + 0.5) for row in range(len(images))], list(results))
            bottom.set_ylabel("Weight of the KL")
            bottom.tick_params(length=0, labelbottom=False)
            bottom.spines[:].set_visible(False)
    return figure


def _samples(vae: VAE, num: int) -> torch.Tensor:
    with evaluating(vae), isolated_rng(0):
        return as_images(vae.sample(num, mean=True), "rate_distortion")


def _plane(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Points in the plane of rate and distortion, with lines of equal ELBO."""
    for rank, (name, (rate, distortion)) in enumerate(points.items()):
        ax.plot(rate, distortion, "o", color=PALETTE[0], zorder=3)
        side = 4 if rank % 2 == 0 else -4
        offset = {"xytext": (4, side), "textcoords": "offset points", "va": "bottom" if side > 0 else "top"}
        ax.annotate(name, (rate, distortion), fontsize=7, **offset)
    ax.margins(0.15)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for step in range(1, 8):
        total = low + left + (high - low + right - left) * step / 8
        ax.plot([left, right], [total - left, total - right], color=PALETTE[8], lw=0.4, zorder=0)
    ax.set(xlim=(left, right), ylim=(low, high))
    ax.set(xlabel="Rate (nats per datum)", ylabel="Distortion (nats per datum)")


@result_figure.register(InferenceGaps)
def _gaps_of_one_guide(result: InferenceGaps, *, caption: str = "") -> Figure:
    return gap_bars({str(result.protocol.get("guide", "guide")): result}, caption=caption)


def _check_data(owner: str, results: Mapping[str, Result]) -> None:
    sizes = sorted({len(result) for result in results.values()})
    require(len(sizes) == 1, owner, "results must be of the same data", f"{sizes} data")
