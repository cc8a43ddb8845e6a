"""Figures of posteriors: two that overlap, and the ellipses of many over the prior's circle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Ellipse
from torch import Size, Tensor

from pyro_vae._core.checks import require
from pyro_vae.latents import LatentSpace, interpolate
from pyro_vae.latents.space import Model, latent_space
from pyro_vae.plotting.latents import class_legend
from pyro_vae.plotting.panels import PALETTE, as_images, page

NUM_DRAWS = 4_000
"""Samples that a posterior is drawn from."""
_MAX_COLUMNS = 3
_NUM_IMAGES, _IMAGE_WIDTH = 5, 0.4  # inches
_RADIUS = 2.0  # of the ellipses and of the prior's circle, in standard deviations


def posterior_midpoint(vae: Model, a: Tensor, b: Tensor, *, caption: str = "") -> Figure:
    """Two posteriors projected on the line through their means, and what the decoder makes of points on it.

    Where both densities are large, z is a code of either datum, so that the decoder has learned to mix them.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it, for data ``(C, H, W)``, C 1 or 3, or
            ``(H, W)``.
        a: one datum, ``(1, *data_shape)``.
        b: another one.
        caption: printed below.

    Raises:
        ValueError: the data are not images, or a and b have the same posterior mean.
    """
    space = latent_space(vae)
    path = interpolate(space, a, b, num=_NUM_IMAGES)
    images = as_images(path.means[0], "posterior_midpoint")
    direction = path.z[0, -1] - path.z[0, 0]
    length = float(direction.norm())
    require(length > 0, "posterior_midpoint", "a and b must have distinct posterior means", "equal ones")
    with space:
        draws = [space.posterior(x)[1].sample(Size([NUM_DRAWS]))[:, 0] for x in (a, b)]  # (S, L) each
    places = [((z - path.z[0, 0]) @ direction / length).double().cpu() for z in draws]
    with page(2.4, caption) as (figure, (ax,)):
        highest = _densities(ax, places, length)
        _add_images(ax, images, [length * t for t in path.fractions.tolist()], highest)
    return figure


def posterior_ellipses(
    models: Mapping[str, Model], x: Tensor, labels: Tensor | None = None, *, caption: str = ""
) -> Figure:
    """Posteriors of the same data under several models of two latent dimensions, over the prior, three in a row.

    Ellipses and the prior's circle have a radius of two standard deviations. Without a weight of the reconstruction
    (:class:`~pyro_vae.objectives.BetaELBO`) every posterior is the prior; without one of the KL they become points.

    Args:
        models: names, shown as titles, and models with ``latent_dim`` 2, or latent spaces of such a latent.
        x: ``(N, *data_shape)``, some tens of data.
        labels: ``(N,)``, their classes, in colours.
        caption: printed below.

    Raises:
        ValueError: there is no model, or a latent has not two dimensions.
    """
    require(bool(models), "posterior_ellipses", "there must be a model", "none")
    classes = [0] * len(x) if labels is None else labels.tolist()
    names = sorted(set(classes))
    color = {name: PALETTE[rank % len(PALETTE)] for rank, name in enumerate(names)}
    columns = min(len(models), _MAX_COLUMNS)
    rows = math.ceil(len(models) / columns)
    with page(rows * (3.0 / columns + 0.4) + 0.2, caption, rows=rows, columns=columns) as (figure, axes):
        for ax, (title, vae) in zip(axes, models.items(), strict=False):
            _ellipses(ax, latent_space(vae), x, [color[name] for name in classes])
            ax.set_title(title)
            ax.set_xlabel("$z_1$")
        for ax in axes[::columns]:
            ax.set_ylabel("$z_2$")
        for ax in axes[len(models) :]:
            ax.set_axis_off()
        if labels is not None:
            class_legend(figure, [str(name) for name in names])
    return figure


def _densities(ax: Axes, places: list[Tensor], length: float) -> float:
    """Histograms of the projected samples; returns the height of the higher one."""
    both, highest = torch.cat(places), 0.0
    bins = torch.linspace(float(both.min()), float(both.max()), 61, dtype=torch.float64).tolist()
    for values, color, name, side in zip(places, (PALETTE[0], PALETTE[3]), "ab", ("right", "left"), strict=True):
        heights, *_ = ax.hist(values.tolist(), bins, color=color, alpha=0.45, density=True)
        peak, highest = float(heights.max()), max(highest, float(heights.max()))
        ax.annotate(f"$q(z|{name})$", (float(values.mean()), 1.03 * peak), color=color, ha=side, va="bottom")
    ax.plot([length / 2] * 2, [0, 1.2 * highest], color="black", ls="--", lw=0.8)
    ax.set(xlabel="Position on the line from mean to mean (units of $z$)", ylabel="Density")
    return highest


def _add_images(ax: Axes, images: Tensor, places: Sequence[float], highest: float) -> None:
    """Draw images in the upper part of the panel, each with a line to its place on the horizontal axis."""
    pixels = images.double().clamp(0, 1).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()  # (T, H, W, 3)
    for number, (image, place) in enumerate(zip(pixels, places, strict=True)):
        box = OffsetImage(image, zoom=_IMAGE_WIDTH * 72 / image.shape[1])
        options = {"xycoords": "data", "boxcoords": "axes fraction", "frameon": False}
        line = {"arrowstyle": "-", "lw": 0.6, "color": PALETTE[8], "shrinkA": 0, "shrinkB": 0}
        above = ((number + 0.5) / len(places), 0.86)
        ax.add_artist(AnnotationBbox(box, (place, 1.2 * highest), above, arrowprops=line, **options))
    ax.set_yticks([tick for tick in ax.get_yticks() if tick <= highest])
    ax.set_ylim(0, 1.9 * highest)


def _ellipses(ax: Axes, space: LatentSpace, x: Tensor, colors: Sequence[str]) -> None:
    """The posteriors of one model and the prior's circle."""
    with space:
        draws = space.posterior(x)[1].sample(Size([NUM_DRAWS])).double().cpu()  # (S, N, L)
    size = draws.shape[-1]
    require(size == 2, "posterior_ellipses", "the latent must have 2 dimensions", f"{size}", "Train with latent_dim=2")
    for z, color in zip(draws.unbind(1), colors, strict=True):
        values, vectors = torch.linalg.eigh(torch.cov(z.T))
        angle = torch.rad2deg(torch.atan2(vectors[1, 1], vectors[0, 1]))
        height, width = (2 * _RADIUS * values.clamp_min(0).sqrt()).tolist()
        style = {"fc": color, "ec": "none", "alpha": 0.4}
        ax.add_patch(Ellipse(z.mean(0).tolist(), width, height, angle=float(angle), **style))
    ax.scatter(*draws.mean(0).T.numpy(), s=2, c=colors, linewidths=0, zorder=4)
    ax.add_patch(Ellipse((0, 0), 2 * _RADIUS, 2 * _RADIUS, fill=False, ec="black", lw=0.8, ls="--", zorder=5))
    reach = 1.05 * max(_RADIUS, float((draws.mean(0).abs() + _RADIUS * draws.std(0)).amax()))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    ax.locator_params(nbins=4, integer=True)
