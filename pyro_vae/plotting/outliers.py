"""Figures of outlier scores: histograms, and ROC curves against known outliers."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._core.checks import check_arguments
from pyro_vae.evaluation import OutlierScores, detection
from pyro_vae.evaluation.outlier_scores import COMBINED
from pyro_vae.plotting.panels import PALETTE, page
from pyro_vae.plotting.registry import result_figure

_LABELS = {
    "log_likelihood": "\N{MINUS SIGN}log p(x)",
    "typicality": "typicality",
    "rate": "rate, two-sided",
    "distortion": "distortion",
    "complexity": "\N{MINUS SIGN}log p(x) \N{MINUS SIGN} complexity",
    "regret": "likelihood regret",
    "background": "background ratio",
    "waic": "WAIC",
    "layers": "ratio of layers",
    COMBINED: "combined",
}


@result_figure.register(OutlierScores)
def outlier_scores(result: OutlierScores, *, caption: str = "") -> Figure:
    """Histograms of every score over the data, the reference and, if there are any, the known outliers.

    With outliers, a further panel shows the ROC curve of each score: the share of the outliers that is detected against
    the share of the data that is. Its legend has the areas under the curves with bootstrap intervals, and the shares of
    data detected together with 95% of the outliers. Data beyond the axis are counted in the outer bins.

    Args:
        result: from :func:`~pyro_vae.evaluation.outliers`.
        caption: printed below.

    Example:
        >>> scores = torch.arange(8.0).unsqueeze(1)
        >>> protocol = {"scores": ["combined"], "unavailable": {}}
        >>> figure = outlier_scores(OutlierScores(scores, scores / 8, scores, scores + 3, protocol=protocol))
        >>> [ax.get_xlabel() for ax in figure.axes[:2]]
        ['combined (nats)', 'Share of data detected']
    """
    check_arguments(outlier_scores, locals())
    count = len(result.names) + 2 * (result.against is not None)  # the curves and their legend
    rows = -(-count // 2)
    with page(1.3 * rows, caption, rows=rows, columns=min(2, count)) as (figure, panels):
        for column, (name, ax) in enumerate(zip(result.names, panels, strict=False)):
            sets = {"data": result.scores, "reference": result.calibration, "outliers": result.against}
            _histograms(ax, {key: values[:, column] for key, values in sets.items() if values is not None})
            ax.set(xlabel=f"{_LABELS[name]} (nats)", yticks=[])
        panels[0].legend(loc="upper right", fontsize=6)
        if result.against is not None:
            _roc_curves(panels[count - 2], panels[count - 1], result)
        for ax in panels[len(result.names) + (result.against is not None) :]:
            ax.set_axis_off()
    return figure


def _histograms(ax: Axes, sets: dict[str, Tensor]) -> None:
    """Normalised histograms with common bins, over the central 98% of each set's finite scores."""
    sets = {name: values[~values.isnan()].double() for name, values in sets.items()}
    finite = [values[values.isfinite()] for values in sets.values() if values.isfinite().any()]
    ends = [values.quantile(torch.tensor([0.01, 0.99]).double()) for values in finite] or [torch.zeros(1)]
    low, high = float(torch.cat(ends).min()), float(torch.cat(ends).max())
    bins = np.linspace(low, high if high > low else low + 1, 31)
    for color, (name, values) in zip(PALETTE[:1] + PALETTE[8:9] + PALETTE[3:4], sets.items(), strict=False):
        options = {"density": len(values) > 0, "histtype": "step", "color": color, "label": name}
        ax.hist(values.clamp(low, high).numpy(), bins=bins.tolist(), **options)


def _roc_curves(ax: Axes, beside: Axes, result: OutlierScores) -> None:
    outliers = torch.empty(0) if result.against is None else result.against
    for column, name in enumerate(result.names):
        inner, outer = result.scores[:, column].double(), outliers[:, column].double()
        values = torch.cat([inner, outer]).sort(descending=True).values  # scores may be infinite: no interpolation
        thresholds = values[torch.linspace(0, len(values) - 1, 401).round().long()]
        shares = [(values.unsqueeze(-1) >= thresholds).double().mean(0) for values in (inner, outer)]
        (auroc, (low, high), fpr), combined = detection(inner, outer), name == COMBINED
        label = f"{_LABELS[name]} {auroc:.3f} [{low:.3f}, {high:.3f}], {fpr:.1%}"
        x, y = ([0.0, *share.tolist()] for share in shares)
        ax.plot(x, y, color=PALETTE[column % len(PALETTE)] if not combined else "black", label=label, lw=1.0)
    ax.set(xlabel="Share of data detected", ylabel="Outliers detected")
    handles, labels = ax.get_legend_handles_labels()
    text = {"fontsize": 4.2, "title_fontsize": 4.2, "title": "AUROC [95% interval], FPR at 95%"}
    beside.legend(handles, labels, loc="center right", bbox_to_anchor=(1.1, 0.5), handlelength=1, **text)
