"""Grids of images with one style z per row and one class y per column."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_count, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.failures import program_errors
from pyro_vae._core.owners import evaluating
from pyro_vae.models.labelled import LabelledVAE
from pyro_vae.plotting.classes import class_names
from pyro_vae.plotting.panels import PALETTE, as_images, frame_tiles, page, show_grid


def class_samples(
    vae: LabelledVAE, *, num: int = 10, names: list[str] | None = None, seed: int = 0, caption: str = ""
) -> Figure:
    """Means of p(x | y, z): a row for each sample z of the prior and a column for each class y.

    Args:
        vae: the model, such as a :class:`~pyro_vae.SemiSupervisedVAE`, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        num: number of rows.
        names: names of the classes; by default their numbers.
        seed: seed of the samples.
        caption: printed below.

    Raises:
        ValueError: the data are not images, ``num`` is not positive, or there are not as many names as classes.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), section 4.3.
        https://arxiv.org/abs/1406.5298
    """
    check_arguments(class_samples, locals(), num=1)
    names = class_names("class_samples", vae.num_classes, names)
    with evaluating(vae), isolated_rng(seed):
        z = poutine.trace(vae.model).get_trace(batch_size=num).nodes["z"]["value"]
        means = as_images(class_means(vae, z).flatten(0, 1), "class_samples")
    with page(0.0, caption) as (_, (ax,)):
        pad = show_grid(ax, means, vae.num_classes, margin=0.2)
        _label(ax, means, names, pad)
        ax.set_ylabel("Style $z$ ~ $p(z)$")
    return ax.figure


def analogies(
    vae: LabelledVAE,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    num: int = 10,
    names: list[str] | None = None,
    seed: int = 0,
    caption: str = "",
) -> Figure:
    """Images in the first column; beside each its style z of q(z | x, y) in every class: means of p(x | y, z).

    A frame marks the class of the image, or the predicted class if it is unknown.

    Args:
        vae: the model, such as a :class:`~pyro_vae.SemiSupervisedVAE`, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        images: ``(N, *data_shape)``, on the model's device.
        labels: ``(N,)``, int64, their classes; by default, and for -1, those predicted by the classifier.
        num: number of images, from the first.
        names: names of the classes; by default their numbers.
        seed: seed of the samples of z.
        caption: printed below.

    Raises:
        ValueError: the data are not images, ``num`` or N is 0, or labels or names are missing.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), figure 1 b and c.
        https://arxiv.org/abs/1406.5298
    """
    check_arguments(analogies, locals())
    check_count("analogies", num=num, images=len(images))
    num_labels = len(images) if labels is None else len(labels)
    require(num_labels == len(images), "analogies", f"labels must be of all {len(images)} images", str(num_labels))
    names, x = class_names("analogies", vae.num_classes, names), images[:num]
    with evaluating(vae), isolated_rng(seed), program_errors("analogies", (x,), vae):
        data = as_images(x, "analogies")
        predicted = vae.classify(x).argmax(-1)
        known = predicted if labels is None else labels[:num].to(predicted)
        y = torch.where(known == -1, predicted, known)
        z = poutine.trace(vae.guide).get_trace(x, y).nodes["z"]["value"]
        means = class_means(vae, z).reshape(len(x), vae.num_classes, *data.shape[1:])
    rows = torch.cat([data.unsqueeze(1), torch.ones_like(data.unsqueeze(1)), means], 1).flatten(0, 1)
    with page(0.0, caption) as (_, (ax,)):
        pad = show_grid(ax, rows, vae.num_classes + 2, margin=0.2)
        _label(ax, rows, ["$x$", "", *names], pad)
        ax.set_ylabel("Style $z$ ~ $q(z|x, y)$")
        frame_tiles(ax, rows, pad, list(enumerate((y + 2).tolist())), PALETTE[3])
    return ax.figure


def class_means(vae: LabelledVAE, z: Tensor) -> Tensor:
    """Means of p(x | y, z), ``(N, C, *data_shape)``, of styles z ``(N, L)``, for every class y; others are sampled."""
    classes = torch.arange(vae.num_classes, device=z.device).repeat(len(z))
    styles = z.repeat_interleave(vae.num_classes, 0)  # (N * C, L)
    decoder = poutine.condition(vae.model, {"z": styles})
    x = poutine.trace(decoder).get_trace(None, classes).nodes["x"]["fn"]
    return x.mean.unflatten(0, (len(z), vae.num_classes))


def _label(ax: Axes, images: Tensor, names: list[str], pad: int) -> None:
    """Write the names above the columns and remove the axes."""
    width = images.shape[-1] + pad
    ax.set_xticks([pad / 2 + width * (i + 0.5) for i in range(len(names))], names)
    ax.tick_params(length=0, labelbottom=False, labeltop=True, labelleft=False)
    ax.set_yticks([])
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("Class $y$")
    ax.spines[:].set_visible(False)
