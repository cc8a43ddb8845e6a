"""The distribution of a base variable transformed by flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._core.checks import CheckedArguments
from pyro_vae.flows.base import Flow


class _LastSample:
    """The last sample with its log-density, shared by a distribution and its expanded copies."""

    value: Tensor | None = None
    log_prob: Tensor | None = None
    differentiable = False

    def store(self, value: Tensor, log_prob: Tensor) -> None:
        self.value, self.log_prob, self.differentiable = value, log_prob, torch.is_grad_enabled()

    def log_prob_of(self, value: Tensor) -> Tensor | None:
        # The density of a sample() has no graph, so it serves only if gradients are switched off.
        usable = self.differentiable or not torch.is_grad_enabled()
        return self.log_prob if value is self.value and usable else None


class FlowDistribution(TorchDistribution, CheckedArguments):
    r"""The law of :math:`f_T \circ \dots \circ f_1(z_0)`, :math:`z_0` from a base distribution.

    .. math:: \log q(z_T) = \log q_0(z_0) - \sum_t \log \left| \det \frac{\partial f_t}{\partial z_{t - 1}} \right|

    Sampling stores the density of the sample, so that ``log_prob`` of the last sampled tensor itself needs no inverse;
    for other values the flows are inverted. Both are differentiable in the value and in all parameters.

    Args:
        base: q_0, with event shape ``(L,)``.
        transforms: f_1, ..., f_T, in the order of application to a sample.

    Shape:
        batch and event shape those of ``base``.

    References:
        Variational inference with normalizing flows (Rezende and Mohamed, 2015), eq. 7.
        https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch
        >>> from pyro.distributions import Normal
        >>> from pyro_vae.flows import FlowDistribution, PlanarFlow
        >>> flow = PlanarFlow(torch.ones(2), torch.ones(2), torch.zeros(1))
        >>> q = FlowDistribution(Normal(torch.zeros(5, 2), 1.0).to_event(1), [flow])
        >>> z = q.rsample()
        >>> torch.allclose(q.log_prob(z), q.log_prob(z.clone()), atol=1e-5)
        True
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: TorchDistribution, transforms: Sequence[Flow]) -> None:
        self.base, self.transforms = base, tuple(transforms)
        self._last = _LastSample()
        super().__init__(base.batch_shape, base.event_shape)

    def expand(self, batch_shape: torch.Size, _instance: FlowDistribution | None = None) -> FlowDistribution:
        new = self._get_checked_instance(FlowDistribution, _instance)
        new.base, new.transforms, new._last = self.base.expand(batch_shape), self.transforms, self._last
        super(FlowDistribution, new).__init__(new.base.batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        z = self.base.rsample(sample_shape)
        log_prob = self.base.log_prob(z)
        for flow in self.transforms:
            z, log_det = flow.forward(z)
            log_prob = log_prob - log_det
        self._last.store(z, log_prob)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        stored = self._last.log_prob_of(value)
        log_prob = self._log_prob_by_inversion(value) if stored is None else stored
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def _log_prob_by_inversion(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z, log_det = value, value.new_zeros(value.shape[:-1])
        for flow in reversed(self.transforms):
            z, term = flow.inverse(z)
            log_det = log_det + term
        return self.base.log_prob(z) + log_det
