"""Operations that are recorded as others, for which the compiler generates faster code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.convolutions import convolution, convolution_backward


def _norms(tensors: Sequence[Tensor], order: Any = 2, dtype: Any = None) -> list[Tensor]:
    """2-norms as sums, which the compiler fuses; torch's norms are one kernel each."""
    if order != 2 or dtype is not None:
        return list(torch._foreach_norm(list(tensors), order, dtype=dtype))
    return [(t * t).sum().sqrt() for t in tensors]


def _bernoulli(probs: Tensor, generator: Any = None) -> Tensor:
    """In place, as torch draws it; the compiler would replace ``bernoulli`` by comparisons with uniform numbers."""
    return torch.empty_like(probs).bernoulli_(probs, generator=generator)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Product and sum apart on a CPU, where the sum is fused with the nonlinearity."""
    if a.device.type != "cpu" or beta != 1 or alpha != 1:
        return NotImplemented
    return torch.mm(a, b) + bias


def _cross_entropy(logits: Tensor, x: Tensor, weight: Any = None, pos_weight: Any = None, reduction: int = 1) -> Any:
    r"""log(1 + exp l) - x l on a CPU in float32, as exact as torch in half the time, with the logarithm as a series.

    With e = exp(-abs l) and s = e / (2 + e), at most 1/3, log(1 + e) = 2 artanh s = 2 (s + s^3 / 3 + s^5 / 5 + ...).
    """
    single = logits.device.type == "cpu" and logits.dtype == x.dtype == torch.float32
    if not single or weight is not None or pos_weight is not None or reduction:
        return NotImplemented
    small = torch.exp2(-math.log2(math.e) * logits.abs())  # the compiler would store ``exp`` for its two uses
    s = small / (2 + small)
    series = _polynomial([1 / k for k in (13, 11, 9, 7, 5, 3, 1)], s * s)
    return logits.relu() + 2 * s * series - x * logits


# Of Eigen's tanh in float32 (MathFunctionsImpl.h), which XLA also uses: x P(x^2) / Q(x^2), highest power first.
_TANH_P = [-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08]
_TANH_P += [1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03]
_TANH_Q = [1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03]
_TANH_END = 7.90531110763549805  # from here on tanh rounds to 1


def _tanh(x: Tensor) -> Any:
    """A rational function on a CPU in float32, to 4e-7 of the value; the compiler's tanh takes five times as long."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return NotImplemented
    x = x.clamp(-_TANH_END, _TANH_END)
    square = x * x
    return x * _polynomial(_TANH_P, square) / _polynomial(_TANH_Q, square)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """By Horner's rule, the coefficient of the highest power first."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._foreach_norm.Scalar: _norms,
    torch.ops.aten.bernoulli.default: _bernoulli,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.binary_cross_entropy_with_logits.default: _cross_entropy,
    torch.ops.aten.tanh.default: _tanh,
    torch.ops.aten.convolution.default: convolution,
    torch.ops.aten.convolution_backward.default: convolution_backward,
}
