"""Networks in fixed-point arithmetic, whose results do not depend on machine, threads or batch size."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import validating

_LIMIT = 2.0**52  # all sums stay below, so that float64 holds them exactly
_WEIGHT_BITS = 20  # fractional bits of a weight, fewer if a sum might exceed the limit
_LARGEST = 2.0**12  # results of layers are clamped to this absolute value, so that bounds do not grow with the layers


@dataclass(frozen=True)
class Fixed:
    """Integers in float64 that stand for ``integers * 2 ** -bits``.

    Attributes:
        integers: of any shape.
        bits: number of fractional bits.
        bound: none of the integers that occur is larger.
    """

    integers: Tensor
    bits: int
    bound: float

    def with_integers(self, integers: Tensor) -> Fixed:
        """The same scale and bound for other integers."""
        return Fixed(integers, self.bits, self.bound)

    def rounded(self, bits: int) -> Fixed:
        """The nearest number with fewer fractional bits, or the same number with more."""
        factor = 2.0 ** (bits - self.bits)
        scaled = self.integers * factor
        return Fixed((scaled + 0.5).floor() if factor < 1 else scaled, bits, math.ceil(self.bound * factor) + 1)


class ExactFunction:
    r"""A function of one tensor in fixed-point arithmetic: the same integers on every machine.

    The function's operations are recorded and carried out on integers held in float64, with all sums below
    :math:`2^{52}`: they are exact in any order. Nonlinearities are tables over [-16, 16], and linear or constant
    outside; results of layers are clamped to [-4096, 4096]. Supported are linear and convolutional layers, pixel shuffle, gates, batch normalization in eval mode,
    sums, products, and the activations of :mod:`pyro_vae.networks`.

    Args:
        function: from a tensor ``(batch, *shape)`` to a tensor, or to tensors by name; without random numbers.
        shape: shape of one input.
        bits: fractional bits of inputs and results.
        limit: largest absolute input.

    Raises:
        ValueError: at a call: the function has an operation that is not supported.

    Example:
        >>> import torch
        >>> double = ExactFunction(lambda x: 2 * x, (3,), bits=4, limit=8.0)
        >>> double(torch.tensor([[16.0, 0.0, -8.0]], dtype=torch.float64))
        tensor([[ 32.,   0., -16.]], dtype=torch.float64)
    """

    def __init__(self, function: Callable[[Tensor], Any], shape: tuple[int, ...], *, bits: int, limit: float) -> None:
        self.function, self.shape, self.bits, self.limit = function, shape, bits, limit
        self._runs: dict[int, _Run] = {}

    def __call__(self, integers: Tensor) -> Any:
        """Results as integers in float64 with :attr:`bits` fractional bits, for inputs with as many."""
        batch = len(integers)
        if batch not in self._runs:
            self._runs[batch] = _Run(self._recorded(batch), self.bits)
        value = Fixed(integers.double().reshape(batch, *self.shape), self.bits, self.limit * 2**self.bits)
        with torch.no_grad():
            result = self._runs[batch](value)
        if isinstance(result, Mapping):
            return {name: _integers(v, self.bits) for name, v in result.items()}
        return _integers(result, self.bits)

    def _recorded(self, batch: int) -> GraphModule:
        dtype = next((t.dtype for t in _tensors(self.function)), torch.get_default_dtype())
        with torch.no_grad(), validating(False):  # validation reads values
            return make_fx(self.function)(torch.zeros(batch, *self.shape, dtype=dtype))


def _tensors(function: Any) -> Any:
    parameters = getattr(function, "parameters", None)
    return parameters() if parameters else ()


def _integers(value: Any, bits: int) -> Tensor:
    fixed = value if isinstance(value, Fixed) else _constant(value, bits)
    return fixed.rounded(bits).integers


def _constant(value: Any, bits: int) -> Fixed:
    """A constant with ``bits`` fractional bits."""
    integers = (torch.as_tensor(value).detach().double() * 2.0**bits).round()
    return Fixed(integers, bits, float(integers.abs().max()) if integers.numel() else 0.0)


class _Run:
    """Carries out a recorded graph on fixed-point numbers."""

    def __init__(self, graph: GraphModule, bits: int) -> None:
        self.graph, self.bits = graph, bits
        self.constants: dict[Node, Any] = {}  # such as a transposed weight
        self._weights: dict[int, Fixed] = {}

    def __call__(self, value: Fixed) -> Any:
        values = dict(self.constants)

        def known(x: Any) -> Any:
            return torch.fx.node.map_arg(x, values.__getitem__)

        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = value
            elif node.op == "get_attr":
                values[node] = self.constants[node] = getattr(self.graph, node.target)
            elif node.op == "call_function" and node not in values:
                values[node] = self._apply(node, known(node.args), known(node.kwargs))
        return known(self.graph.graph.output_node().args[0])

    def _apply(self, node: Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if not any(isinstance(a, Fixed | Exponential) for a in _flat(args)):
            self.constants[node] = target(*args, **kwargs)
            return self.constants[node]
        name = str(target).removeprefix("aten.").split(".")[0] if target is not operator.getitem else "getitem"
        rule = _RULES.get(name)
        if rule is None:
            what, advice = f"the operation {name}", "Use layers and activations of pyro_vae.networks"
            raise refusal("compress", "networks must have an exact form", what, advice)
        return rule(self, *args, **kwargs)

    def weight(self, weight: Tensor, inputs: tuple[int, ...], largest: float) -> Fixed:
        """A weight with as many fractional bits as its products with numbers up to ``largest`` permit.

        Its bound is that of the sum over the dimensions ``inputs``.
        """
        if id(weight) not in self._weights:  # the graph and the constants keep it alive
            self._weights[id(weight)] = _quantised(weight, inputs, largest)
        return self._weights[id(weight)]


def _quantised(weight: Tensor, inputs: tuple[int, ...], largest: float) -> Fixed:
    for bits in range(_WEIGHT_BITS, 0, -1):
        integers = _constant(weight, bits).integers
        bound = float(integers.abs().sum(inputs).max())
        if bound * largest < _LIMIT / 2:
            return Fixed(integers, bits, bound)
    raise refusal("compress", "weights must be small enough to be summed exactly", "larger ones")


def _flat(args: Any) -> Any:
    for a in args:
        if isinstance(a, tuple | list):
            yield from _flat(a)
        else:
            yield a


def _moved(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """An operation that moves numbers without changing them."""

    def rule(run: _Run, x: Fixed, *args: Any, **kwargs: Any) -> Any:
        result = function(x.integers, *args, **kwargs)
        return tuple(map(x.with_integers, result)) if isinstance(result, tuple | list) else x.with_integers(result)

    return rule


def _linear(
    run: _Run, product: Callable[..., Tensor], x: Fixed, weight: Tensor, bias: Any, inputs: tuple[int, ...]
) -> Fixed:
    """A product of numbers and weights, plus a bias, rounded; ``inputs`` are the weights' dimensions summed."""
    bits, w = run.bits, run.weight(weight, inputs, x.bound)
    total = Fixed(product(x.integers, w.integers), x.bits + w.bits, x.bound * w.bound)
    total = (total if bias is None else _sum(total, bias)).rounded(bits)
    edge = _LARGEST * 2**bits
    return Fixed(total.integers.clamp(-edge, edge), bits, min(total.bound, edge))


