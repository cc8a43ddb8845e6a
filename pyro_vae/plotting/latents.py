"""Figures of posterior means: their plane, and the activity of each dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.evaluation import LatentDiagnostics
from pyro_vae.evaluation.diagnostics import ACTIVE_VARIANCE
from pyro_vae.plotting.panels import PALETTE, page


def latent_scatter(
    means: Tensor, labels: Tensor | None = None, *, names: Sequence[str] | None = None, caption: str = ""
) -> Figure:
    """Posterior means in the plane: two dimensions directly, more by their first principal components (PC).

    One dimension is drawn as a histogram. Up to ten classes are coloured.

    Args:
        means: ``(N, latent_dim)``, E_q[z | x].
        labels: ``(N,)``, their classes.
        names: names of the classes 0, 1, ...; by default their numbers.
        caption: printed below.

    Raises:
        ValueError: the shapes are others, or a class has no name.
    """
    check_arguments(latent_scatter, locals())
    valid = means.ndim == 2 and means.numel() > 0 and (labels is None or labels.shape == means.shape[:1])
    shapes = f"means={tuple(means.shape)}, labels={None if labels is None else tuple(labels.shape)}"
    require(valid, "latent_scatter", "means must be (N, L) with labels (N,)", shapes, "Use one row per datum")
    require(bool(means.isfinite().all()), "latent_scatter", "means must be finite", "nan or inf")
    points, classes = means.detach().cpu().double(), [] if labels is None else sorted(set(labels.tolist()))
    classes = classes if len(classes) <= len(PALETTE) else []
    named = names is None or not classes or classes[-1] < len(names)
    require(named, "latent_scatter", "every class must have a name", f"names={names}")
    groups = [(labels == c).cpu() for c in classes if labels is not None] or [torch.ones(len(points)).bool()]
    with page(2.9 if points.shape[1] > 1 else 2.0, caption) as (figure, (ax,)):
        (_scatter if points.shape[1] > 1 else _histogram)(ax, points, groups)
        if classes:
            class_legend(figure, [str(c) if names is None or c < 0 else names[c] for c in classes])
    return figure


def class_legend(figure: Figure, names: Sequence[str]) -> None:
    """A legend of up to ten classes above the panels, in the order of the palette."""
    handles = [Line2D([], [], ls="", marker="o", color=c) for c in PALETTE[: len(names)]]
    spacing = {"handletextpad": -0.4, "columnspacing": 0.4, "ncols": len(names)}
    figure.legend(handles, names, loc="outside upper center", **spacing)


def active_units(diagnostics: LatentDiagnostics, *, caption: str = "") -> Figure:
    """KL and activity of every latent dimension, sorted by KL, or by activity if the KL is unknown.

    Args:
        diagnostics: from :func:`latent_diagnostics`.
        caption: printed below.
    """
    check_arguments(active_units, locals())
    d, kl, num = diagnostics, diagnostics.kl, len(diagnostics.activity)
    order, ranks = (d.activity if kl is None else kl).argsort(descending=True).cpu(), range(1, num + 1)
    with page(1.5 if kl is None else 2.7, caption, rows=1 if kl is None else 2) as (figure, axes):
        if kl is not None:
            axes[0].bar(ranks, kl.cpu()[order].numpy(), width=min(0.8, 0.15 * num), color=PALETTE[0])
            axes[0].set_ylabel("KL\n(nats per datum)")
        _draw_activity(axes[-1], d.activity.cpu()[order])
        axes[-1].set_xlabel(f"Latent dimension, sorted by {'activity' if kl is None else 'KL'}")
        if num <= 15:  # more labels would overlap
            axes[-1].set_xticks(ranks, [str(i + 1) for i in order.tolist()])
        axes[0].set_title(f"{d.active_units} of {num} units active")
        figure.align_ylabels(axes)
    return figure


def _draw_activity(ax: Axes, activity: Tensor) -> None:
    """Sorted activities and the threshold of an active unit, on a logarithmic axis."""
    ax.semilogy(range(1, len(activity) + 1), activity.clamp_min(1e-8).numpy(), "o", color=PALETTE[0])
    ax.axhline(ACTIVE_VARIANCE, color=PALETTE[3], ls="--")
    place = {"va": "bottom", "ha": "right", "transform": ax.get_yaxis_transform()}
    ax.text(0.99, ACTIVE_VARIANCE, f"threshold {ACTIVE_VARIANCE}", color=PALETTE[3], fontsize=7, **place)
    ax.set_ylabel("Activity\n" + r"$\mathrm{Var}_x(E_q[z])$")


def _scatter(ax: Axes, points: Tensor, groups: list[Tensor]) -> None:
    """Two dimensions, or the first two principal components of more."""
    xlabel, ylabel = "Posterior mean of $z_1$", "Posterior mean of $z_2$"
    if points.shape[1] > 2:
        variances, axes = torch.linalg.eigh(torch.cov(points.T, correction=0))
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # the largest loading is positive
        share = (variances / variances.sum().clamp_min(1e-300)).flip(0)
        points = (points - points.mean(0)) @ axes.flip(1)[:, :2]  # (N, 2)
        xlabel, ylabel = (f"PC {i + 1} ({share[i]:.0%} of variance)" for i in range(2))
    colors = [PALETTE[g] for g in torch.stack(groups).int().argmax(0).tolist()]
    # One call in the order of the data: drawn class by class, the last class would hide the others.
    ax.scatter(*points.T.numpy(), s=max(0.5, min(8.0, 4000 / len(points))), c=colors, linewidths=0, alpha=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_aspect("equal", adjustable="datalim")


def _histogram(ax: Axes, points: Tensor, groups: list[Tensor]) -> None:
    """One-dimensional posterior means, a line per class."""
    bins = torch.linspace(float(points.min()), float(points.max()), 41).tolist()
    for color, group in zip(PALETTE, groups, strict=False):
        ax.hist(points[group, 0].numpy(), bins, histtype="step", color=color)
    ax.set(xlabel="Posterior mean of $z_1$", ylabel="Number of examples")
