"""Guides of one model, side by side."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from pyro_vae.evaluation import LogLikelihood
from pyro_vae.plotting.panels import PALETTE, need, page


def guide_comparison(results: Mapping[str, LogLikelihood], *, caption: str = "") -> Figure:
    """ELBO and log-likelihood bound of each guide of one model, the gap between them as a line.

    The bars at the ELBO are standard errors of its difference to the first guide's, datum by datum, which is what a
    comparison is about; the spread over the data is common to all.

    Args:
        results: by the guide's name, of the same model and data; the first is what the others are compared with.

    Raises:
        ValueError: fewer than two results, or of different data.

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
    need(len(results) > 1, f"guide_comparison: results must be two or more, got {len(results)}. Add a guide.")
    sizes = {len(result) for result in results.values()}
    need(len(sizes) == 1, f"guide_comparison: results must be of the same data, got {sorted(sizes)} data. Match them.")
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
