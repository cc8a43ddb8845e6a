"""Networks in fixed-point arithmetic, whose results do not depend on machine, threads or batch size."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten

from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import validating

_LIMIT = 2.0**52  # all sums stay below, so that float64 holds them exactly
_WEIGHT_BITS = 20  # fractional bits of a weight, fewer if a sum might exceed the limit
_LARGEST = 2.0**12  # results of layers are clamped to this absolute value, so that bounds do not grow with the layers
_EDGE = 16  # nonlinearities are tables over [-_EDGE, _EDGE]
aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Fixed:
    """Integers in float64 that stand for ``integers * 2 ** -bits``.

    Attributes:
        integers: of any shape.
        bits: number of fractional bits.
        bound: no integer that occurs is larger.
    """

    integers: Tensor
    bits: int
    bound: float

    def moved(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of an operation that moves numbers without changing them."""
        result = function(self.integers, *args, **kwargs)
        if isinstance(result, Tensor):
            return Fixed(result, self.bits, self.bound)
        return tuple(Fixed(part, self.bits, self.bound) for part in result)

    def rounded(self, bits: int) -> Fixed:
        """The nearest number with fewer fractional bits, or the same number with more."""
        factor = 2.0 ** (bits - self.bits)
        scaled = self.integers * factor
        return Fixed((scaled + 0.5).floor() if factor < 1 else scaled, bits, math.ceil(self.bound * factor) + 1)


