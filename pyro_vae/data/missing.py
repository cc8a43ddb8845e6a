"""Checks and statistics of data whose missing entries are NaN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import require


def has_missing(x: Any) -> bool:
    """Whether any entry of a tensor is missing; False for other data."""
    return isinstance(x, Tensor) and x.is_floating_point() and bool(x.isnan().any())


def check_observed(x: Any, *, owner: str) -> None:
    """Require every entry of a datum to be observed in some datum; of one that never is nothing can be learned.

    Args:
        x: ``(N, *data_shape)``; other data than a tensor are not checked.
        owner: name that the message begins with.

    Raises:
        ValueError: naming the first such entry.
    """
    if not has_missing(x):
        return
    absent = x.isnan().all(0)
    number = int(absent.flatten().int().argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(number), absent.shape))
    rule, advice = "every column must have an observed value", "Remove this column"
    got = f"column {place[0] if len(place) == 1 else place}, which is missing in all {len(x)} data"
    require(not bool(absent.any()), owner, rule, got, advice)


def aminmax(x: Tensor) -> tuple[float, float]:
    """Smallest and largest observed entry; nan if there is none."""
    observed = x[~x.isnan()] if has_missing(x) else x
    low, high = torch.aminmax(observed) if observed.numel() else (torch.tensor(torch.nan),) * 2
    return low.item(), high.item()
