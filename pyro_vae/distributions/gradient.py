"""The gradient of a density within a forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(function: Callable[[Tensor], Tensor], at: Tensor, *, follow: bool = True) -> Tensor:
    r"""The gradient :math:`\nabla_u \sum f(u)`, also where gradients are switched off.

    Args:
        function: from a tensor with the shape of ``at`` to values that are summed.
        at: where.
        follow: whether it can be differentiated again; where gradients are switched off it never is.

    Returns:
        A tensor with the shape of ``at``.

    Example:
        >>> import torch
        >>> with torch.no_grad():
        ...     gradient(lambda u: u**2, torch.tensor([1.0, 3.0]))
        tensor([2., 6.])
    """
    follow = follow and torch.is_grad_enabled()
    with torch.enable_grad():
        point = at if follow and at.requires_grad else at.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(point).sum(), point, create_graph=follow)
    return slope
