"""Log-densities of masked latent sites.

A mask around a guide's site sets its log-probability to zero but does not change the distribution that the latent is
sampled from. A log-weight needs the density of that distribution, unless the model masks the site too.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Independent

from pyro_vae._core.traces import no_mask

Mask = Tensor | bool


def is_masked(site: Any) -> bool:
    """Whether a mask is set around a site or in its distribution."""
    return not no_mask(site["mask"]) or unmasked(site["fn"])[1] is not True


def hides(site: Any) -> bool:
    """Whether a mask around a site or in its distribution hides anything."""
    masks = (site["mask"], unmasked(site["fn"])[1])
    return any(mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks)


def log_density(site: Any, counterpart: Any) -> Tensor:
    """Log-density of a guide's sample, set to zero only if the sites of both guide and model are masked."""
    base, mask, dims = unmasked(site["fn"])
    other = unmasked(counterpart["fn"])
    either = _or(_and(mask, site["mask"], dims), _and(other[1], counterpart["mask"], other[2]), dims, other[2])
    value = base.log_prob(site["value"])
    if isinstance(either, Tensor) or not either:
        # Masks may differ between the event dimensions of a datum: apply them before the sum over the event.
        value = torch.where(torch.as_tensor(either, device=value.device), value, 0.0)
    return sum_rightmost(value, dims) if dims else value


def unmasked(fn: Any) -> tuple[Any, Mask, int]:
    """The distribution inside all masks, the masks' conjunction, and its number of dimensions to be summed."""
    if isinstance(fn, MaskedDistribution):
        base, mask, dims = unmasked(fn.base_dist)
        return base, _and(mask, fn._mask, dims), dims
    if isinstance(fn, Independent):
        base, mask, dims = unmasked(fn.base_dist)
        if mask is not True:
            return base, mask, dims + fn.reinterpreted_batch_ndims
    return fn, True, 0


def _and(one: Mask, other: Mask | None, dims: int) -> Mask:
    """Conjunction of ``one``, which has ``dims`` dimensions more on the right, and ``other``; None hides nothing."""
    if other is None or other is True:
        return one
    return other if one is True and not dims else _append_dims(other, dims) & torch.as_tensor(one)


def _or(one: Mask, other: Mask, dims: int, other_dims: int) -> Mask:
    if one is True or other is True:
        return True
    if dims < other_dims:  # the guide's density cannot be split along the model's mask: keep it if any entry counts
        other = torch.as_tensor(other).flatten(-(other_dims - dims)).any(-1)
        other_dims = dims
    return torch.as_tensor(one) | _append_dims(other, dims - other_dims)


def _append_dims(mask: Mask, dims: int) -> Tensor:
    mask = torch.as_tensor(mask)
    return mask.reshape([*mask.shape, *[1] * dims])
