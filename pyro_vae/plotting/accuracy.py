"""Figure of an estimate to a given accuracy: the estimators that were tried."""

from __future__ import annotations

from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.evaluation import AccurateLogLikelihood
from pyro_vae.plotting.panels import PALETTE, page
from pyro_vae.plotting.registry import result_figure

_SMALLEST = 1e-4  # nats; smaller gaps are drawn there


@result_figure.register(AccurateLogLikelihood)
def tried_estimators(result: AccurateLogLikelihood, *, caption: str = "") -> Figure:
    """Gap between upper and lower bound of simulated data for every estimator that was tried, from top to bottom.

    The bars are standard errors over the simulated data. The last row is the estimator of the result; a filled marker
    means that its accuracy is confirmed. Estimators that could not be applied are left out.

    Args:
        result: from :func:`~pyro_vae.evaluation.accurate_log_likelihood`.
        caption: printed below.

    Raises:
        ValueError: the result does not list what was tried.

    Example:
        >>> import torch
        >>> tried = [{"estimator": "importance, guide, 1,024 samples", "gap": 0.01, "error": 0.001}]
        >>> protocol = {"accuracy": 0.1, "num_samples": 1024, "tried": tried}
        >>> numbers = [torch.zeros(3)] * 3
        >>> result = AccurateLogLikelihood(*numbers, torch.zeros(3, 4), *numbers[:2], protocol=protocol)
        >>> tried_estimators(result).axes[0].get_xlabel()
        'Gap on simulated data (nats)'
    """
    check_arguments(tried_estimators, locals())
    rows = [trial for trial in result.protocol.get("tried", []) if trial["gap"] is not None]
    require(len(rows) > 0, "tried_estimators", "result must list the estimators that were tried", "none")
    accuracy = float(result.protocol["accuracy"])
    with page(0.9 + 0.32 * len(rows), caption) as (figure, (ax,)):
        for height, trial in enumerate(rows):
            gap, error, last = max(trial["gap"], _SMALLEST), trial["error"], height == len(rows) - 1
            face = PALETTE[0] if last and not result.failures() else "white"
            low = min(error, gap - _SMALLEST / 2)
            ax.errorbar(
                [gap], [height], xerr=[[low], [error]], fmt="o", color=PALETTE[0], markerfacecolor=face, capsize=2
            )
        ax.axvline(accuracy, color=PALETTE[3], ls="--", lw=0.8, label=f"accuracy {accuracy:g}")
        ax.set_yticks(range(len(rows)), [trial["estimator"].replace(", ", ",\n", 1) for trial in rows])
        ax.set(xscale="log", xlabel="Gap on simulated data (nats)", ylim=(len(rows) - 0.5, -0.5))
        figure.legend(loc="outside upper right")
    return figure
