"""Matrix products of networks in bfloat16, densities in float32."""

from __future__ import annotations

import time
import warnings
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyro_vae._core.checks import check_choice
from pyro_vae._core.contexts import is_exact

Precision = Literal["fp32", "bf16"]
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 3e-2}
"""Largest relative difference between a recording and its program, by the precision of the program's products."""
_current: ContextVar[tuple[Precision, ...]] = ContextVar("precision", default=("fp32",))

_PRODUCTS = {
    functional.linear,
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
}


class NetworkPrecision(TorchFunctionMode):
    """Context in which linear and convolutional layers multiply float32 tensors as bfloat16 and return float32.

    Nonlinearities, samples and densities stay in float32, since bfloat16 densities are off by tenths of a nat. Tensors
    of other dtypes are not changed. ``"fp32"`` changes nothing.

    Args:
        precision: ``"fp32"`` or ``"bf16"``.

    Raises:
        ValueError: unknown precision.

    References:
        Mixed precision training (Micikevicius et al., 2018). https://arxiv.org/abs/1710.03740

    Example:
        >>> import torch
        >>> layer, x = torch.nn.Linear(3, 2), torch.ones(5, 3)
        >>> with NetworkPrecision("bf16"):
        ...     y = layer(x)
        >>> y.dtype, bool((y != layer(x)).any())
        (torch.float32, True)
    """

    def __init__(self, precision: Precision = "fp32") -> None:
        super().__init__()
        check_precision(precision)
        self.precision, self.low = precision, precision == "bf16"

    def __enter__(self) -> NetworkPrecision:
        _current.set((*_current.get(), self.precision))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _current.set(_current.get()[:-1])
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if not self.low or func not in _PRODUCTS or is_exact() or any(t.dtype != torch.float32 for t in tensors):
            return func(*args, **kwargs)
        return func(*map(_low, args), **{key: _low(value) for key, value in kwargs.items()}).float()


def current_precision() -> Precision:
    """The precision of the innermost :class:`NetworkPrecision`."""
    return _current.get()[-1]


def check_precision(precision: str) -> None:
    """Require a known precision."""
    check_choice("fit", "precision", precision, get_args(Precision))


def warn_if_slower(owner: str, precision: str, device: torch.device | None) -> None:
    """Warn if bfloat16 is requested on a processor whose products in bfloat16 take longer than in float32.

    Instruction sets do not tell: of processors with AVX512-BF16 some multiply at twice the rate of float32, others, if
    they have no AMX, at half of it. So a product is timed, for a few milliseconds once per process.

    Args:
        owner: name that the message begins with.
        precision: the requested precision.
        device: where the networks run; None for a CPU.
    """
    if precision == "bf16" and (device is None or device.type == "cpu") and relative_time() > 1:
        warnings.warn(
            f"{owner}: precision='bf16' will be slower than 'fp32': on this processor products in bfloat16 take "
            f"{relative_time():.1f} times as long.",
            stacklevel=3,
        )


@cache
def relative_time(size: int = 512, repeats: int = 5) -> float:
    """Time of a product of two square matrices on the CPU in bfloat16, relative to float32."""
    times: dict[torch.dtype, list[float]] = {torch.bfloat16: [], torch.float32: []}
    for dtype in (*times, *times) * repeats:
        matrix = torch.ones(size, size, dtype=dtype)
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times[dtype].append(time.perf_counter() - start)
    return min(times[torch.bfloat16]) / min(times[torch.float32])


def _low(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) else value
