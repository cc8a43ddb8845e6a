"""Simulation of CUDA graphs on a CPU: capturing has no effect, replaying repeats operations without Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOOKS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.nonzero.default}


class Tape(TorchDispatchMode):
    """Record the operations within the context, each with the memory that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in LOOKS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        kwargs = kwargs or {}
        self.before += [(tensor, tensor.detach().clone()) for tensor in _written(func, args, kwargs)]
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Restore the overwritten memory."""
        for tensor, value in reversed(self.before):
            tensor.detach().copy_(value)
        self.before = []

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the operations in the same memory."""
        for func, args, kwargs, result in self.operations:
            for held, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(held, Tensor) and held.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    held.detach().copy_(new)


def capture(body: Callable[[], None]) -> Callable[[], None]:
    """As :func:`pyro_vae.training.engines.cuda_graph.capture_cuda_graph`."""
    generator = torch.get_rng_state()
    with Tape() as tape:
        body()
    tape.undo()
    torch.set_rng_state(generator)
    return tape.replay


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that an operation changes."""
    if func is torch.ops.aten.native_batch_norm.default:  # the schema does not report mutation
        yield from (args[3], args[4])
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name) if number >= len(args) else args[number]
            yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
