"""Grids of images in which the style z is that of the row and the class y that of the column."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pyro import poutine
from torch import Tensor

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae.models.labelled import LabelledVAE
from pyro_vae.plotting.panels import PALETTE, as_images, need, page, show_grid


def class_samples(
    vae: LabelledVAE, *, num: int = 10, names: list[str] | None = None, seed: int = 0, caption: str = ""
) -> Figure:
    """Means of p(x | y, z): a row for each draw z of the prior and a column for each class y.

    Args:
        vae: the model, such as a :class:`~pyro_vae.SemiSupervisedVAE`, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        num: number of rows.
        names: of the classes; by default their numbers.
        seed: of the draws.

    Raises:
        ValueError: the data are no images, ``num`` is not positive, or the names are not as many as the classes.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), section 4.3.
        https://arxiv.org/abs/1406.5298
    """
    need(num > 0, f"class_samples: num must be positive, got num={num}. Use 10.")
    names = _names("class_samples", vae, names)
    with evaluating(vae), isolated_rng(seed):
        z = poutine.trace(vae.model).get_trace(batch_size=num).nodes["z"]["value"]
        means = as_images(of_every_class(vae, z).flatten(0, 1), "class_samples")
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
    """Images in the first column; beside each its style, z of q(z | x, y), in every class: means of p(x | y, z).

    The class that the image has, or is taken for, is framed.

    Args:
        vae: the model, such as a :class:`~pyro_vae.SemiSupervisedVAE`, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        images: ``(N, *data_shape)``, on the model's device.
        labels: ``(N,)``, int64, their classes; by default, and where -1, those that the classifier tells.
        num: how many of them, from the first on.
        names: of the classes; by default their numbers.
        seed: of the draws of z.

    Raises:
        ValueError: the data are no images, there are none, or labels or names are not as many.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), figure 1 b and c.
        https://arxiv.org/abs/1406.5298
    """
    rule = f"analogies: num must be positive, got num={num} of {len(images)} images. Use 10."
    need(min(num, len(images)) > 0, rule)
    wrong = labels is not None and len(labels) != len(images)
    need(not wrong, f"analogies: labels must be of all {len(images)} images, got another number. Pass one per image.")
    names, x = _names("analogies", vae, names), images[:num]
    data = as_images(x, "analogies")
    with evaluating(vae), isolated_rng(seed):
        told = vae.classify(x).argmax(-1)
        known = told if labels is None else labels[:num].to(told)
        y = torch.where(known == -1, told, known)
        z = poutine.trace(vae.guide).get_trace(x, y).nodes["z"]["value"]
        means = of_every_class(vae, z).reshape(len(x), vae.num_classes, *data.shape[1:])
    rows = torch.cat([data.unsqueeze(1), torch.ones_like(data.unsqueeze(1)), means], 1).flatten(0, 1)
    with page(0.0, caption) as (_, (ax,)):
        pad = show_grid(ax, rows, vae.num_classes + 2, margin=0.2)
        _label(ax, rows, ["$x$", "", *names], pad)
        ax.set_ylabel("Style $z$ ~ $q(z|x, y)$")
        _frame(ax, rows, (y + 2).tolist(), pad)
    return ax.figure


def of_every_class(vae: LabelledVAE, z: Tensor) -> Tensor:
    """Means of p(x | y, z) in every class, ``(N, C, *data_shape)``, for styles ``(N, L)``; other latents are drawn."""
    classes = torch.arange(vae.num_classes, device=z.device).repeat(len(z))
    styles = z.repeat_interleave(vae.num_classes, 0)  # (N * C, L)
    decoder = poutine.condition(vae.model, {"z": styles})
    x = poutine.trace(decoder).get_trace(None, classes).nodes["x"]["fn"]
    return x.mean.unflatten(0, (len(z), vae.num_classes))


def _names(owner: str, vae: LabelledVAE, names: list[str] | None) -> list[str]:
    found = [str(c) for c in range(vae.num_classes)] if names is None else list(names)
    rule = f"{owner}: names must be {vae.num_classes}, one per class, got {len(found)}. Name all."
    need(len(found) == vae.num_classes, rule)
    return found


def _label(ax: Axes, images: Tensor, names: list[str], pad: int) -> None:
    """The columns' names above them; the images need no axis."""
    width = images.shape[-1] + pad
    ax.set_xticks([pad / 2 + width * (i + 0.5) for i in range(len(names))], names)
    ax.tick_params(length=0, labelbottom=False, labeltop=True, labelleft=False)
    ax.set_yticks([])
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("Class $y$")
    ax.spines[:].set_visible(False)


def _frame(ax: Axes, images: Tensor, columns: list[int], pad: int) -> None:
    """A frame around one image of each row."""
    height, width = (n + pad for n in images.shape[-2:])
    for row, column in enumerate(columns):
        corner = (pad / 2 - 0.5 + column * width, pad / 2 - 0.5 + row * height)
        ax.add_patch(Rectangle(corner, width, height, fill=False, color=PALETTE[3], lw=1.0))
