"""A lattice of images that spans between anchors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_vae._core.checks import check_choice, check_count, require
from pyro_vae.latents.paths import lerp, slerp
from pyro_vae.latents.space import Codes, Inputs, Model, latent_space

_PATHS = {"lerp": lerp, "slerp": slerp}


def lattice(
    vae: Model, anchors: Inputs, *, columns: int, between: int = 3, path: Literal["lerp", "slerp"] = "slerp"
) -> Tensor:
    """Fill the gaps of a grid of images: paths along its rows, then along the columns of the result.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        anchors: data ``(R * columns, *data_shape)``, row by row, a tuple of data and classes, or codes.
        columns: number of anchors in a row.
        between: number of images between two anchors.
        path: kind of the paths, see :func:`~pyro_vae.latents.interpolate`.

    Returns:
        Means of p(x | z), ``(R + (R - 1) * between, columns + (columns - 1) * between, *data_shape)``; the anchors are
        at every ``between + 1``-th place.

    Raises:
        ValueError: the anchors do not fill the rows, or as :class:`~pyro_vae.latents.LatentSpace`.

    References:
        Sampling Generative Networks (White, 2016): J-diagrams and MINE grids. https://arxiv.org/abs/1609.04468

    Example:
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> guide, likelihood = guides.DiagonalNormalGuide((5,), 2), likelihoods.BernoulliLikelihood(2, (5,))
        >>> lattice(VAE(priors.StandardNormalPrior(2), likelihood, guide), torch.rand(6, 5), columns=3).shape
        torch.Size([5, 9, 5])
    """
    check_choice("lattice", "path", path, _PATHS)
    check_count("lattice", columns=columns)
    check_count("lattice", 0, between=between)
    with latent_space(vae) as space:
        codes = space.encode(anchors)
        full = len(codes) % columns == 0
        require(full, "lattice", f"anchors must fill rows of {columns}", f"{len(codes)} anchors", "Change columns")
        grid = torch.arange(len(codes), device=codes.z.device).reshape(-1, columns)
        for _ in range(2):
            codes, grid = _refined(codes, grid, between, path)
            grid = grid.T
        return space.decode(codes)[grid]


def _refined(codes: Codes, grid: Tensor, between: int, path: str) -> tuple[Codes, Tensor]:
    """Add codes between the columns of a grid of positions, ``(R, C)``; return all codes and their positions."""
    start, end = codes[grid[:, :-1].flatten()], codes[grid[:, 1:].flatten()]
    fractions = torch.arange(between + 1, dtype=torch.float64, device=grid.device) / (between + 1)
    z = _PATHS[path](start.z, end.z, fractions)  # (R * (C - 1), between + 1, L)
    parts = [start.towards(end, t, z[:, i]) for i, t in enumerate(fractions.tolist())]
    total = (between + 1) * len(start)
    inner = torch.arange(total, device=grid.device).reshape(between + 1, len(grid), -1)
    last = total + torch.arange(len(grid), device=grid.device)
    places = torch.cat([inner.permute(1, 2, 0).flatten(1), last[:, None]], 1)
    return Codes.cat([*parts, codes[grid[:, -1]]]), places
