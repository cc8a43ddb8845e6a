"""Operations of networks on fixed-point numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae.compression.fixed_point import LIMIT, Elementwise, Fixed, constant

_WEIGHT_BITS = 20  # fractional bits of a weight, fewer if a sum might exceed the limit
_LOG_BITS = 15  # binary logarithm of the size of the table of logarithms
_LARGEST = 2.0**12  # results of layers are clamped to this absolute value, so that bounds do not grow with the layers


class Run(Protocol):
    """Interface of a run that operations use."""

    bits: int

    def fixed(self, value: Any) -> Fixed:
        """A number, a chain of functions or a constant as a number."""

    def scalar(self, name: str, x: Any, y: Any) -> Elementwise | None:
        """A sum or product of a chain of functions and a number; None of anything else."""

    def weight(self, weight: Tensor, inputs: tuple[int, ...], largest: float) -> Fixed:
        """A weight as :func:`quantised` returns it, computed once."""


def quantised(weight: Tensor, inputs: tuple[int, ...], largest: float) -> Fixed:
    """A weight with as many fractional bits as its products with numbers up to ``largest`` permit.

    Its bound is that of the sum over the dimensions ``inputs``.
    """
    for bits in range(_WEIGHT_BITS, 0, -1):
        integers = constant(weight, bits).integers
        bound = float(integers.abs().sum(inputs).max())
        if bound * largest < LIMIT / 2:
            return Fixed(integers, bits, bound)
    raise refusal("compress", "weights must be small enough to be summed exactly", "larger ones")


def joined(run: Run, target: Any, parts: Any, *args: Any, **kwargs: Any) -> Fixed:
    """``cat`` or ``stack``."""
    fixed = [run.fixed(part).rounded(run.bits) for part in parts]
    return Fixed(target([f.integers for f in fixed], *args, **kwargs), run.bits, max(f.bound for f in fixed))


def _linear(
    run: Run, product: Callable[..., Tensor], x: Any, weight: Tensor, bias: Any, inputs: tuple[int, ...]
) -> Fixed:
    """A product of numbers and weights, plus a bias, rounded; ``inputs`` are the dimensions that are summed."""
    x = run.fixed(x)
    w = run.weight(weight, inputs, x.bound)
    total: Any = Fixed(product(x.integers, w.integers), x.bits + w.bits, x.bound * w.bound)
    total = total if bias is None else _sum(run, total, bias)
    total = total.rounded(run.bits)
    edge = _LARGEST * 2**run.bits
    return Fixed(total.integers.clamp(-edge, edge), run.bits, min(total.bound, edge))


def _sum(run: Run, x: Any, y: Any, alpha: float = 1) -> Fixed | Elementwise:
    """Sum of two numbers, with the larger number of fractional bits."""
    if alpha != 1:
        raise refusal("compress", "networks must have an exact form", f"a sum with alpha={alpha}")
    if (chain := run.scalar("add", x, y)) is not None:
        return chain
    bits = max([v.bits for v in (x, y) if isinstance(v, Fixed)] or [run.bits])
    a, b = (constant(v, bits) if isinstance(v, Tensor | int | float) else run.fixed(v).rounded(bits) for v in (x, y))
    return Fixed(a.integers + b.integers, bits, a.bound + b.bound)


def _difference(run: Run, x: Any, y: Any, alpha: float = 1) -> Any:
    if isinstance(y, int | float):
        return _sum(run, x, -y, alpha)
    return _sum(run, x, run.fixed(y).moved(torch.neg), alpha)


def _product(run: Run, x: Any, y: Any) -> Any:
    if (chain := run.scalar("mul", x, y)) is not None:
        return chain
    a, b = (constant(v, _WEIGHT_BITS) if isinstance(v, Tensor | int | float) else run.fixed(v) for v in (x, y))
    if a.bound * b.bound >= LIMIT:
        raise refusal("compress", "products must be small enough to be exact", "larger ones")
    return Fixed(a.integers * b.integers, a.bits + b.bits, a.bound * b.bound).rounded(run.bits)


def _quotient(run: Run, x: Any, y: Any) -> Any:
    if not isinstance(y, int | float | Tensor):
        raise refusal("compress", "networks must have an exact form", "a quotient of numbers that depend on the data")
    return _product(run, x, 1 / (y.double() if isinstance(y, Tensor) else y))


def _where(run: Run, condition: Tensor, x: Any, y: Any) -> Fixed:
    a, b = (run.fixed(v).rounded(run.bits) for v in (x, y))
    return Fixed(torch.where(condition, a.integers, b.integers), run.bits, max(a.bound, b.bound))


def _log1p(run: Run, x: Any) -> Fixed:
    """log(1 + x) for x >= 0, from the exponent of 1 + x and a table of the logarithm of its mantissa."""
    x = run.fixed(x)
    mantissa, exponent = torch.frexp((x.integers + 2**x.bits).clamp_min(1))  # exact, mantissa in [1/2, 1)
    table = (torch.arange(2**_LOG_BITS, 2 ** (_LOG_BITS + 1) + 1, dtype=torch.float64) / 2 ** (_LOG_BITS + 1)).log()
    index = (mantissa * 2 ** (_LOG_BITS + 1) + 0.5).floor().long() - 2**_LOG_BITS
    integers = (table * 2**run.bits).round()[index] + (exponent - x.bits) * round(math.log(2) * 2**run.bits)
    return Fixed(integers, run.bits, math.ceil(math.log1p(x.bound / 2**x.bits) * 2**run.bits) + 2)


def _addmm(run: Run, bias: Any, x: Any, weight: Any) -> Fixed:
    return _linear(run, torch.mm, x, weight, bias, (0,))


def _convolution(run: Run, x: Any, weight: Tensor, bias: Any, *options: Any) -> Fixed:
    def product(numbers: Tensor, weights: Tensor) -> Tensor:
        return torch.ops.aten.convolution(numbers, weights, None, *options)

    transposed = int(options[3])
    shaped = None if bias is None else bias.reshape(-1, *[1] * (weight.dim() - 2))
    return _linear(run, product, x, weight, shaped, tuple(d for d in range(weight.dim()) if d != transposed))


def _batch_norm(run: Run, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *options: Any) -> Any:
    """With the statistics of the training; the last of the options is eps, and the first may be whether to train."""
    eps = options[-1]
    if mean is None or options[0] is True:
        raise refusal("compress", "batch normalization must have statistics of the training", "those of the batch")
    shape = (-1, *[1] * (run.fixed(x).integers.dim() - 2))
    scale = 1 / (variance.double() + eps).sqrt()  # rounded correctly everywhere, as IEEE 754 demands
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale if bias is None else bias.double() - mean.double() * scale
    return _sum(run, _product(run, x, scale.reshape(shape)), shift.reshape(shape)), None, None


def _glu(run: Run, x: Any, dim: int = -1) -> Any:
    value, gate = run.fixed(x).moved(torch.chunk, 2, dim)
    return _product(run, value, Elementwise(gate, (("sigmoid", ()),)))


def _clamp(run: Run, x: Any, low: Any = None, high: Any = None) -> Fixed:
    x = run.fixed(x)
    limits = [None if v is None else math.floor(v * 2**x.bits + 0.5) for v in (low, high)]
    return Fixed(x.integers.clamp(*limits), x.bits, x.bound)


def _leaky_relu(run: Run, x: Any, slope: float = 0.01) -> Any:
    x = run.fixed(x)
    below = Fixed(x.integers.clamp(max=0), x.bits, x.bound)
    return _sum(run, _clamp(run, x, 0), _product(run, below, slope))


RULES: dict[str, Callable[..., Any]] = {
    "addmm": _addmm,
    "mm": lambda run, x, weight: _addmm(run, None, x, weight),
    "convolution": _convolution,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_batch_norm": _batch_norm,
    "add": _sum,
    "sub": _difference,
    "mul": _product,
    "div": _quotient,
    "glu": _glu,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "relu": lambda run, x: _clamp(run, x, 0),
    "leaky_relu": _leaky_relu,
    "where": _where,
    "log1p": _log1p,
    "neg": lambda run, x: run.fixed(x).moved(torch.neg),
    "constant_pad_nd": lambda run, x, *args: run.fixed(x).moved(torch.ops.aten.constant_pad_nd, *args),
    "_to_copy": lambda run, x, **options: x,
}
MOVES = {
    *("view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "squeeze", "unsqueeze", "slice"),
    *("select", "split", "split_with_sizes", "unbind", "chunk", "clone", "alias", "detach", "pixel_shuffle", "cat"),
    *("contiguous", "flatten", "stack", "lift_fresh_copy", "index", "flip"),
}
CREATIONS = {
    *("zeros", "ones", "full", "eye", "arange", "scalar_tensor"),
    *("zeros_like", "ones_like", "full_like", "new_zeros"),
}
