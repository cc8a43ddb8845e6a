"""Distribution of the observed entries of incomplete data."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, constraints
from torch.distributions.constraints import Constraint

from pyro_vae._core.checks import require, with_article

_NO_SHAPE = torch.Size()
_FILL = 1.0  # lies in the support of every likelihood: real, positive, counts, codes, grey levels, binary


class _OrMissing(Constraint):
    """A support of independent entries, each of which may be NaN."""

    is_discrete = False  # bits per dimension would divide by entries that are missing

    def __init__(self, base: Constraint) -> None:
        self.base, self.event_dim = base, base.event_dim
        super().__init__()

    def __repr__(self) -> str:
        return f"{self.base}, or NaN for a missing entry"

    def check(self, value: Tensor) -> Tensor:
        return self.base.check(value.masked_fill(value.isnan(), _FILL))


class ObservedEntries(TorchDistribution):
    r"""Marginal distribution of the entries that are not NaN, :math:`p(x_{obs}) = \prod_{d: x_d \ne NaN} p(x_d)`.

    A sample is complete. The density of a datum without an observed entry is 1.

    Args:
        base: distribution of complete data with independent entries: an ``Independent`` univariate distribution, or one
            with ``has_independent_entries`` True and a method ``entry_log_prob(value)``.

    Shape:
        batch shape and event shape are those of ``base``.

    Raises:
        ValueError: the entries of ``base`` are not independent.

    References:
        MIWAE: deep generative modelling and imputation of incomplete data sets (Mattei and Frellsen, 2019).
        https://arxiv.org/abs/1812.02633

    Example:
        >>> from pyro.distributions import Normal
        >>> p = ObservedEntries(Normal(torch.zeros(3), 1.0).to_event(1))
        >>> p.log_prob(torch.tensor([0.0, torch.nan, torch.nan]))
        tensor(-0.9189)
    """

    arg_constraints: dict[str, Constraint] = {}

    def __init__(self, base: TorchDistribution, *, validate_args: bool | None = None) -> None:
        rule, advice = "of incomplete data the entries must be independent given z", "Use for example NormalLikelihood"
        require(has_independent_entries(base), "ObservedEntries", rule, with_article(type(base)), advice)
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return _OrMissing(self.base.support)

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    def expand(self, batch_shape: Any, _instance: Any = None) -> ObservedEntries:
        new = self._get_checked_instance(ObservedEntries, _instance)
        new.base = self.base.expand(batch_shape)
        super(ObservedEntries, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        return self.base.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        missing = value.isnan()
        entries = entry_log_prob(self.base, value.masked_fill(missing, _FILL))
        return entries.masked_fill(missing, 0.0).flatten(entries.dim() - len(self.event_shape)).sum(-1)


def entry_log_prob(p: Any, value: Tensor) -> Tensor:
    """Log-probability of every entry, ``(*batch, *event)``, of a distribution of independent entries."""
    return p.entry_log_prob(value) if hasattr(p, "entry_log_prob") else p.base_dist.log_prob(value)


def has_independent_entries(p: Any) -> bool:
    """Whether :func:`entry_log_prob` is available."""
    univariate = isinstance(p, Independent) and not p.base_dist.event_shape
    return bool(getattr(p, "has_independent_entries", univariate))