def _sum(x: Any, y: Any, alpha: float = 1) -> Fixed:
    """Sum of two numbers, at least one of them fixed-point, with the larger number of fractional bits."""
    if alpha != 1:
        raise refusal("compress", "networks must have an exact form", f"a sum with alpha={alpha}")
    most = max(v.bits for v in (x, y) if isinstance(v, Fixed))
    a, b = (v.rounded(most) if isinstance(v, Fixed) else _constant(v, most) for v in (x, y))
    return Fixed(a.integers + b.integers, most, a.bound + b.bound)


def _product(run: _Run, x: Any, y: Any) -> Fixed:
    a, b = (v if isinstance(v, Fixed) else _constant(v, _WEIGHT_BITS) for v in (x, y))
    if a.bound * b.bound >= _LIMIT:
        raise refusal("compress", "products must be small enough to be exact", "larger ones")
    return Fixed(a.integers * b.integers, a.bits + b.bits, a.bound * b.bound).rounded(run.bits)


def _addmm(run: _Run, bias: Any, x: Any, weight: Any, **scales: Any) -> Fixed:
    return _linear(run, torch.mm, x, weight, bias, (0,))


def _convolution(
    run: _Run,
    x: Fixed,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Fixed:
    def product(numbers: Tensor, weights: Tensor) -> Tensor:
        options = (stride, padding, dilation, transposed, output_padding, groups)
        return torch.ops.aten.convolution(numbers, weights, None, *options)

    shaped = None if bias is None else bias.reshape(-1, *[1] * (weight.dim() - 2))
    inputs = tuple(d for d in range(weight.dim()) if d != int(transposed))
    return _linear(run, product, x, weight, shaped, inputs)


def _batch_norm(
    run: _Run, x: Fixed, weight: Any, bias: Any, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Fixed, None, None]:
    shape = (-1, *[1] * (x.integers.dim() - 2))
    scale = 1 / (variance.double() + eps).sqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale if bias is None else bias.double() - mean.double() * scale
    return _sum(_product(run, x, scale.reshape(shape)), shift.reshape(shape)).rounded(run.bits), None, None


def _glu(run: _Run, x: Fixed, dim: int = -1) -> Fixed:
    value, gate = map(x.with_integers, x.integers.chunk(2, dim))
    return _product(run, value, _activation(torch.sigmoid, 0.0, 1.0)(run, gate))


def _activation(function: Callable[..., Tensor], low: float | None, high: float | None) -> Callable[..., Fixed]:
    """A nonlinearity as a table over [-16, 16]; outside it is constant (a number) or the identity (None)."""

    def rule(run: _Run, x: Fixed, *args: Any, **kwargs: Any) -> Fixed:
        bits = run.bits
        x, edge = x.rounded(bits), 16 << bits
        table = _table(function, bits, args, tuple(kwargs.items()))
        inside = table[(x.integers.clamp(-edge, edge) + edge).long()]
        for outside, constant in ((x.integers < -edge, low), (x.integers > edge, high)):
            values = x.integers if constant is None else torch.full_like(inside, constant * 2**bits)
            inside = torch.where(outside, values, inside)
        return Fixed(inside, bits, max(x.bound, edge) if None in (low, high) else 2.0**bits + 1)

    return rule


_TABLES: dict[Any, Tensor] = {}


def _table(function: Callable[..., Tensor], bits: int, args: tuple[Any, ...], kwargs: tuple[Any, ...]) -> Tensor:
    key = (function, bits, args, kwargs)
    if key not in _TABLES:
        x = torch.arange(-16 << bits, (16 << bits) + 1, dtype=torch.float64) / 2**bits
        _TABLES[key] = (function(x, *args, **dict(kwargs)) * 2**bits).round()
    return _TABLES[key]


def _clamp(run: _Run, x: Fixed, low: Any = None, high: Any = None) -> Fixed:
    return x.with_integers(x.integers.clamp(*(None if v is None else round(v * 2**x.bits) for v in (low, high))))


def _leaky_relu(run: _Run, x: Fixed, slope: float = 0.01) -> Fixed:
    return _sum(
        x.with_integers(x.integers.clamp(min=0)), _product(run, x.with_integers(x.integers.clamp(max=0)), slope)
    )


@dataclass(frozen=True)
class Exponential:
    """exp of a fixed-point number, of which only the logarithm can be used: that of a scale, say."""

    logarithm: Fixed


def _log(run: _Run, x: Any) -> Fixed:
    if not isinstance(x, Exponential):
        raise refusal("compress", "scales must be exponentials of a network's output", "another function of it")
    return x.logarithm


_RULES: dict[str, Callable[..., Any]] = {
    **{
        name: _moved(getattr(torch.ops.aten, name))
        for name in (
            *("view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "squeeze", "unsqueeze"),
            *("slice", "select", "split", "unbind", "chunk", "clone", "alias", "detach", "pixel_shuffle"),
            *("contiguous", "flatten", "relu", "neg"),
        )
    },
    "getitem": lambda run, x, index: x[index],
    "_to_copy": lambda run, x, **options: x,
    "addmm": _addmm,
    "mm": lambda run, x, weight: _addmm(run, None, x, weight),
    "convolution": _convolution,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "add": lambda run, x, y, alpha=1: _sum(x, y, alpha),
    "sub": lambda run, x, y, alpha=1: _sum(x, _negative(y), alpha),
    "mul": _product,
    "glu": _glu,
    "exp": lambda run, x: Exponential(x),
    "log": _log,
    "clamp": _clamp,
    "leaky_relu": _leaky_relu,
    "tanh": _activation(torch.tanh, -1.0, 1.0),
    "sigmoid": _activation(torch.sigmoid, 0.0, 1.0),
    "softplus": _activation(functional.softplus, 0.0, None),
    "gelu": _activation(functional.gelu, 0.0, None),
    "silu": _activation(functional.silu, 0.0, None),
    "elu": _activation(functional.elu, -1.0, None),
}


def _negative(y: Any) -> Any:
    return y.with_integers(-y.integers) if isinstance(y, Fixed) else -y
