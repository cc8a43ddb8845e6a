"""Grids of images with their contexts and samples given these."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from pyro_vae._core.checks import check_arguments, check_count, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.failures import program_errors
from pyro_vae._core.owners import evaluating
from pyro_vae.models import AutoregressiveModel, ConditionalVAE
from pyro_vae.plotting.panels import as_images, page, show_grid

_UNSEEN = 0.5  # grey level of pixels that the context does not contain


def completions(
    vae: ConditionalVAE | AutoregressiveModel,
    images: Tensor,
    context: Tensor | None = None,
    *,
    num: int = 10,
    num_samples: int = 4,
    seed: int = 0,
    caption: str = "",
) -> Figure:
    """Data in a row; above each its context, if that is a part of it; below it means of p(x | z, c) at samples of z.

    The samples z are from the prior given the context, so that the images below differ as the model's uncertainty is.
    Pixels that the context does not contain are grey. An autoregressive model is given the upper half of each image,
    and its context if it takes one, and its samples are exact.

    Args:
        vae: the model, for data ``(C, H, W)``, C 1 or 3, or ``(H, W)``.
        images: ``(N, *data_shape)``, on the model's device.
        context: ``(N, *context_shape)`` or classes ``(N,)``; None if it is a function of the images.
        num: number of images, from the first.
        num_samples: number of samples of each.
        seed: seed of the samples.
        caption: printed below.

    Raises:
        ValueError: the data are not images, a number is not positive, or a context is missing.
    """
    check_arguments(completions, locals())
    check_count("completions", num=num, images=len(images), num_samples=num_samples)
    x, context = images[:num], None if context is None else context[:num]
    needed = bool(vae.context_shape) if isinstance(vae, AutoregressiveModel) else vae.given is None
    missing = needed and context is None
    require(not missing, "completions", "a context must be given", "context=None", "Pass that of the images")
    with evaluating(vae), isolated_rng(seed), torch.no_grad(), program_errors("completions", (x,), vae):
        data = as_images(x, "completions")
        if isinstance(vae, AutoregressiveModel):
            half = data.shape[-2] // 2
            means = vae.complete(x.expand(num_samples, *x.shape), half, context)
            rows = {"given": torch.where(torch.arange(data.shape[-2]).reshape(-1, 1) < half, data, _UNSEEN)}
        else:
            c = vae.model.context(x) if context is None else context
            means = vae.sample(c, num_samples, mean=True)
            rows = {} if context is not None else {"given": _shown(vae, data, c)}
    rows |= {"data": data, "samples": means.reshape(-1, *data.shape[1:])}
    with page(0.0, caption) as (figure, (ax,)):
        pad = show_grid(ax, torch.cat(list(rows.values())), len(data), margin=0.45)
        height, start, ticks = data.shape[-2] + pad, 0, []
        for images_of_row in rows.values():
            count = len(images_of_row) // len(data)
            ticks.append(pad / 2 + height * (start + count / 2))
            start += count
        ax.set_yticks(ticks, list(rows))
        ax.tick_params(length=0, labelbottom=False)
        ax.spines[:].set_visible(False)
    return figure


def class_context(vae: ConditionalVAE | AutoregressiveModel, labels: Tensor | None) -> Tensor | None:
    """The labels ``(N,)`` if they are the context of the model, on its device; None if it needs none.

    Example:
        >>> from pyro_vae.networks import MaskedMLP
        >>> class_context(AutoregressiveModel((4,), net=MaskedMLP), torch.tensor([1, 0])) is None
        True
    """
    given = not vae.context_shape if isinstance(vae, AutoregressiveModel) else vae.given is not None
    return None if given or labels is None else labels.to(next(vae.parameters()).device)


def _shown(vae: ConditionalVAE, data: Tensor, context: Tensor) -> Tensor:
    """The context as images of the data's size."""
    seen = None if vae.given is None else vae.given.seen
    if seen is not None:
        return torch.where(seen.reshape(data.shape[1:]), data, _UNSEEN)
    return interpolate(context, size=data.shape[-2:], mode="nearest").expand_as(data)
