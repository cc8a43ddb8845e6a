"""Labels of models: one class per datum, of which some are missing."""

from __future__ import annotations

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_vae._core.checks import refusal


def check_labels(y: Tensor, data: Tensor | None, num_classes: int) -> Tensor:
    """Return the labels; their values are checked only if Pyro validates.

    Args:
        y: ``(B,)``, int64, the class of each datum, -1 if unknown.
        data: the data, of length B.
        num_classes: number of classes C.

    Raises:
        ValueError: the dtype or the length is wrong, or a class is outside of -1..C-1.
    """
    length = len(y) if data is None else len(data)
    if y.dtype != torch.int64 or tuple(y.shape) != (length,):
        rule, what = f"y must be int64 of shape ({length},)", f"{y.dtype} of shape={tuple(y.shape)}"
        raise refusal("labels", rule, what, "Pass one class per datum, -1 if unknown")
    if is_validation_enabled() and len(y):
        low, high = (int(bound) for bound in torch.aminmax(y))
        if low < -1 or high >= num_classes:
            rule = f"y must be in 0..{num_classes - 1}, or -1 if unknown"
            advice = f"Number the classes from 0, or build the model for {max(high + 1, 1)} classes"
            raise refusal("labels", rule, f"{low}..{high}", advice)
    return y


def known(y: Tensor) -> Tensor:
    """Mask of known labels, ``(B,)``."""
    return y != -1


def one_hot(y: Tensor, like: Tensor) -> Tensor:
    """One-hot vectors ``(B, C)`` of labels, for logits ``(..., 1, C)``; zeros for invalid labels."""
    return (y.unsqueeze(-1) == torch.arange(like.shape[-1], device=y.device)).to(like)


def pinned(logits: Tensor, y: Tensor) -> Tensor:
    """Logits ``(*batch, 1, C)``, replaced by those of certainty for known labels and by NaN for invalid ones."""
    label = one_hot(y, logits)
    # A finite number with exponential 0, so that 0 times it is 0; a quarter of the minimum leaves room to add.
    point = (1 - label) * (torch.finfo(logits.dtype).min / 4)
    point = torch.where(label.sum(-1, keepdim=True) > 0, point, torch.nan)
    return torch.where(known(y).unsqueeze(-1), point, logits.squeeze(-2)).unsqueeze(-2)
