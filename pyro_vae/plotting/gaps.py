"""What guides of one model lose to log p(x), and why."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from pyro_vae.evaluation import InferenceGaps
from pyro_vae.plotting.panels import PALETTE, need, page

_PARTS = {
    "approximation": ("Approximation gap", PALETTE[0], "//"),
    "amortization": ("Amortization gap", PALETTE[1], ""),
}


def gap_bars(results: Mapping[str, InferenceGaps], *, caption: str = "") -> Figure:
    """The gap between log p(x) and the ELBO of each guide: a bar of its two parts, one on the other.

    A part's error bar is the standard error of its mean over the data, the spread of the data included; it stands
    where that part ends.

    Args:
        results: by the guide's name, of the same model and data.
        caption: below the figure; none, for a figure with a caption in a document.

    Raises:
        ValueError: no results, or of different data.

    Example:
        >>> import torch
        >>> def result(gap):
        ...     return InferenceGaps(*[torch.full((3,), gap)] * 13)
        >>> figure = gap_bars({"diagonal": result(2.0), "full rank": result(1.0)})
        >>> figure.axes[0].get_xlabel()
        'Gap to log p(x) (nats per datum)'
    """
    need(len(results) > 0, "gap_bars: results must hold a guide's, got none. Add one.")
    sizes = {len(result) for result in results.values()}
    need(len(sizes) == 1, f"gap_bars: results must be of the same data, got {sorted(sizes)} data. Match them.")
    rows, left = range(len(results)), [0.0] * len(results)
    with page(0.26 * len(results) + 0.75, caption) as (figure, (ax,)):
        for offset, (name, (label, color, hatch)) in zip((-0.12, 0.12), _PARTS.items(), strict=True):
            means = [result.mean(name) for result in results.values()]
            errors = [result.sampling_error(name) for result in results.values()]
            look = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
            ax.barh(rows, means, 0.6, left, label=label, **look)
            left = [start + mean for start, mean in zip(left, means, strict=True)]
            ax.errorbar(left, [row + offset for row in rows], xerr=errors, fmt="none", ecolor=PALETTE[7], capsize=1.5)
        ax.set_yticks(rows, list(results))
        ax.invert_yaxis()
        ax.set_xlim(left=min(0.0, *ax.get_xlim()))
        ax.set_xlabel("Gap to log p(x) (nats per datum)")
        figure.legend(loc="outside upper center", ncols=2)
    return figure
