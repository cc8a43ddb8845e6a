"""Grids of images: data, reconstructions, samples and the latent plane."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_count, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.failures import program_errors
from pyro_vae._core.owners import evaluating
from pyro_vae.distributions import mean_or_sample
from pyro_vae.models import VAE, AutoregressiveModel
from pyro_vae.plotting.panels import as_images, number, page, show_grid

_GREY = 0.5  # of missing pixels


def image_grid(images: Tensor, *, columns: int, caption: str = "") -> Figure:
    """Images row by row.

    Args:
        images: ``(N, C, H, W)`` with C 1 or 3, or ``(N, H, W)``; values are clamped to [0, 1].
        columns: images per row.
        caption: printed below.

    Raises:
        ValueError: the shape is another, or ``columns`` is not positive.

    Example:
        >>> image_grid(torch.rand(6, 1, 8, 8), columns=3).axes[0].images[0].get_array().shape  # 1 pixel between
        (19, 28, 3)
    """
    check_arguments(image_grid, locals(), columns=1)
    with page(0.0, caption) as (figure, (ax,)):
        show_grid(ax, as_images(images, "image_grid"), columns)
        ax.set_axis_off()
    return figure


def reconstructions(vae: VAE, images: Tensor, *, num: int = 10, caption: str = "") -> Figure:
    """Data in the upper row; below each datum x, the mean of p(x | z) at one sample z of q(z | x).

    Missing entries are grey.

    Args:
        vae: the model, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        images: ``(N, *data_shape)``, on the model's device.
        num: number of images, from the first.
        caption: printed below; in a run that of ``evaluation.caption.caption_of``.

    Raises:
        ValueError: the data are not images, or ``num`` or N is 0.
    """
    check_arguments(reconstructions, locals())
    check_count("reconstructions", num=num, images=len(images))
    with evaluating(vae), isolated_rng(0), program_errors("reconstructions", (images[:num],), vae):
        missing = images[:num].isnan() & getattr(vae, "missing", False)
        data = as_images(images[:num].masked_fill(missing, _GREY), "reconstructions")
        means = vae.reconstruct(images[:num]).reshape(data.shape)
    with page(0.0, caption) as (figure, (ax,)):
        pad = show_grid(ax, torch.cat([data, means]), len(data), margin=0.45)
        height = data.shape[-2] + pad
        ax.set_yticks([pad / 2 + height * 0.5, pad / 2 + height * 1.5], ["data", "recon."])
        ax.tick_params(length=0, labelbottom=False)
        ax.spines[:].set_visible(False)
    return figure


def samples(
    vae: VAE | AutoregressiveModel,
    *,
    num: int = 64,
    context: Tensor | None = None,
    seed: int = 0,
    caption: str = "",
) -> Figure:
    """Means of p(x | z) at samples z of the prior; samples of an autoregressive model.

    Args:
        vae: the model, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        num: number of samples.
        context: of an autoregressive model that takes one, ``(N, *context_shape)`` or classes ``(N,)``: one column of
            ``num / N`` samples, rounded up, for each.
        seed: seed of the samples.
        caption: printed below.

    Raises:
        ValueError: the data are not images, or ``num`` is not positive.
    """
    check_arguments(samples, locals(), num=1)
    with evaluating(vae), isolated_rng(seed):
        if isinstance(vae, AutoregressiveModel):
            x = vae.sample(num if context is None else math.ceil(num / len(context)), context)
        else:
            x = vae.sample(num, mean=True)
        images = as_images(x if context is None else x.flatten(0, 1), "samples")
    columns = math.ceil(math.sqrt(num)) if context is None else len(context)
    return image_grid(images, columns=columns, caption=caption)


def manifold(vae: VAE, *, num: int = 20, caption: str = "") -> Figure:
    """Means of p(x | z) over the latent plane, evenly spaced in the standard normal's probability.

    Args:
        vae: a model of images with ``latent_dim`` 2.
        num: points per axis, at the quantiles (i + 1/2) / num.
        caption: printed below.

    Raises:
        ValueError: ``latent_dim`` is not 2, or the data are not images.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), figure 4. https://arxiv.org/abs/1312.6114
    """
    check_arguments(manifold, locals(), num=1)
    require(vae.latent_dim == 2, "manifold", "latent_dim must be 2", f"latent_dim={vae.latent_dim}", "Use samples()")
    z = torch.special.ndtri((torch.arange(num) + 0.5).double() / num).to(next(vae.parameters()))
    grid = torch.stack(torch.meshgrid(z, z.flip(0), indexing="xy"), -1).flatten(0, 1)  # (num * num, 2), top row first
    with evaluating(vae), isolated_rng(0):
        images = as_images(mean_or_sample(vae.decode(grid)), "manifold")
    with page(0.35, caption) as (figure, (ax,)):
        show_grid(ax, images, num, pad=0, margin=0.45, extent=(0, 1, 0, 1))
        ticks = torch.arange(-3, 4) / 2
        for axis, name in ((ax.xaxis, "$z_1$"), (ax.yaxis, "$z_2$")):
            axis.set_ticks(torch.special.ndtr(ticks).tolist(), [number(t, "g") for t in ticks.tolist()])
            axis.set_label_text(f"{name} (spaced as normal quantiles)")
    return figure
