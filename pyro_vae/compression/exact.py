"""Networks in fixed-point arithmetic, whose results do not depend on machine, threads or batch size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten

from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import validating
from pyro_vae.compression.fixed_point import UNARY, Elementwise, Fixed, constant
from pyro_vae.compression.operations import CREATIONS, MOVES, RULES, joined, quantised


class ExactFunction:
    r"""A function of tensors in fixed-point arithmetic: the same integers on every machine.

    The function's operations are recorded and carried out on integers held in float64, with all sums below
    :math:`2^{52}`: they are exact in any order. Nonlinearities are tables over [-16, 16]; results of layers are clamped
    to [-4096, 4096]. Supported are linear and convolutional layers, masks, pixel shuffle, gates, batch normalization in
    eval mode, sums, products, and the activations of :mod:`pyro_vae.networks`. Parameters are those at the first call.

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
            graph = make_fx(self.function)(*examples)
        graph.graph.eliminate_dead_code()
        return graph


class _Run:
    """Carries out a recorded graph on fixed-point numbers; what depends on constants alone is computed once."""

    def __init__(self, graph: GraphModule, bits: int) -> None:
        self.graph, self.bits = graph, bits
        self._constants: dict[Node, Any] = {}
        self._weights: dict[tuple[int, float], tuple[Tensor, Fixed]] = {}
        self._products: dict[Node, Tensor] = {}

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
        if name in MOVES or name == "getitem":
            numbers = [a for a in tree_flatten(args)[0] if isinstance(a, Fixed | Elementwise)]
            if not numbers:
                return target(*args, **kwargs)
            if isinstance(args[0], Fixed | Elementwise):
                return args[0].moved(target, *args[1:], **kwargs)
            return target(*args, **kwargs) if name == "getitem" else joined(self, target, *args, **kwargs)
        if name in CREATIONS:  # of the shape of a number, whose value does not matter
            return target(
                *(self.fixed(a).integers if isinstance(a, Fixed | Elementwise) else a for a in args), **kwargs
            )
        if name in UNARY:
            return self._elementwise(name, args[0], (*args[1:], *sorted(kwargs.items())))
        if name == "mul" and all(
            isinstance(a, Tensor) for a in args
        ):  # a mask on a weight, rounded correctly everywhere
            return self._product(node, *args)
        if name not in RULES:
            what, advice = f"the operation {name}", "Use layers and activations of pyro_vae.networks"
            raise refusal("compress", "networks must have an exact form", what, advice)
        return RULES[name](self, *args, **kwargs)

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
        """A weight as :func:`quantised` returns it, computed once for each range of inputs."""
        key = id(weight), largest
        known = self._weights.get(key)
        if known is None or known[0] is not weight:  # the id may be that of a product that no longer exists
            known = self._weights[key] = weight, quantised(weight, inputs, largest)
        return known[1]

    def _product(self, node: Node, factor: Tensor, other: Tensor) -> Tensor:
        """A product of two tensors; of constants it is computed once."""
        if any(part.op != "get_attr" for part in node.all_input_nodes):
            return factor * other
        if node not in self._products:
            self._products[node] = factor * other
        return self._products[node]
