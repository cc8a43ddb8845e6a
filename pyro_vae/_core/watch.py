"""Observation of the sites of a program at every call, at negligible cost, and of the leaves of a loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor


class Watch(Messenger):
    """Records the structure of the enclosed run: names, roles, masks, dimensions and plates of sites.

    Args:
        plate: name of the plate of the data; None if unknown.

    Attributes:
        sizes: sizes of that plate, and its full sizes.

    Example:
        >>> import pyro, torch
        >>> from pyro.distributions import Normal
        >>> with Watch("data") as watch, pyro.plate("data", 3):
        ...     _ = pyro.sample("z", Normal(torch.zeros(3), 1.0))
        >>> watch.structure(), watch.sizes
        ((('z', False, True, 1, 'data'),), {3})
    """

    def __init__(self, plate: str | None = None) -> None:
        super().__init__()
        self.plate = plate
        self.sizes: set[int] = set()
        self._sites: list[tuple[Any, ...]] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        stack = msg["cond_indep_stack"]
        if not stack and type(msg["fn"]).__name__ == "_Subsample":
            return
        dims = msg["value"].dim() if isinstance(msg["value"], Tensor) else None
        self._sites.append(
            (
                msg["name"],
                msg["is_observed"],
                msg["mask"] is None or msg["mask"] is True,
                dims,
                *(f.name for f in stack),
            )
        )
        for frame in stack:
            if frame.name == self.plate and frame.size >= 0:
                self.sizes |= {frame.size, frame.full_size} - {None}

    def structure(self) -> tuple[tuple[Any, ...], ...]:
        """The structure, to be compared with that of other calls."""
        return tuple(self._sites)


def leaves(loss: Tensor) -> Iterator[Tensor]:
    """The leaves of the graph of a loss: tensors that it depends on and that require a gradient."""
    queue, seen = [loss.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, torch.Tensor):
            yield variable
        queue.extend(following for following, _ in node.next_functions)
