"""A mixture of diagonal normals whose samples are differentiable in all its parameters."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.distributions import constraints
from torch.distributions.utils import lazy_property

from pyro_vae._core.checks import CheckedArguments, check_equal, refusal


class MixtureOfNormals(TorchDistribution, CheckedArguments):
    r"""Mixture of diagonal normals, :math:`p(z) = \sum_c \pi_c \prod_i \mathcal{N}(z_i; \mu_{ci}, \sigma_{ci}^2)`.

    Samples are exact: a component, then its normal. Their gradient is the implicit one of the map defined by the
    conditional distribution functions :math:`F(z_i | z_1, \dots, z_{i-1})`, so the weights get a pathwise gradient too.
    It is unbiased, large only for samples in a gap between components, which are rare, and twice differentiable.

    Args:
        logits: ``(*batch, C)``, unnormalised log weights.
        locs: ``(*batch, C, L)``.
        scales: ``(*batch, C, L)``, positive.

    Shape:
        batch shape ``batch``, event shape ``(L,)``.

    References:
        Implicit reparameterization gradients (Figurnov et al., 2018), eq. 7. https://arxiv.org/abs/1805.08498
        Stochastic backpropagation through mixture density distributions (Graves, 2016).
        https://arxiv.org/abs/1607.05690

    Example:
        >>> import torch
        >>> logits, locs = torch.zeros(5, 3), torch.randn(5, 3, 2)
        >>> MixtureOfNormals(logits, locs, torch.ones(5, 3, 2)).rsample((4,)).shape
        torch.Size([4, 5, 2])
    """

    arg_constraints: dict[str, Any] = {
        "logits": constraints.real_vector,
        "locs": constraints.independent(constraints.real, 2),
        "scales": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, locs: Tensor, scales: Tensor, validate_args: bool | None = None) -> None:
        batch = _batch_shape(logits, locs, scales)  # (*batch, C)
        self.logits = logits.expand(batch)
        self.locs = locs.expand(*batch, locs.shape[-1])
        self.scales = scales.expand(*batch, locs.shape[-1])
        super().__init__(batch[:-1], locs.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: MixtureOfNormals | None = None) -> MixtureOfNormals:
        """The same distribution with batch dimensions added."""
        new = self._get_checked_instance(MixtureOfNormals, _instance)
        c, n = self.locs.shape[-2:]
        new.logits = self.logits.expand(*batch_shape, c)
        new.locs, new.scales = self.locs.expand(*batch_shape, c, n), self.scales.expand(*batch_shape, c, n)
        super(MixtureOfNormals, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @lazy_property
    def weights(self) -> Tensor:
        """Probabilities of the components, ``(*batch, C)``."""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """``(*batch, L)``."""
        return (self.weights.unsqueeze(-1) * self.locs).sum(-2)

    @property
    def variance(self) -> Tensor:
        """``(*batch, L)``."""
        spread = (self.locs - self.mean.unsqueeze(-2)).square() + self.scales.square()
        return (self.weights.unsqueeze(-1) * spread).sum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, ``(*sample, *batch)``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        normals = _log_normal(value.unsqueeze(-2), self.locs, self.scales)  # (*sample, *batch, C, L)
        return (self.logits.log_softmax(-1) + normals.sum(-1)).logsumexp(-1)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Samples without a gradient, ``(*sample, *batch, L)``."""
        with torch.no_grad():
            return self._draw(torch.Size(sample_shape))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Samples with the implicit gradient, ``(*sample, *batch, L)``."""
        return implicit_mixture(self.sample(sample_shape), self.logits, self.locs, self.scales)

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        shape = sample_shape + self.locs.shape
        # Gumbel-max sampling of the component; it reads no tensor value, so it can be traced.
        gumbel = -torch.empty_like(self.logits.expand(shape[:-1])).exponential_().log()
        chosen = (self.logits + gumbel).argmax(-1)[..., None, None].expand(*shape[:-2], 1, shape[-1])
        loc, scale = (t.expand(shape).gather(-2, chosen).squeeze(-2) for t in (self.locs, self.scales))
        return loc + scale * torch.randn_like(loc)


def implicit_mixture(z: Tensor, logits: Tensor, locs: Tensor, scales: Tensor) -> Tensor:
    r"""Return z with the derivative :math:`dz/d\phi = -(\partial F/\partial z)^{-1}\, \partial F/\partial\phi`.

    Args:
        z: ``(*sample, *batch, L)``, samples of the mixture.
        logits: ``(*batch, C)``.
        locs: ``(*batch, C, L)``.
        scales: ``(*batch, C, L)``.

    Returns:
        ``(*sample, *batch, L)``.

    References:
        Implicit reparameterization gradients (Figurnov et al., 2018), eq. 5. https://arxiv.org/abs/1805.08498
    """
    shape = z.shape[:-1] + locs.shape[-2:]  # (*sample, *batch, C, L)
    out: Tensor = _Implicit.apply(z.detach(), logits.expand(shape[:-1]), locs.expand(shape), scales.expand(shape))
    return out


def _batch_shape(logits: Tensor, locs: Tensor, scales: Tensor) -> torch.Size:
    check_equal("MixtureOfNormals", "device", {"logits": logits.device, "locs": locs.device, "scales": scales.device})
    try:
        return torch.broadcast_shapes(logits.shape, locs.shape[:-1], scales.shape[:-1])
    except RuntimeError:
        got = f"logits={tuple(logits.shape)}, locs={tuple(locs.shape)}, scales={tuple(scales.shape)}"
        rule = "logits, locs and scales must broadcast to (*batch, C), (*batch, C, L) and (*batch, C, L)"
        raise refusal("MixtureOfNormals", rule, got) from None


class _Implicit(torch.autograd.Function):
    """Identity in z whose backward pass consists of differentiable operations of z and the parameters."""

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, logits: Tensor, locs: Tensor, scales: Tensor) -> Tensor:
        out = z.clone()
        ctx.save_for_backward(out, logits, locs, scales)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        z, logits, locs, scales = ctx.saved_tensors
        slopes = _slopes(z, logits, locs, scales)
        # (I + M)' y = grad, M the strictly lower triangle of the derivatives of the conditional functions by z.
        slope_z = -(slopes.weight.transpose(-1, -2) @ (slopes.deviation / scales)).tril(-1)
        unit = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device) + slope_z  # (..., L, L)
        y = torch.linalg.solve_triangular(unit.mT, grad.unsqueeze(-1), upper=True, unitriangular=True).mT  # (..., 1, L)
        by_weight = y * slopes.weight  # (..., C, L)
        later = by_weight.sum(-1, keepdim=True) - by_weight.cumsum(-1)  # sum over the later dimensions
        direct, t = y * slopes.responsibility, slopes.deviation
        grad_locs = direct - later * t / scales
        grad_scales = direct * t - later * (t.square() - 1) / scales
        return None, -by_weight.sum(-1), grad_locs, grad_scales


class _Slopes(NamedTuple):
    """Derivatives of the conditional distribution functions, divided by the conditional densities; ``(..., C, L)``."""

    weight: Tensor
    """by the component's log weight before this dimension."""
    responsibility: Tensor
    """the component's probability after this dimension: minus the derivative by the location."""
    deviation: Tensor
    """(z - loc) / scale."""


def _slopes(z: Tensor, logits: Tensor, locs: Tensor, scales: Tensor) -> _Slopes:
    t = (z.unsqueeze(-2) - locs) / scales
    log_normals = _log_normal(z.unsqueeze(-2), locs, scales)
    total = logits.unsqueeze(-1) + log_normals.cumsum(-1)  # log p(c, z_1, ..., z_i)
    before = (total - log_normals).log_softmax(-2)  # log p(c | z_1, ..., z_{i-1})
    log_density = (before + log_normals).logsumexp(-2, keepdim=True)  # log p(z_i | z_1, ..., z_{i-1})
    # Phi or Phi - 1, whichever is small at z: their weighted sums have the same derivative, as the weights add to 1.
    lower = (before + torch.special.log_ndtr(t)).logsumexp(-2, keepdim=True)
    side = torch.where(lower < -math.log(2), 1.0, -1.0).to(z)
    tail = side * (before + torch.special.log_ndtr(side * t) - log_density).exp()
    weight = tail - before.exp() * tail.sum(-2, keepdim=True)
    return _Slopes(weight, total.softmax(-2), t)


def _log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((z - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
