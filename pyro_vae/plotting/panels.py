"""The page that a figure is drawn on, and what goes into its panels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor
from torchvision.utils import make_grid

# Okabe and Ito's colours (Color Universal Design, 2008, https://jfly.uni-koeln.de/color/); grey and wine make ten.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000", "#999999", "#882255"]
WIDTH = 3.3  # inches: a column of a two-column paper
STYLE = {
    **{"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "legend.frameon": False},
    **{
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.2,
        "lines.markersize": 3,
        "axes.spines.top": False,
        "axes.spines.right": False,
    },
}


@contextmanager
def page(height: float, caption: str, *, rows: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure and its panels in our style; ``height`` in inches is without caption and image grid."""
    lines = textwrap.wrap(caption, 68)
    with rc_context(STYLE):
        figure = Figure((WIDTH, height + 0.1 * len(lines) + (0.2 if lines else 0.08)), dpi=200, layout="constrained")
        panels = list(figure.subplots(rows, squeeze=False, sharex=True)[:, 0])
        for ax in panels:
            ax.tick_params(which="both", labelsize=7, width=0.6)  # also for ticks made outside the style, on saving
        yield figure, panels
        if lines:
            figure.supxlabel("\n".join(lines), fontsize=6, parse_math=False)


def number(value: float, form: str) -> str:
    """The number with a minus sign that is one."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def need(holds: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless it holds."""
    if not holds:
        raise ValueError(message)


def series(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """``(epoch, value)`` wherever the value is there and finite."""
    pairs = ((int(r.get("epoch", i + 1)), r.get(key)) for i, r in enumerate(history))
    return [(epoch, float(value)) for epoch, value in pairs if value is not None and math.isfinite(value)]


def limit(ax: Axes, points: list[tuple[int, float]]) -> None:
    """Keep the first quarter (of the logarithm) of the epochs out of view where it would take 3/4 of the height."""
    values = [value for _, value in points]
    settled = [value for epoch, value in points if epoch > max(e for e, _ in points) ** 0.25]
    low, high = min(settled, default=0.0), max(settled, default=0.0)
    if len(settled) > 5 and max(values) - min(values) > 4 * (high - low) > 0:
        ax.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


def epoch_axis(ax: Axes, epochs: list[int]) -> None:
    """Whole epochs, on a logarithmic axis beyond 20."""
    ax.set_xlabel("Epoch")
    if len(set(epochs)) == 1:
        ax.set_xticks(epochs[:1])
        return
    if max(epochs) <= 20 or min(epochs) < 1:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        return
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(epochs) <= 300 else (1,)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def as_images(x: Tensor, function: str) -> Tensor:
    """``(N, C, H, W)`` images, or a refusal in the name of ``function``."""
    images = x.detach().unsqueeze(1) if x.ndim == 3 else x.detach()  # (N, C, H, W)
    need(
        images.ndim == 4 and images.shape[1] in (1, 3),
        f"{function}: data must be images (C, H, W) with C 1 or 3, or (H, W), got data_shape={tuple(x.shape[1:])}. "
        "Draw other data with latent_scatter or active_units.",
    )
    return images


def show_grid(
    ax: Axes, images: Tensor, columns: int, *, pad: int | None = None, margin: float = 0.0, **how: Any
) -> int:
    """One mosaic, as wide as the figure without ``margin`` inches; returns the pixels between the images."""
    pad = max(1, images.shape[-2] // 14) if pad is None else pad
    mosaic = make_grid(images.double().clamp(0, 1), nrow=columns, padding=pad, pad_value=1.0).cpu()  # (3, H, W)
    ratio, (width, height) = mosaic.shape[1] / mosaic.shape[2], ax.figure.get_size_inches()
    ax.figure.set_size_inches(width, height + (width - 0.08 - margin) * ratio)
    ax.imshow(
        mosaic.permute(1, 2, 0).numpy(),
        origin="upper",
        interpolation="antialiased",
        aspect=ratio if "extent" in how else 1,
        **how,
    )
    return pad


def scatter(ax: Axes, points: Tensor, groups: list[Tensor]) -> None:
    """Posterior means in the plane, by their first two principal components where there are more."""
    xlabel, ylabel = "Posterior mean of $z_1$", "Posterior mean of $z_2$"
    if points.shape[1] > 2:
        variances, axes = torch.linalg.eigh(torch.cov(points.T, correction=0))
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # the largest loading is positive
        share = (variances / variances.sum().clamp_min(1e-300)).flip(0)
        points = (points - points.mean(0)) @ axes.flip(1)[:, :2]  # (N, 2)
        xlabel, ylabel = (f"PC {i + 1} ({share[i]:.0%} of variance)" for i in range(2))
    colors = [PALETTE[g] for g in torch.stack(groups).int().argmax(0).tolist()]
    # One call in the data's order, as class after class would hide the first ones
    ax.scatter(*points.T.numpy(), s=max(0.5, min(8.0, 4000 / len(points))), c=colors, linewidths=0, alpha=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_aspect("equal", adjustable="datalim")


def histogram(ax: Axes, points: Tensor, groups: list[Tensor]) -> None:
    """One-dimensional posterior means, a line per class."""
    bins = torch.linspace(float(points.min()), float(points.max()), 41).tolist()
    for color, group in zip(PALETTE, groups, strict=False):
        ax.hist(points[group, 0].numpy(), bins, histtype="step", color=color)
    ax.set(xlabel="Posterior mean of $z_1$", ylabel="Number of data")
