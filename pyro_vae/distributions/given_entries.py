"""Distribution of data of which some entries are given."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae._core.checks import CheckedArguments, check_shape, require, with_article
from pyro_vae.distributions.observed_entries import entry_log_prob, has_independent_entries

_NO_SHAPE = torch.Size()


class GivenEntries(TorchDistribution, CheckedArguments):
    r"""Distribution of x given some of its entries, :math:`p(x_u | x_s) = \prod_{d \in u} p(x_d)`.

    A sample has the given entries s; the density is that of the others, u.

    Args:
        base: distribution of x with independent entries, see :class:`ObservedEntries`; or with independent pixels, by
            a method ``pixel_log_prob``, if whole pixels are given.
        seen: ``event_shape``, bool, the entries s.
        value: ``(*batch', *event_shape)``, whose entries s are given; ``batch'`` broadcasts to that of ``base``.

    Shape:
        batch shape and event shape are those of ``base``.

    Raises:
        ValueError: the entries of ``base`` are not independent, pixels are given in part, or shapes differ.

    Example:
        >>> from pyro.distributions import Normal
        >>> base, x = Normal(torch.zeros(2), 1.0).to_event(1), torch.tensor([5.0, 0.0])
        >>> p = GivenEntries(base, torch.tensor([True, False]), x)
        >>> p.sample()[0], p.log_prob(x)
        (tensor(5.), tensor(-0.9189))
    """

    arg_constraints: dict[str, Constraint] = {}

    def __init__(
        self, base: TorchDistribution, seen: Tensor, value: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.by_pixel = not has_independent_entries(base)
        rule = "with entries of x as the context, the entries must be independent given z"
        advice = "Use another likelihood, such as BernoulliLikelihood, or score_seen=True"
        valid = not self.by_pixel or hasattr(base, "pixel_log_prob")
        require(valid, "GivenEntries", rule, with_article(type(base)), advice)
        check_shape("GivenEntries", "seen", seen.shape, base.event_shape)
        check_shape("GivenEntries", "value", value.shape[value.dim() - seen.dim() :], base.event_shape)
        require(seen.dtype == torch.bool, "GivenEntries", "seen must be bool", f"seen of {seen.dtype}")
        devices = f"seen on {seen.device}, value on {value.device}"
        require(seen.device == value.device, "GivenEntries", "seen and value must be on one device", devices)
        if self.by_pixel and is_validation_enabled():
            whole = torch.equal(seen, seen[:1].expand_as(seen))
            rule = "of dependent channels whole pixels must be given"
            require(whole, "GivenEntries", rule, "single channels", "Use DiscretizedLogisticLikelihood")
        self.base, self.seen, self.value = base, seen, value
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return self.base.support

    @property
    def num_entries(self) -> Tensor:
        """Number of entries of a datum that are not given."""
        return (~self.seen).sum()

    @property
    def mean(self) -> Tensor:
        return torch.where(self.seen, self.value, self.base.mean)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GivenEntries:
        new = self._get_checked_instance(GivenEntries, _instance)
        new.base, new.seen, new.value = self.base.expand(batch_shape), self.seen, self.value
        new.by_pixel = self.by_pixel
        super(GivenEntries, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        return torch.where(self.seen, self.value, self.base.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self.by_pixel:  # (*batch, 1, H, W)
            entries = self.base.pixel_log_prob(value).masked_fill(self.seen[:1], 0.0)
        else:
            entries = entry_log_prob(self.base, value).masked_fill(self.seen, 0.0)
        return entries.flatten(entries.dim() - len(self.event_shape)).sum(-1)
