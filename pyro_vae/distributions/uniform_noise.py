"""A point, or a continuous variable, with uniform noise of width 1 added: the relaxations of rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_vae._core.checks import CheckedArguments

_NO_SHAPE = torch.Size()
_EDGE, _HALVINGS = 2.0**16, 56  # of the bisection: samples within +-65536, to 1e-12 or to the last bit of the dtype


class UnitBox(TorchDistribution, CheckedArguments):
    r"""Uniform distribution on :math:`[\mu - 1/2, \mu + 1/2]`, whose density is exactly 1.

    ``Uniform(loc - 0.5, loc + 0.5)`` has a width of 1 up to rounding only, and some of its own samples are rounded to
    its open end, where its density is 0. Here the box includes its ends, and the last bits beyond, by which ``loc``
    from a network differs between batch sizes.

    Args:
        loc: centre, ``batch``.

    Example:
        >>> q = UnitBox(torch.full((1000,), 7.3))
        >>> bool((q.log_prob(q.sample()) == 0).all()), q.log_prob(torch.full((1000,), 7.9)).unique()
        (True, tensor([-inf]))
    """

    arg_constraints: dict[str, Any] = {"loc": constraints.real}
    has_rsample = True

    def __init__(self, loc: Tensor, validate_args: bool | None = None) -> None:
        self.loc = loc
        super().__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> UnitBox:
        return UnitBox(self.loc.expand(batch_shape), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        return constraints.interval(self.loc - 0.5, self.loc + 0.5)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.loc, 1 / 12)

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        loc = self.loc.expand(*sample_shape, *self.batch_shape)
        return loc + torch.rand_like(loc) - 0.5

    def log_prob(self, value: Tensor) -> Tensor:
        """0 inside and -inf outside, ``(*sample, *batch)``."""
        last_bits = 4 * torch.finfo(value.dtype).eps * (1 + self.loc.abs())
        inside = (value - self.loc).abs() <= 0.5 + last_bits
        return torch.where(inside, 0.0, -torch.inf).to(value.dtype)


class WithUniformNoise(TorchDistribution, CheckedArguments):
    r"""Distribution of :math:`y + u`, y with distribution function c and :math:`u \sim U(-1/2, 1/2)`.

    Its density :math:`\tilde p(z) = c(z + 1/2) - c(z - 1/2)` is, at an integer, the probability that y is rounded to
    it. With :math:`c = \sigma \circ f`, :math:`\log \tilde p = \log \sigma(f_+) + \log \sigma(-f_-) +
    \log(1 - e^{f_- - f_+})` loses no digits in the tails.

    Args:
        logits: f, increasing, from values ``(*sample, *batch)`` to as many.
        like: a tensor ``batch`` with the dtype and device of the values.

    References:
        Variational image compression with a scale hyperprior (Balle et al., 2018), appendix 6.1 and 6.2.
        https://arxiv.org/abs/1802.01436

    Example:
        >>> p = WithUniformNoise(lambda z: 2 * z, torch.zeros(3))
        >>> float(p.log_prob(torch.arange(-30.0, 31.0).expand(3, -1).T).exp().sum(0)[0].round(decimals=5))
        1.0
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real

    def __init__(self, logits: Callable[[Tensor], Tensor], like: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.like = logits, like
        super().__init__(like.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WithUniformNoise:
        return WithUniformNoise(self.logits, self.like.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, ``(*sample, *batch)``, in nats."""
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        high, low = self.logits(value + 0.5), self.logits(value - 0.5)
        return logsigmoid(high) + logsigmoid(-low) + (-torch.expm1(low - high)).log()

    @torch.no_grad()
    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        """Samples of y by bisection of c, plus noise, ``(*sample, *batch)``."""
        like = self.like.expand(*sample_shape, *self.batch_shape)
        low, high = torch.full_like(like, -_EDGE), torch.full_like(like, _EDGE)
        target = torch.rand_like(like).logit(torch.finfo(like.dtype).eps)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.logits(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2 + torch.rand_like(like) - 0.5
