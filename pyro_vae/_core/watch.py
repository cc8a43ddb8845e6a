"""Looking at what programs do at every call, at a cost that a step does not feel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor


class Watch(Messenger):
    """Keeps the structure of what runs within: names, roles, masks, dimensions and plates of sites; a plate's size.

    Args:
        plate: name of the plate of the data; None if it is not known.

    Attributes:
        sizes: the sizes of that plate, and of the whole that it is a sample of.

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
        """What to compare with other calls."""
        return tuple(self._sites)


def leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors that a loss is a function of and that require a gradient."""
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
