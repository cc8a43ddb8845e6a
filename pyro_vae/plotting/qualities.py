"""Figures of disentanglement and of the quality of samples."""

from __future__ import annotations

from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments
from pyro_vae.evaluation import Disentanglement, SampleQuality
from pyro_vae.evaluation.sample_metrics import QUALITIES
from pyro_vae.plotting.panels import PALETTE, page
from pyro_vae.plotting.registry import result_figure

_COLUMNS = 2  # of the panels of qualities


@result_figure.register(Disentanglement)
def factor_information(result: Disentanglement, *, caption: str = "") -> Figure:
    """Mutual information of every latent and factor; the title is the mutual information gap with its interval.

    Args:
        result: from :func:`~pyro_vae.evaluation.disentanglement`.
        caption: printed below.

    Example:
        >>> import torch
        >>> from pyro_vae.evaluation import code_disentanglement
        >>> factors = torch.cartesian_prod(torch.arange(4.0), torch.arange(5.0))
        >>> factor_information(code_disentanglement(factors, factors, num_bootstrap=2)).axes[0].get_xlabel()
        'Latent dimension'
    """
    check_arguments(factor_information, locals())
    names, latents = result.protocol["factors"], result.information.shape[0]
    low, high = result.interval()[0].tolist()
    with page(0.7 + 0.2 * len(names), caption) as (figure, (ax,)):
        image = ax.imshow(result.information.T.numpy(), cmap="Blues", vmin=0, aspect="auto")
        figure.colorbar(image, ax=ax, label="Information (nats)")
        ax.set_yticks(range(len(names)), names)
        step = -(-latents // 15)  # of the ticks, which have no room for more
        ax.set_xticks(range(0, latents, step), range(1, latents + 1, step))
        ax.set(xlabel="Latent dimension", title=f"MIG {result.mig()[0]:.2f} ({low:.2f} to {high:.2f})")
    return figure


@result_figure.register(SampleQuality)
def quality_panels(result: SampleQuality, *, caption: str = "") -> Figure:
    """Every quality of the sets of samples beside that of training images; a dot is a set.

    Args:
        result: from :func:`~pyro_vae.evaluation.sample_quality`.
        caption: printed below.

    Example:
        >>> import torch
        >>> quality_panels(SampleQuality(torch.rand(5, 8), torch.rand(5, 8))).axes[0].get_title()
        'Frechet distance'
    """
    check_arguments(quality_panels, locals())
    rows = -(-len(QUALITIES) // _COLUMNS)
    with page(0.95 * rows, caption, rows=rows, columns=_COLUMNS) as (figure, panels):
        for ax, name, samples, floor in zip(panels, QUALITIES, result.values.T, result.floor.T, strict=True):
            for x, values, color in ((0, samples, PALETTE[0]), (1, floor, PALETTE[8])):
                ax.plot([x] * len(values), values.tolist(), "o", color=color, alpha=0.6)
            ax.set_xticks([0, 1], ["samples", "training"])
            ax.set(xlim=(-0.6, 1.6), title=name)
    return figure
