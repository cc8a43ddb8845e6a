"""A lower bound of the time of a computation, from its operations and the measured speed of the machine.

The work consists of matrix products and convolutions, forward and backward, without the gradient by the data: 2mnk
operations each, one read of the operands and one write of the result. Elementwise work is assumed to be fused into them
at no cost. A training step with Adam also reads parameters, gradients and two moments and writes all but the gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
_PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward}
MEGABYTE = 2**20


class _Traffic(TorchDispatchMode):
    """Bytes of the operands and results of the matrix products."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _PRODUCTS:
            tensors = [t for t in tree_leaves((args, result)) if isinstance(t, Tensor)]
            self.total += sum(t.numel() * t.element_size() for t in tensors)
        return result


@dataclass(frozen=True)
class Work:
    """Floating-point operations and bytes moved."""

    operations: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.operations * times, self.bytes * times)


def work_of(run: Callable[[], Any]) -> Work:
    """The matrix products of ``run``."""
    with FlopCounterMode(display=False) as operations, _Traffic() as traffic:
        run()
    return Work(operations.get_total_flops(), traffic.total)


def adam(parameters: list[torch.nn.Parameter]) -> Work:
    """One update of the parameters, which reads four tensors and writes three."""
    return Work(0, 7 * sum(p.numel() * p.element_size() for p in parameters))


@dataclass(frozen=True)
class Peaks:
    """Measured peak performance of the machine: operations and bytes per second.

    Attributes:
        operations: maximum over square matrix products of several sizes.
        bandwidth: bytes read and written by copies, maximum over sizes; small ones stay in a cache.
        memory_bandwidth: the same for copies larger than any cache.
    """

    operations: float
    bandwidth: float
    memory_bandwidth: float

    def seconds(self, work: Work) -> float:
        """Lower bound of the time of the work."""
        return max(work.operations / self.operations, work.bytes / self.bandwidth)

    def limit(self, work: Work) -> str:
        """The limiting resource of the bound."""
        return "arithmetic" if work.operations / self.operations >= work.bytes / self.bandwidth else "memory"

    def best(self, other: Peaks) -> Peaks:
        """The maximum of two measurements, since other load only lowers them."""
        return Peaks(*(max(a, b) for a, b in zip(astuple(self), astuple(other), strict=True)))


def measure_peaks(device: torch.device, dtype: torch.dtype = torch.float32, *, seconds: float = 0.3) -> Peaks:
    """The fastest matrix products and copies of several sizes and repetitions, in so many seconds each.

    In less than a tenth of a second, of a rehearsal, the largest copies are left out.
    """
    sizes = (2048, 4096, 8192) if device.type == "cuda" else (512, 1024, 2048)
    megabytes = (1, 4, 16, 64, 1024) if seconds >= 0.1 else (1, 4, 16)
    copies = [_copy_rate(size * MEGABYTE, device, seconds) for size in megabytes]
    return Peaks(max(_product_rate(n, device, dtype, seconds) for n in sizes), max(copies), copies[-1])


def _product_rate(n: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / shortest(lambda: torch.mm(a, b, out=out), device, seconds=seconds)


def _copy_rate(size: int, device: torch.device, seconds: float) -> float:
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    return 2 * size / shortest(lambda: target.copy_(source), device, seconds=seconds)


def shortest(run: Callable[[], Any], device: torch.device, *, seconds: float = 0.3) -> float:
    """Shortest time of one run, in groups of at least a millisecond."""
    fastest, times, stop = float("inf"), 1, time.perf_counter() + seconds
    while time.perf_counter() < stop or fastest == float("inf"):
        start = time.perf_counter()
        for _ in range(times):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken = time.perf_counter() - start
        if taken < 1e-3:
            times *= 2
        else:
            fastest = min(fastest, taken / times)
    return fastest
