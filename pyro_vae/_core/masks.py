"""Densities of draws that a mask leaves out: a guide's mask alone does not change what it draws from."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Independent

Mask = Tensor | bool


def is_masked(site: Any) -> bool:
    """Whether a mask is set around a site or in its distribution."""
    return not (site["mask"] is None or site["mask"] is True) or unmasked(site["fn"])[1] is not True


def hides(site: Any) -> bool:
    """Whether a mask around a site or in its distribution hides anything."""
    masks = (site["mask"], unmasked(site["fn"])[1])
    return any(mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks)


def log_density(site: Any, counterpart: Any) -> Tensor:
    """Log-density of a guide's draw, zero only where both the guide's site and the model's are masked.

    A draw that the guide masks and the model does not has the density of the distribution that it was drawn from. What
    both mask is no part of the model.
    """
    base, mask, dims = unmasked(site["fn"])
    other = unmasked(counterpart["fn"])
    either = _or(_and(mask, site["mask"], dims), _and(other[1], counterpart["mask"], other[2]), dims, other[2])
    value = base.log_prob(site["value"])
    if isinstance(either, Tensor) or not either:
        # The wider of the two masks may be finer than a datum: it is applied before the sum over the event.
        value = torch.where(torch.as_tensor(either, device=value.device), value, 0.0)
    return sum_rightmost(value, dims) if dims else value


def unmasked(fn: Any) -> tuple[Any, Mask, int]:
    """The distribution within all masks, the masks' conjunction, and how many of its dimensions are then summed."""
    if isinstance(fn, MaskedDistribution):
        base, mask, dims = unmasked(fn.base_dist)
        return base, _and(mask, fn._mask, dims), dims
    if isinstance(fn, Independent):
        base, mask, dims = unmasked(fn.base_dist)
        if mask is not True:
            return base, mask, dims + fn.reinterpreted_batch_ndims
    return fn, True, 0


def _and(one: Mask, other: Mask | None, dims: int) -> Mask:
    """``one``, over ``dims`` dimensions more than ``other``, and ``other``; None hides nothing."""
    if other is None or other is True:
        return one
    return other if one is True and not dims else _raised(other, dims) & torch.as_tensor(one)


def _or(one: Mask, other: Mask, dims: int, other_dims: int) -> Mask:
    if one is True or other is True:
        return True
    if dims < other_dims:  # the model's mask is finer than the guide's draw, whose density is then kept whole
        other = torch.as_tensor(other).flatten(-(other_dims - dims)).any(-1)
        other_dims = dims
    return torch.as_tensor(one) | _raised(other, dims - other_dims)


def _raised(mask: Mask, dims: int) -> Tensor:
    mask = torch.as_tensor(mask)
    return mask.reshape([*mask.shape, *[1] * dims])