@dataclass(frozen=True)
class Elementwise:
    """A chain of functions of one variable at fixed-point numbers, evaluated as one table when it is used.

    Attributes:
        argument: the numbers.
        chain: names of operations with their other arguments, in the order of their application.
    """

    argument: Fixed
    chain: tuple[tuple[str, tuple[Any, ...]], ...]

    def moved(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As :meth:`Fixed.moved`; the table is still not evaluated."""
        result = self.argument.moved(function, *args, **kwargs)
        parts = result if isinstance(result, tuple) else (result,)
        moved = tuple(Elementwise(part, self.chain) for part in parts)
        return moved if isinstance(result, tuple) else moved[0]

    def value(self, bits: int) -> Fixed:
        """The numbers; outside the table they continue as constants, or along the identity."""
        x, edge = self.argument.rounded(bits), _EDGE << bits
        table = _table(self.chain, bits)
        result = table[(x.integers.clamp(-edge, edge) + edge).long()]
        bound = float(table.abs().max())
        if len(self.chain) == 1 and self.chain[0][0] in _IDENTITY_ABOVE:
            result, bound = torch.where(x.integers > edge, x.integers, result), max(bound, x.bound)
        return Fixed(result, bits, bound)


class ExactFunction:
    r"""A function of tensors in fixed-point arithmetic: the same integers on every machine.

    The function's operations are recorded and carried out on integers held in float64, with all sums below
    :math:`2^{52}`: they are exact in any order. Nonlinearities are tables over [-16, 16]; results of layers are clamped
    to [-4096, 4096]. Supported are linear and convolutional layers, pixel shuffle, gates, batch normalization in eval
    mode, sums, products, and the activations of :mod:`pyro_vae.networks`. Parameters are those at the first call.

    Args:
        function: of tensors ``(batch, *shape)``, without random numbers; returns tensors by name.
        shapes: shape of one input each.
        bits: fractional bits of inputs and results.
        limit: largest absolute input.

    Raises:
        ValueError: at a call: the function has an operation that is not supported.

    Example:
        >>> import torch
        >>> double = ExactFunction(lambda x: {"y": 2 * x}, [(3,)], bits=4, limit=8.0)
        >>> double(torch.tensor([[16.0, 0.0, -8.0]], dtype=torch.float64))["y"]
        tensor([[ 32.,   0., -16.]], dtype=torch.float64)
    """

    def __init__(
        self,
        function: Callable[..., Mapping[str, Tensor]],
        shapes: Sequence[tuple[int, ...]],
        *,
        bits: int,
        limit: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.function, self.shapes, self.bits, self.limit, self.dtype = function, shapes, bits, limit, dtype
        self._runs: dict[int, _Run] = {}

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Results by name as integers in float64 with ``bits`` fractional bits, for inputs with as many."""
        batch = len(inputs[0]) if inputs else 1
        if batch not in self._runs:
            self._runs[batch] = _Run(self._recorded(batch), self.bits)
        shaped = [x.double().reshape(batch, *shape) for x, shape in zip(inputs, self.shapes, strict=True)]
        with torch.no_grad():
            result = self._runs[batch]([Fixed(x, self.bits, self.limit * 2**self.bits) for x in shaped])
        return {name: value.rounded(self.bits).integers for name, value in result.items()}

    def _recorded(self, batch: int) -> GraphModule:
        examples = [torch.zeros(batch, *shape, dtype=self.dtype) for shape in self.shapes]
        with torch.no_grad(), validating(False):  # validation reads values
            return make_fx(self.function)(*examples)


def constant(value: Any, bits: int) -> Fixed:
    """A constant with ``bits`` fractional bits."""
    integers = (torch.as_tensor(value).detach().double() * 2.0**bits).round()
    return Fixed(integers, bits, float(integers.abs().max()) if integers.numel() else 0.0)


class _Run:
    """Carries out a recorded graph on fixed-point numbers; what depends on constants alone is computed once."""

    def __init__(self, graph: GraphModule, bits: int) -> None:
        self.graph, self.bits = graph, bits
        self._constants: dict[Node, Any] = {}
        self._weights: dict[int, Fixed] = {}

    def __call__(self, inputs: Sequence[Fixed]) -> Any:
        values, varying, arguments = dict(self._constants), set(), iter(inputs)
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(arguments)
                varying.add(node)
            elif node not in values and node.op != "output":
                values[node] = self._value(node, values)
                if varying.isdisjoint(node.all_input_nodes):
                    self._constants[node] = values[node]
                else:
                    varying.add(node)
        result: Any = torch.fx.node.map_arg(self.graph.graph.output_node().args[0], values.__getitem__)
        return {name: self.fixed(value) for name, value in result.items()}

    def _value(self, node: Node, values: dict[Node, Any]) -> Any:
        if node.op == "get_attr":
            return getattr(self.graph, str(node.target))
        arguments: Any = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        args, kwargs = arguments
        target: Any = node.target
        name = "getitem" if target is operator.getitem else str(target).removeprefix("aten.").split(".")[0]
        if name in _MOVES or name == "getitem":
            numbers = [a for a in tree_flatten(args)[0] if isinstance(a, Fixed | Elementwise)]
            if not numbers:
                return target(*args, **kwargs)
            if isinstance(args[0], Fixed | Elementwise):
                return args[0].moved(target, *args[1:], **kwargs)
            return target(*args, **kwargs) if name == "getitem" else _joined(self, target, *args, **kwargs)
        if name in _CREATIONS:
            return target(*args, **kwargs)
        if name in _FUNCTIONS_OF_ONE:
            return self._elementwise(name, args[0], (*args[1:], *sorted(kwargs.items())))
        if name not in _RULES:
            what, advice = f"the operation {name}", "Use layers and activations of pyro_vae.networks"
            raise refusal("compress", "networks must have an exact form", what, advice)
        return _RULES[name](self, *args, **kwargs)

    def fixed(self, value: Any) -> Fixed:
        """A number, a chain of functions or a constant as a number."""
        if isinstance(value, Elementwise):
            return value.value(self.bits)
        return value if isinstance(value, Fixed) else constant(value, self.bits)

    def _elementwise(self, name: str, x: Any, arguments: tuple[Any, ...]) -> Elementwise:
        if isinstance(x, Elementwise):
            return Elementwise(x.argument, (*x.chain, (name, arguments)))
        return Elementwise(self.fixed(x), ((name, arguments),))

    def scalar(self, name: str, x: Any, y: Any) -> Elementwise | None:
        """A sum or product of a chain of functions and a number."""
        if isinstance(x, Elementwise) and isinstance(y, int | float):
            return self._elementwise(name, x, (y,))
        return None

    def weight(self, weight: Tensor, inputs: tuple[int, ...], largest: float) -> Fixed:
        """A weight with as many fractional bits as its products with numbers up to ``largest`` permit.

        Its bound is that of the sum over the dimensions ``inputs``.
        """
        if id(weight) not in self._weights:  # the graph and the constants keep it alive
            self._weights[id(weight)] = _quantised(weight, inputs, largest)
        return self._weights[id(weight)]


def _quantised(weight: Tensor, inputs: tuple[int, ...], largest: float) -> Fixed:
    for bits in range(_WEIGHT_BITS, 0, -1):
        integers = constant(weight, bits).integers
        bound = float(integers.abs().sum(inputs).max())
        if bound * largest < _LIMIT / 2:
            return Fixed(integers, bits, bound)
    raise refusal("compress", "weights must be small enough to be summed exactly", "larger ones")


def _joined(run: _Run, target: Any, parts: Any, *args: Any, **kwargs: Any) -> Fixed:
    """``cat`` or ``stack``."""
    fixed = [run.fixed(part).rounded(run.bits) for part in parts]
    return Fixed(target([f.integers for f in fixed], *args, **kwargs), run.bits, max(f.bound for f in fixed))


def _linear(
    run: _Run, product: Callable[..., Tensor], x: Any, weight: Tensor, bias: Any, inputs: tuple[int, ...]
) -> Fixed:
    """A product of numbers and weights, plus a bias, rounded; ``inputs`` are the dimensions that are summed."""
    x = run.fixed(x)
    w = run.weight(weight, inputs, x.bound)
    total: Any = Fixed(product(x.integers, w.integers), x.bits + w.bits, x.bound * w.bound)
    total = total if bias is None else _sum(run, total, bias)
    total = total.rounded(run.bits)
    edge = _LARGEST * 2**run.bits
    return Fixed(total.integers.clamp(-edge, edge), run.bits, min(total.bound, edge))


def _sum(run: _Run, x: Any, y: Any, alpha: float = 1) -> Fixed | Elementwise:
    """Sum of two numbers, with the larger number of fractional bits."""
    if alpha != 1:
        raise refusal("compress", "networks must have an exact form", f"a sum with alpha={alpha}")
    if (chain := run.scalar("add", x, y)) is not None:
        return chain
    bits = max([v.bits for v in (x, y) if isinstance(v, Fixed)] or [run.bits])
    a, b = (constant(v, bits) if isinstance(v, Tensor | int | float) else run.fixed(v).rounded(bits) for v in (x, y))
    return Fixed(a.integers + b.integers, bits, a.bound + b.bound)


def _difference(run: _Run, x: Any, y: Any, alpha: float = 1) -> Any:
    if isinstance(y, int | float):
        return _sum(run, x, -y, alpha)
    return _sum(run, x, run.fixed(y).moved(torch.neg), alpha)


def _product(run: _Run, x: Any, y: Any) -> Any:
    if (chain := run.scalar("mul", x, y)) is not None:
        return chain
    a, b = (constant(v, _WEIGHT_BITS) if isinstance(v, Tensor | int | float) else run.fixed(v) for v in (x, y))
    if a.bound * b.bound >= _LIMIT:
        raise refusal("compress", "products must be small enough to be exact", "larger ones")
    return Fixed(a.integers * b.integers, a.bits + b.bits, a.bound * b.bound).rounded(run.bits)


def _quotient(run: _Run, x: Any, y: Any) -> Any:
    if not isinstance(y, int | float):
        raise refusal("compress", "networks must have an exact form", "a quotient of tensors")
    return _product(run, x, 1 / y)


def _addmm(run: _Run, bias: Any, x: Any, weight: Any) -> Fixed:
    return _linear(run, torch.mm, x, weight, bias, (0,))


def _convolution(run: _Run, x: Any, weight: Tensor, bias: Any, *options: Any) -> Fixed:
    def product(numbers: Tensor, weights: Tensor) -> Tensor:
        return aten.convolution(numbers, weights, None, *options)

    transposed = int(options[3])
    shaped = None if bias is None else bias.reshape(-1, *[1] * (weight.dim() - 2))
    return _linear(run, product, x, weight, shaped, tuple(d for d in range(weight.dim()) if d != transposed))


def _batch_norm(
    run: _Run, x: Any, weight: Any, bias: Any, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> Any:
    shape = (-1, *[1] * (run.fixed(x).integers.dim() - 2))
    scale = 1 / (variance.double() + eps).sqrt()  # rounded correctly everywhere, as IEEE 754 demands
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale if bias is None else bias.double() - mean.double() * scale
    return _sum(run, _product(run, x, scale.reshape(shape)), shift.reshape(shape)), None, None


def _glu(run: _Run, x: Any, dim: int = -1) -> Any:
    value, gate = run.fixed(x).moved(torch.chunk, 2, dim)
    return _product(run, value, Elementwise(gate, (("sigmoid", ()),)))


def _clamp(run: _Run, x: Any, low: Any = None, high: Any = None) -> Fixed:
    x = run.fixed(x)
    limits = [None if v is None else math.floor(v * 2**x.bits + 0.5) for v in (low, high)]
    return Fixed(x.integers.clamp(*limits), x.bits, x.bound)


def _leaky_relu(run: _Run, x: Any, slope: float = 0.01) -> Any:
    x = run.fixed(x)
    below = Fixed(x.integers.clamp(max=0), x.bits, x.bound)
    return _sum(run, _clamp(run, x, 0), _product(run, below, slope))


_RULES: dict[str, Callable[..., Any]] = {
    "addmm": _addmm,
    "mm": lambda run, x, weight: _addmm(run, None, x, weight),
    "convolution": _convolution,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "add": _sum,
    "sub": _difference,
    "mul": _product,
    "div": _quotient,
    "glu": _glu,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "relu": lambda run, x: _clamp(run, x, 0),
    "leaky_relu": _leaky_relu,
    "neg": lambda run, x: run.fixed(x).moved(torch.neg),
    "_to_copy": lambda run, x, **options: x,
}
_MOVES = {
    *("view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "squeeze", "unsqueeze", "slice"),
    *("select", "split", "split_with_sizes", "unbind", "chunk", "clone", "alias", "detach", "pixel_shuffle", "cat"),
    *("contiguous", "flatten", "stack", "lift_fresh_copy", "index"),
}
_CREATIONS = {"zeros", "ones", "full", "eye", "arange", "scalar_tensor", "zeros_like", "ones_like", "full_like"}
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "softplus": aten.softplus,
    "gelu": lambda x, *options: aten.gelu(x, **dict(options)),
    "silu": aten.silu,
    "elu": aten.elu,
    "log_sigmoid_forward": torch.nn.functional.logsigmoid,
    "add": torch.add,
    "mul": torch.mul,
}
_FUNCTIONS_OF_ONE = {name for name in _FUNCTIONS if name not in ("add", "mul")}
_IDENTITY_ABOVE = {"softplus", "gelu", "silu", "elu"}


@cache
def _table(chain: tuple[tuple[str, tuple[Any, ...]], ...], bits: int) -> Tensor:
    x = torch.arange(-_EDGE << bits, (_EDGE << bits) + 1, dtype=torch.float64) / 2**bits
    for name, arguments in chain:
        x = _FUNCTIONS[name](x, *arguments)
    return (x * 2**bits).nan_to_num().clamp(-(2.0**40), 2.0**40).round()
