"""Temporary patches of Pyro's ELBOs and of torch that make a loss traceable."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType
from typing import Any

import pyro.infer.trace_elbo
import pyro.infer.trace_mean_field_elbo
import pyro.infer.traceenum_elbo
import pyro.infer.tracegraph_elbo
import pyro.infer.util
import pyro.poutine.trace_struct
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyro_vae._core.contexts import tracing

_LOCK = threading.RLock()  # the patches hold for the whole process
_ELBOS = (
    pyro.infer.trace_elbo,
    pyro.infer.trace_mean_field_elbo,
    pyro.infer.traceenum_elbo,
    pyro.infer.tracegraph_elbo,
    pyro.poutine.trace_struct,
)


@contextmanager
def recordable() -> Iterator[None]:
    """Patch the parts of Pyro's ELBOs that prevent tracing (``.item()``, NaN warnings, validation), temporarily."""
    changes: list[tuple[Any, str, Any]] = [
        (module, name, new) for module in _ELBOS for name, new in _PATCHES.items() if hasattr(module, name)
    ]
    changes.append((pyro.infer.util, "_fulldot", _dot_where_positive(pyro.infer.util._fulldot)))
    changes.append((torch.distributions.Distribution, "_validate_sample", _unchecked))
    with _LOCK, ExitStack() as stack:
        for module, name, new in changes:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, new)
        stack.enter_context(tracing())
        stack.enter_context(_RaiseOnReads())
        yield


class _RaiseOnReads(TorchFunctionMode):
    """Raises on operations that read tensor values without being traced; the graph would bake them in as constants.

    Pyro's DiCE sum branches on whether every term has positive probability: the branch for positive probabilities is
    traced, and terms of probability 0 are set to 0 in the sum.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and _caller() is Dice.compute_expectation.__code__:
            return True
        if func is functional.one_hot and len(args) > 1:
            return _one_hot(*args)
        if func in _READS or (func in _CONVERTS and args and _holds_tensors(args[0])):
            raise RuntimeError(f"{func.__name__} of a tracing tensor")
        return func(*args, **(kwargs or {}))


_READS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}
_CONVERTS = {torch.tensor, torch.as_tensor, torch.asarray}


def _caller() -> CodeType:
    """Code of the caller of a torch function, behind the frames of other modes."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_name == "__torch_function__":
        frame = frame.f_back
    return frame.f_code


def _one_hot(index: Tensor, num_classes: int) -> Tensor:
    """As torch, without its check of the range of the index, which samples of ``OneHotCategorical`` satisfy."""
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).long()


def _holds_tensors(value: Any) -> bool:
    """Whether it is a list of tensors, possibly nested."""
    return isinstance(value, list | tuple) and any(isinstance(v, Tensor) or _holds_tensors(v) for v in value)


def _dot_where_positive(fulldot: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda prob, cost: fulldot(prob, torch.where(prob > 0, cost, 0.0))  # 0 * inf is not 0


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _unchecked(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


_PATCHES = {"torch_item": _detached, "warn_if_nan": _unchecked}
