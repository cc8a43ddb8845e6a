"""Figures for a paper: one column wide, colour-blind safe, units on the axes, ``caption`` (the protocol) below.

Every function returns a :class:`matplotlib.figure.Figure` and leaves matplotlib's settings, torch's random state and
the model's mode as they were. Import it as ``from pyro_vae import plotting``: the package does not load matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae.evaluation import LatentDiagnostics, LogLikelihood
from pyro_vae.evaluation.diagnostics import ACTIVE_VARIANCE
from pyro_vae.models import VAE
from pyro_vae.plotting.panels import (
    PALETTE,
    as_images,
    epoch_axis,
    histogram,
    limit,
    need,
    number,
    page,
    scatter,
    series,
    show_grid,
)

_PANELS = {
    **{"ELBO": ("elbo", "validation_elbo"), "Loss": ("loss",), "Reconstruction": ("reconstruction",), "KL": ("kl",)},
    "Error": ("validation_error",),
}
_UNITS = {"Error": "%"}


def training_curves(history: Sequence[Mapping[str, Any]], *, caption: str = "") -> Figure:
    """ELBO, reconstruction, KL and error against the epoch; the loss where there is no ELBO.

    Beyond 20 epochs their axis is logarithmic; wild first epochs leave the view, so that the rest can be seen.

    Args:
        history: one record per epoch, as in ``FitResult.history`` and ``metrics.jsonl``; terms may be missing.

    Raises:
        ValueError: no record holds a finite term.

    Example:
        >>> [ax.get_ylabel() for ax in training_curves([{"epoch": 1, "elbo": -9.0, "kl": 2.0}]).axes]
        ['ELBO\\n(nats per datum)', 'KL\\n(nats per datum)']
    """
    found = {key: s for keys in _PANELS.values() for key in keys if (s := series(history, key))}
    panels = {name: {k: found[k] for k in keys if k in found} for name, keys in _PANELS.items()}
    panels = {k: p for k, p in panels.items() if p and not (k == "Loss" and "elbo" in found)}
    need(bool(panels), f"training_curves: history must hold a finite elbo or loss, got {len(history)} records. Train.")
    with page(1.1 * len(panels) + 0.3, caption, rows=len(panels)) as (figure, axes):
        for ax, (name, lines) in zip(axes, panels.items(), strict=True):
            for key, line in lines.items():
                part, color = ("validation", PALETTE[3]) if key.startswith("validation") else ("training", PALETTE[0])
                ax.plot(*zip(*line, strict=True), "o-" if len(line) <= 20 else "-", color=color, label=part)
            ax.set_ylabel(f"{name}\n({_UNITS.get(name, 'nats per datum')})")
            limit(ax, [point for line in lines.values() for point in line])
        epoch_axis(axes[-1], [epoch for line in found.values() for epoch, _ in line])
        axes[0].legend(loc="best")
        figure.align_ylabels(axes)
    return figure


def image_grid(images: Tensor, *, columns: int, caption: str = "") -> Figure:
    """Images row by row.

    Args:
        images: ``(N, C, H, W)`` with C 1 or 3, or ``(N, H, W)``; values are clamped to [0, 1].
        columns: images per row.

    Raises:
        ValueError: another shape, or ``columns`` is not positive.

    Example:
        >>> image_grid(torch.rand(6, 1, 8, 8), columns=3).axes[0].images[0].get_array().shape  # 1 pixel between
        (19, 28, 3)
    """
    need(columns > 0, f"image_grid: columns must be positive, got columns={columns}. Use 10.")
    with page(0.0, caption) as (figure, (ax,)):
        show_grid(ax, as_images(images, "image_grid"), columns)
        ax.set_axis_off()
    return figure


def reconstructions(vae: VAE, images: Tensor, *, num: int = 10, caption: str = "") -> Figure:
    """Data in the upper row; below each, the mean of p(x | z) at one draw z of q(z | x).

    Args:
        vae: the model, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        images: ``(N, *data_shape)``, on the model's device.
        num: how many of them, from the first on.

    Raises:
        ValueError: the data are no images, or there are none.
    """
    need(min(num, len(images)) > 0, f"reconstructions: num must be positive, got num={num} of {len(images)}. Use 10.")
    data = as_images(images[:num], "reconstructions")
    with evaluating(vae), isolated_rng(0):
        means = vae.reconstruct(images[:num]).reshape(data.shape)
    with page(0.0, caption) as (figure, (ax,)):
        pad = show_grid(ax, torch.cat([data, means]), len(data), margin=0.45)
        height = data.shape[-2] + pad
        ax.set_yticks([pad / 2 + height * 0.5, pad / 2 + height * 1.5], ["data", "recon."])
        ax.tick_params(length=0, labelbottom=False)
        ax.spines[:].set_visible(False)
    return figure


def samples(vae: VAE, *, num: int = 64, seed: int = 0, caption: str = "") -> Figure:
    """Means of p(x | z) at draws z of the prior.

    Args:
        vae: the model, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        num: number of draws.
        seed: of the draws.

    Raises:
        ValueError: the data are no images, or ``num`` is not positive.
    """
    need(num > 0, f"samples: num must be positive, got num={num}. Use 64.")
    with evaluating(vae), isolated_rng(seed):
        images = as_images(vae.sample(num, mean=True), "samples")
    return image_grid(images, columns=math.ceil(math.sqrt(num)), caption=caption)


def latent_scatter(means: Tensor, labels: Tensor | None = None, *, caption: str = "") -> Figure:
    """Posterior means in the plane: two dimensions as they are, more by their first principal components (PC).

    One dimension is drawn as a histogram. Classes have colours where there are at most ten.

    Args:
        means: ``(N, latent_dim)``, E_q[z | x].
        labels: ``(N,)``, their classes.

    Raises:
        ValueError: another shape.
    """
    ok = means.ndim == 2 and means.numel() > 0 and (labels is None or labels.shape == means.shape[:1])
    got = f"{tuple(means.shape)}, labels={None if labels is None else tuple(labels.shape)}"
    need(ok, f"latent_scatter: means must be (N, L) with labels (N,), got means={got}. Use one row per datum.")
    points, names = means.detach().cpu().double(), [] if labels is None else sorted(set(labels.tolist()))
    names = names if len(names) <= len(PALETTE) else []
    groups = [(labels == name).cpu() for name in names if labels is not None] or [torch.ones(len(points)).bool()]
    with page(2.9 if points.shape[1] > 1 else 2.0, caption) as (figure, (ax,)):
        (scatter if points.shape[1] > 1 else histogram)(ax, points, groups)
        handles = [Line2D([], [], ls="", marker="o", color=c) for c in PALETTE[: len(names)]]
        if names:
            spacing = {"handletextpad": -0.4, "columnspacing": 0.4, "ncols": len(names)}
            figure.legend(handles, [str(n) for n in names], loc="outside upper center", **spacing)
    return figure


def manifold(vae: VAE, *, num: int = 20, caption: str = "") -> Figure:
    """Means of p(x | z) over a plane of z, evenly spaced in the standard normal's probability.

    Args:
        vae: a model of images with ``latent_dim`` 2.
        num: points per axis, at the quantiles (i + 1/2) / num.

    Raises:
        ValueError: another ``latent_dim``, or the data are no images.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), figure 4. https://arxiv.org/abs/1312.6114
    """
    need(num > 0, f"manifold: num must be positive, got num={num}. Use 20.")
    need(vae.latent_dim == 2, f"manifold: latent_dim must be 2, got latent_dim={vae.latent_dim}. Use samples().")
    z = torch.special.ndtri((torch.arange(num) + 0.5).double() / num).to(next(vae.parameters()))
    grid = torch.stack(torch.meshgrid(z, z.flip(0), indexing="xy"), -1).flatten(0, 1)  # (num * num, 2), top row first
    with evaluating(vae), isolated_rng(0):
        images = as_images(vae.decode(grid).mean, "manifold")
    with page(0.35, caption) as (figure, (ax,)):
        show_grid(ax, images, num, pad=0, margin=0.45, extent=(0, 1, 0, 1))
        ticks = torch.arange(-3, 4) / 2
        for axis, name in ((ax.xaxis, "$z_1$"), (ax.yaxis, "$z_2$")):
            axis.set_ticks(torch.special.ndtr(ticks).tolist(), [number(t, "g") for t in ticks.tolist()])
            axis.set_label_text(f"{name} (spaced as normal quantiles)")
    return figure


def active_units(diagnostics: LatentDiagnostics, *, caption: str = "") -> Figure:
    """KL and activity of every latent dimension, in the order of the KL (of the activity where that is unknown).

    Args:
        diagnostics: from :func:`latent_diagnostics`.
    """
    d, kl, num = diagnostics, diagnostics.kl, len(diagnostics.activity)
    order, ranks = (d.activity if kl is None else kl).argsort(descending=True).cpu(), range(1, num + 1)
    with page(1.5 if kl is None else 2.7, caption, rows=1 if kl is None else 2) as (figure, axes):
        if kl is not None:
            axes[0].bar(ranks, kl.cpu()[order].numpy(), width=min(0.8, 0.15 * num), color=PALETTE[0])
            axes[0].set_ylabel("KL\n(nats per datum)")
        activity = d.activity.cpu()[order].clamp_min(1e-8)  # a logarithmic axis has no zero
        axes[-1].semilogy(ranks, activity.numpy(), "o", color=PALETTE[0])
        axes[-1].axhline(ACTIVE_VARIANCE, color=PALETTE[3], ls="--")
        style = {
            "color": PALETTE[3],
            "fontsize": 7,
            "va": "bottom",
            "ha": "right",
            "transform": axes[-1].get_yaxis_transform(),
        }
        axes[-1].text(0.99, ACTIVE_VARIANCE, f"threshold {ACTIVE_VARIANCE}", **style)
        axes[-1].set_xlabel(f"Latent dimension, sorted by {'activity' if kl is None else 'KL'}")
        axes[-1].set_ylabel("Activity\n" + r"$\mathrm{Var}_x(E_q[z])$")
        if num <= 15:  # more would touch
            axes[-1].set_xticks(ranks, [str(i + 1) for i in order.tolist()])
        axes[0].set_title(f"{d.active_units} of {num} units active")
        figure.align_ylabels(axes)
    return figure


def log_likelihood_histogram(result: LogLikelihood, *, caption: str = "") -> Figure:
    """How the estimate of log p(x) and the ELBO vary over the data; lines at their means.

    Args:
        result: from :func:`log_likelihood`.

    Raises:
        ValueError: no finite value.
    """
    values = {"log-likelihood": result.log_likelihood.cpu().double(), "ELBO": result.elbo.cpu().double()}
    finite = torch.cat([v[v.isfinite()] for v in values.values()])
    need(len(finite) > 0, f"log_likelihood_histogram: result must hold finite values, got {len(result)} data. Retrain.")
    bins = torch.linspace(float(finite.min()), float(finite.max()), 41).tolist()
    looks = [{"color": PALETTE[0], "alpha": 0.5}, {"color": PALETTE[3], "histtype": "step", "linewidth": 1.2}]
    with page(2.1, caption) as (figure, (ax,)):
        for look, (name, value) in zip(looks, values.items(), strict=True):
            mean = float(value.mean())
            ax.hist(value[value.isfinite()].numpy(), bins, label=f"{name}: mean {number(mean, '.2f')}", **look)
            ax.axvline(mean, color=look["color"], ls="--", lw=0.8)
        samples = result.protocol.get("num_samples")
        ax.set_xlabel(
            "Estimate (nats per datum)" if samples is None else f"Estimate, {samples} samples (nats per datum)"
        )
        ax.set_ylabel("Number of data")
        figure.legend(loc="outside upper center", ncols=2)
    return figure
