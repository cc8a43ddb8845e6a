"""Figures of paths in latent space: interpolations, traversals, J-diagrams, MINE grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._core.checks import check_count, require
from pyro_vae.latents import Interpolation, LatentSpace, Traversal, analogy, lattice, nearest
from pyro_vae.latents.space import Codes, Inputs, Model, latent_space
from pyro_vae.plotting.panels import PALETTE, as_images, frame_tiles, page, show_grid

_MAX_TICKS = 7  # along the width of a column


def interpolation_grid(result: Interpolation, *, caption: str = "") -> Figure:
    """Images along the paths, a row for each pair; the first and the last column are reconstructions.

    Args:
        result: from :func:`~pyro_vae.latents.interpolate`, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        caption: printed below.

    Raises:
        ValueError: the data are not images.
    """
    images = as_images(result.means.flatten(0, 1), "interpolation_grid")
    with page(0.35, caption) as (figure, (ax,)):
        pad = show_grid(ax, images, len(result.fractions), margin=0.2)
        _label_columns(ax, images, pad, [f"{t:.2g}" for t in result.fractions.tolist()])
        ax.set_xlabel(f"Fraction of the way from a to b (path: {result.path})")
        ax.set_yticks([])
        ax.set_ylabel("Pairs a, b")
    return figure


def traversal_strip(result: Traversal, *, datum: int = 0, num: int = 10, caption: str = "") -> Figure:
    """Images of one datum, a row for each latent dimension, over the quantiles of the aggregate posterior.

    Args:
        result: from :func:`~pyro_vae.latents.traverse`, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        datum: which of its data.
        num: largest number of dimensions.
        caption: printed below.

    Raises:
        ValueError: the data are not images, or ``num`` is not positive.
    """
    check_count("traversal_strip", num=num)
    images = as_images(result.means[datum, :num].flatten(0, 1), "traversal_strip")
    names = [f"$z_{{{j + 1}}}$" for j in result.dims[:num]]
    if result.kl is not None:
        names = [f"{name}, KL\n{kl:.2f} nats" for name, kl in zip(names, result.kl[:num].tolist(), strict=True)]
    with page(0.35, caption) as (figure, (ax,)):
        pad = show_grid(ax, images, len(result.levels), margin=0.5)
        _label_columns(ax, images, pad, [f"{100 * level:.3g}" for level in result.levels.tolist()])
        ax.set_xlabel("Quantile of the aggregate posterior (%)")
        height = images.shape[-2] + pad
        ax.set_yticks([pad / 2 + height * (i + 0.5) for i in range(len(names))], names, fontsize=6)
    return figure


def j_diagram(vae: Model, a: Inputs, b: Inputs, c: Inputs, *, num: int = 5, caption: str = "") -> Figure:
    """The analogy a : b = c : ?, with a at the top left, b at the top right, c below a, and b - a + c below b.

    The corners a, b and c, framed in blue, are reconstructions of the data beside them; the corner framed in orange is
    the analogy. All other images lie on spherical paths between them.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it, for data ``(C, H, W)``, C 1 or 3, or
            ``(H, W)``.
        a: one datum, ``(1, *data_shape)``, or with its class ``(1,)`` a tuple.
        b: another one.
        c: another one.
        num: number of images on each side, at least 2.
        caption: printed below.

    Raises:
        ValueError: a, b or c are not one image, or ``num`` is below 2.

    References:
        Sampling Generative Networks (White, 2016). https://arxiv.org/abs/1609.04468
    """
    check_count("j_diagram", 2, num=num)
    space = latent_space(vae)
    with space:
        corners = [space.encode(x) for x in (a, b, c)]
    require(all(len(code) == 1 for code in corners), "j_diagram", "a, b and c must be one datum each", "more")
    codes = Codes.cat([*corners, analogy(space, *corners).codes])
    means = lattice(space, codes, columns=2, between=num - 2)  # (num, num, *data_shape)
    images = as_images(means.flatten(0, 1), "j_diagram")
    grid = torch.ones(num, num + 2, *images.shape[1:], dtype=images.dtype, device=images.device)
    grid[:, 1:-1] = images.unflatten(0, (num, num))
    data = [as_images(code.args[0], "j_diagram")[0] for code in corners]
    for (row, column), image in zip(((0, 0), (0, -1), (-1, 0)), data, strict=True):
        grid[row, column] = image
    with page(0.0, caption) as (figure, (ax,)):
        pad = show_grid(ax, grid.flatten(0, 1), num + 2, margin=0.15)
        frame_tiles(ax, images, pad, [(0, 1), (0, num), (num - 1, 1)], PALETTE[0])
        frame_tiles(ax, images, pad, [(num - 1, num)], PALETTE[1])
        ends = [pad / 2 + (images.shape[-1] + pad) * (i + 0.5) for i in (0, num + 1)]
        top, bottom = pad / 2, pad / 2 + (images.shape[-2] + pad) * (num - 1)
        for x, y, name in ((ends[0], top, "a"), (ends[1], top, "b"), (ends[0], bottom, "c")):
            below, where = (y - pad, "bottom") if y == bottom else (y + images.shape[-2] + 2 * pad, "top")
            ax.text(x, below, name, ha="center", va=where, size=7)
        ax.text(ends[1], bottom + images.shape[-2] / 2, "$b - a$\n$+\\, c$", ha="center", va="center", size=7)
        ax.set_axis_off()
    return figure


def mine_grid(
    vae: Model, images: Tensor, *, rows: int = 3, columns: int = 4, between: int = 2, caption: str = ""
) -> Figure:
    """Nearest neighbours of the first image in a grid, framed, with spherical paths between them (MINE).

    The grid's positions are assigned so that the sum of the squared distances to the first two principal components of
    the codes is least; White arranges the neighbours by t-SNE, whose result depends on its seed.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it, for data ``(C, H, W)``, C 1 or 3, or
            ``(H, W)``.
        images: ``(N, *data_shape)``, at least ``rows * columns``.
        rows: rows of neighbours.
        columns: neighbours in a row.
        between: number of images between two neighbours.
        caption: printed below.

    Raises:
        ValueError: the data are not images or too few, or a number is too small.

    References:
        Sampling Generative Networks (White, 2016). https://arxiv.org/abs/1609.04468
    """
    check_count("mine_grid", rows=rows, columns=columns)
    space = latent_space(vae)
    chosen = nearest(space, images[:1], images, num=rows * columns).indices[0]
    anchors = images[chosen.to(images.device)][_arranged(space, images[chosen.to(images.device)], rows, columns)]
    means = lattice(space, anchors, columns=columns, between=between)
    shown, step = as_images(means.flatten(0, 1), "mine_grid"), between + 1
    with page(0.0, caption) as (figure, (ax,)):
        pad = show_grid(ax, shown, means.shape[1])
        frame_tiles(ax, shown, pad, [(i * step, j * step) for i in range(rows) for j in range(columns)], PALETTE[0])
        ax.set_axis_off()
    return figure


def _arranged(space: LatentSpace, images: Tensor, rows: int, columns: int) -> Tensor:
    """The image of each position of the grid, row by row."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    with space:
        z = space.means(images).double().cpu()
    centred = z - z.mean(0)
    plane = centred @ torch.linalg.svd(centred, full_matrices=False)[2][:2].mT
    plane = plane / plane.std(0).clamp_min(1e-12)
    plane = torch.nn.functional.pad(plane, (0, 2 - plane.shape[1]))
    y, x = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], -1)
    places = (places - places.mean(0)) / places.std(0).clamp_min(1e-12)
    _, order = linear_sum_assignment(torch.cdist(places, plane).square().numpy())
    return torch.as_tensor(order, device=images.device)


def _label_columns(ax: Axes, images: Tensor, pad: int, names: Sequence[str]) -> None:
    """Names below the columns, as many as are legible, first and last included."""
    step = -(-(len(names) - 1) // (_MAX_TICKS - 1)) if len(names) > _MAX_TICKS else 1
    while (len(names) - 1) % step:
        step += 1
    shown = range(0, len(names), step)
    ax.set_xticks([pad / 2 + (images.shape[-1] + pad) * (i + 0.5) for i in shown], [names[i] for i in shown])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
