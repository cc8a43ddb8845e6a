"""Paths between two latent codes that do not depend on the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_vae._core.checks import require
from pyro_vae.evaluation.marginals import factorises

_PARALLEL = 1e-4  # angle below which a spherical path is straight to rounding, and pi minus it not defined


def lerp(a: Tensor, b: Tensor, fractions: Tensor) -> Tensor:
    """The straight path, ``(N, T, L)``, between codes ``(N, L)`` at T fractions of the way."""
    return torch.lerp(a.unsqueeze(1), b.unsqueeze(1), fractions.to(a)[:, None])


def slerp(a: Tensor, b: Tensor, fractions: Tensor) -> Tensor:
    r"""The spherical path: the direction turns at constant speed, and the norm changes linearly.

    .. math:: \frac{z_t}{|z_t|} = \frac{\sin((1 - t) \omega)}{\sin \omega} \frac{a}{|a|}
        + \frac{\sin(t \omega)}{\sin \omega} \frac{b}{|b|}, \quad |z_t| = (1 - t) |a| + t |b|

    with the angle :math:`\omega` between a and b. Samples of a standard normal of many dimensions have about the same
    norm, which the straight path leaves.

    Args:
        a: ``(N, L)``.
        b: ``(N, L)``.
        fractions: ``(T,)``, between 0 and 1.

    Returns:
        ``(N, T, L)``.

    Raises:
        ValueError: a and b are opposite, so that the path is not defined.

    References:
        Sampling Generative Networks (White, 2016); there the two vectors keep their norms in the formula,
        so that the norm is not linear in t if these differ. https://arxiv.org/abs/1609.04468

    Example:
        >>> slerp(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0.5]))
        tensor([[[1.4142, 1.4142]]])
    """
    norms = [v.norm(dim=-1, keepdim=True) for v in (a, b)]  # (N, 1) each
    units = [v / n.clamp_min(torch.finfo(a.dtype).tiny) for v, n in zip((a, b), norms, strict=True)]
    units = [torch.where(norms[i] > 0, units[i], units[1 - i]).unsqueeze(1) for i in (0, 1)]  # (N, 1, L)
    angle = 2 * torch.atan2((units[0] - units[1]).norm(dim=-1), (units[0] + units[1]).norm(dim=-1))  # (N, 1)
    defined = bool((angle < torch.pi - _PARALLEL).all())
    advice = "Use path='lerp', or path='prior'"
    require(defined, "slerp", "codes must not point in opposite directions", f"{float(angle.max()):.4f} rad", advice)
    t = fractions.to(a)
    weights = [torch.where(angle < _PARALLEL, s, (s * angle).sin() / angle.sin()) for s in (1 - t, t)]  # (N, T)
    direction = weights[0].unsqueeze(-1) * units[0] + weights[1].unsqueeze(-1) * units[1]  # (N, T, L)
    norm = torch.lerp(norms[0], norms[1], t)  # (N, T)
    return with_ends(norm.unsqueeze(-1) * direction, a, b, t)


def prior_path(owner: str, priors: Sequence[TorchDistribution], a: Tensor, b: Tensor, fractions: Tensor) -> Tensor:
    r"""The path that is straight in the prior's quantiles, :math:`z_t = F^{-1}((1 - t) F(a) + t F(b))` per dimension.

    In every dimension, equal steps have equal probability under the prior.

    Args:
        owner: name that messages begin with.
        priors: p(z) for a and for b, batch shape ``(N,)``: independent normal dimensions, the same for all codes.
        a: ``(N, L)``.
        b: ``(N, L)``.
        fractions: ``(T,)``, between 0 and 1.

    Returns:
        ``(N, T, L)``.

    Raises:
        ValueError: the prior's dimensions are not independent normals, or it depends on the data.
    """
    bases = [getattr(p, "base_dist", p) for p in priors]
    rule = "path='prior' needs a prior of independent normal dimensions, the same for all data"
    advice = "Use path='lerp', which needs no prior, or path='geodesic'"
    normal = all(factorises(p) and isinstance(base, Normal) for p, base in zip(priors, bases, strict=True))
    what = type(bases[0] if isinstance(priors[0], Independent) else priors[0]).__name__
    require(normal, owner, rule, what, advice)
    loc, scale = (torch.cat([getattr(base, name) for base in bases]).double() for name in ("loc", "scale"))  # (2 N, L)
    same = bool((loc == loc[0]).all() and (scale == scale[0]).all())
    require(same, owner, rule, "one that depends on other latents", advice)
    x, y = ((z.double() - loc[0]) / scale[0] for z in (a, b))
    side = torch.where(x + y > 0, -1.0, 1.0)  # of the lower tail, whose probabilities do not round to 1
    start, end = (torch.special.log_ndtr(side * value).exp() for value in (x, y))  # ndtr rounds to 0 below -8
    u = lerp(start, end, fractions).clamp_min(1e-300)
    z = loc[0] + scale[0] * side.unsqueeze(1) * torch.special.ndtri(u)
    return with_ends(z.to(a), a, b, fractions)


def with_ends(z: Tensor, a: Tensor, b: Tensor, fractions: Tensor) -> Tensor:
    """Replace the values at fractions 0 and 1, which are rounded, by a and b."""
    t = fractions.to(a)[:, None]
    z = torch.where(t == 0, a.unsqueeze(1), z)
    return torch.where(t == 1, b.unsqueeze(1), z)
