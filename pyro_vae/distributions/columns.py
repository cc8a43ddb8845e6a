"""Independent distributions of groups of entries of a datum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae.distributions.observed_entries import entry_log_prob, has_independent_entries

_NO_SHAPE = torch.Size()


class _EachGroup(Constraint):
    """The product of the supports of the groups."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.is_discrete = all(part.support.is_discrete for part in columns.parts)
        self.event_dim = len(columns.event_shape)
        super().__init__()

    def __repr__(self) -> str:
        groups = self.columns.order.split(self.columns.sizes)
        named = zip(groups, self.columns.parts, strict=True)
        return "; ".join(f"columns {group.tolist()}: {_base(part.support)}" for group, part in named)

    def check(self, value: Tensor) -> Tensor:
        groups = zip(self.columns.split(value), self.columns.parts, strict=True)
        return torch.stack([part.support.check(group) for group, part in groups]).all(0)


def _base(support: Constraint) -> Constraint:
    return support.base_constraint if isinstance(support, constraints.independent) else support


class Columns(TorchDistribution):
    r"""Independent groups of entries, :math:`p(x) = \prod_g p_g(x_g)`, as the columns of a table.

    Args:
        parts: distributions of the groups, each with event shape ``(n_g,)``, and one batch shape.
        order: ``(D,)``, int64, positions of the entries in the flattened datum, group by group.
        event_shape: shape of one datum of D entries.

    Shape:
        batch shape ``batch``, event shape ``event_shape``.

    Example:
        >>> from pyro.distributions import Bernoulli, Normal
        >>> parts = [Normal(torch.zeros(2), 1.0).to_event(1), Bernoulli(torch.full((1,), 0.5)).to_event(1)]
        >>> Columns(parts, torch.tensor([0, 2, 1]), (3,)).log_prob(torch.tensor([0.0, 1.0, 0.0]))
        tensor(-2.5310)
    """

    arg_constraints: dict[str, Constraint] = {}

    def __init__(
        self,
        parts: Sequence[TorchDistribution],
        order: Tensor,
        event_shape: Sequence[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.parts, self.order = list(parts), order
        self.sizes = [part.event_shape[0] for part in self.parts]
        batch = torch.broadcast_shapes(*(part.batch_shape for part in self.parts))
        super().__init__(batch, torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return _EachGroup(self)

    def split(self, value: Tensor) -> tuple[Tensor, ...]:
        """The groups of ``(*batch, *event_shape)``, ``(*batch, n_g)`` each."""
        return value.flatten(-len(self.event_shape)).index_select(-1, self.order).split(self.sizes, -1)

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""
        flat = torch.cat(list(groups), -1).index_select(-1, self.order.argsort())
        return flat.unflatten(-1, tuple(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.join([part.mean for part in self.parts])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        new = self._get_checked_instance(Columns, _instance)
        new.parts = [part.expand(batch_shape) for part in self.parts]
        new.order, new.sizes = self.order, self.sizes
        super(Columns, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        with torch.no_grad():
            return self.join([part.sample(sample_shape) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        groups = zip(self.parts, self.split(value), strict=True)
        return torch.stack([part.log_prob(group) for part, group in groups]).sum(0)

    @property
    def has_independent_entries(self) -> bool:
        """Whether those of every group are independent."""
        return all(map(has_independent_entries, self.parts))

    def entry_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of every entry, ``(*batch, *event_shape)``."""
        groups = zip(self.parts, self.split(value), strict=True)
        return self.join([entry_log_prob(part, group) for part, group in groups])
