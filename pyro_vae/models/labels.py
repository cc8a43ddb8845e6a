"""Labels as models take them: a class per datum, of which some are missing."""

from __future__ import annotations

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor


def check_labels(y: Tensor, data: Tensor | None, num_classes: int) -> Tensor:
    """The labels, checked; where Pyro does not validate, their values are not looked at.

    Args:
        y: ``(B,)``, int64, the class of each datum, -1 where it is not known.
        data: what they belong to, of length B.
        num_classes: number of classes C.

    Raises:
        ValueError: another dtype, another length, or a class outside of -1..C-1.
    """
    length = len(y) if data is None else len(data)
    if y.dtype != torch.int64 or tuple(y.shape) != (length,):
        raise ValueError(
            f"labels: y must be int64 of shape ({length},), got {y.dtype} of shape={tuple(y.shape)}. "
            "Pass one class per datum, -1 where it is not known."
        )
    if is_validation_enabled() and len(y):
        low, high = (int(bound) for bound in torch.aminmax(y))
        if low < -1 or high >= num_classes:
            raise ValueError(
                f"labels: y must lie in 0..{num_classes - 1}, or be -1 where it is not known, got {low}..{high}. "
                f"Number the classes from 0, or build the model for {max(high + 1, 1)} of them."
            )
    return y


def known(y: Tensor) -> Tensor:
    """Where the label is known, ``(B,)``."""
    return y != -1


def one_hot(y: Tensor, like: Tensor) -> Tensor:
    """One-hot vectors of classes, ``(B, C)``, for logits ``(..., 1, C)``; zeros for what is no class."""
    return (y.unsqueeze(-1) == torch.arange(like.shape[-1], device=y.device)).to(like)


def pinned(logits: Tensor, y: Tensor) -> Tensor:
    """Logits ``(*batch, 1, C)`` of the label alone where it is known, ``(B, 1, C)``; NaN where it is no class."""
    label = one_hot(y, logits)
    # A finite number whose exponential is 0, so that 0 times it is 0; a quarter of the least leaves room to add.
    point = (1 - label) * (torch.finfo(logits.dtype).min / 4)
    point = torch.where(label.sum(-1, keepdim=True) > 0, point, torch.nan)
    return torch.where(known(y).unsqueeze(-1), point, logits.squeeze(-2)).unsqueeze(-2)
