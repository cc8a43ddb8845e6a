"""Shortest paths in latent space, measured by the means that the decoder returns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import LBFGS

from pyro_vae._core.checks import require
from pyro_vae.latents.paths import lerp, with_ends

Decode = Callable[[Tensor, Tensor], Tensor]
"""From codes ``(N, S, L)`` at fractions ``(S,)`` of the way to means ``(N, S, D)``."""

MAX_STEPS = 300
"""Largest number of steps of the optimizer."""


def geodesic(owner: str, decode: Decode, a: Tensor, b: Tensor, fractions: Tensor, *, num_segments: int) -> Tensor:
    r"""The path of least energy, :math:`S \sum_s |\mu(z_{s+1}) - \mu(z_s)|^2`, of the means :math:`\mu(z)` of p(x | z).

    A path of least energy is a shortest path in the metric :math:`J' J` that the decoder's Jacobian J defines, run
    through at constant speed. It is found by L-BFGS from the straight path, as a sum of sines with amplitudes
    proportional to 1/k, in which the energy of a linear decoder is perfectly conditioned. It may be a local minimum;
    where it is not shorter than the straight path, that one is returned.

    The metric is Euclidean in the means: up to a factor the Fisher information of a normal likelihood of fixed scale.
    On images, the shortest way can be to fade one out and the other in, through codes that the prior makes improbable.

    Args:
        owner: name that messages begin with.
        decode: the decoder.
        a: ``(N, L)``.
        b: ``(N, L)``.
        fractions: ``(T,)``, between 0 and 1, of the path's length.
        num_segments: number of segments S of the polygon that is optimised.

    Returns:
        ``(N, T, L)``.

    Raises:
        ValueError: the means are not differentiable in z.

    References:
        Latent space oddity: on the curvature of deep generative models (Arvanitidis et al., 2018).
        https://arxiv.org/abs/1710.11379
        The Riemannian geometry of deep generative models (Shao et al., 2018): the discrete energy.
        https://arxiv.org/abs/1711.08014
    """
    t = torch.linspace(0, 1, num_segments + 1, dtype=a.dtype, device=a.device)
    order = torch.arange(1, num_segments, dtype=a.dtype, device=a.device)
    basis = (torch.pi * order * t[:, None]).sin() / order  # (S + 1, S - 1)
    basis[[0, -1]] = 0.0
    line = lerp(a, b, t)
    amplitudes = _least_energy(
        owner, lambda c: decode(line + basis @ c, t), a.new_zeros(len(a), len(order), a.shape[-1])
    )
    z = line + basis @ amplitudes  # (N, S + 1, L)
    straight, bent = (_steps(decode(path, t)) for path in (line, z))  # (N, S) each
    shorter = bent.sum(-1) < straight.sum(-1)
    z = torch.where(shorter[:, None, None], z, line)
    return _resample(z, torch.where(shorter[:, None], bent, straight), fractions.to(a), line)


def _least_energy(owner: str, means: Callable[[Tensor], Tensor], amplitudes: Tensor) -> Tensor:
    """The amplitudes ``(N, S - 1, L)`` of least energy, each pair's in units of its initial energy."""
    c = amplitudes.clone().requires_grad_()
    with torch.no_grad():
        scale = _steps(means(amplitudes)).square().sum(-1)  # (N,)
        scale = torch.where(scale > 0, scale, 1.0)

    def energy() -> Tensor:
        with torch.enable_grad():
            loss = (_steps(means(c)).square().sum(-1) / scale).sum()
            # The decoder's parameters may have a gradient while z has none.
            (c.grad,) = torch.autograd.grad(loss, c, allow_unused=True) if loss.requires_grad else (None,)
        what, advice = "one that is not", "Use path='lerp' or path='slerp'"
        require(c.grad is not None, owner, "path='geodesic' needs a decoder differentiable in z", what, advice)
        return loss

    optimizer = LBFGS(
        [c],
        max_iter=MAX_STEPS,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(energy)
    return c.detach()


def _steps(means: Tensor) -> Tensor:
    """Lengths of the segments, ``(N, S)``, of polygons ``(N, S + 1, D)``."""
    return means.diff(dim=1).square().sum(-1).clamp_min(torch.finfo(means.dtype).tiny).sqrt()


def _resample(z: Tensor, steps: Tensor, fractions: Tensor, line: Tensor) -> Tensor:
    """Points of polygons ``(N, S + 1, L)`` at fractions of their lengths, ``(N, T, L)``."""
    done = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(-1)], -1)
    done = done / done[:, -1:]  # (N, S + 1)
    wanted = fractions.expand(len(z), -1).contiguous()
    left = (torch.searchsorted(done, wanted, right=True) - 1).clamp(0, steps.shape[1] - 1)  # (N, T)
    rows = torch.arange(len(z), device=z.device)[:, None]
    part = (wanted - done[rows, left]) / (done[rows, left + 1] - done[rows, left]).clamp_min(1e-30)
    points = torch.lerp(z[rows, left], z[rows, left + 1], part.clamp(0, 1).unsqueeze(-1))
    return with_ends(points, line[:, 0], line[:, -1], fractions)
