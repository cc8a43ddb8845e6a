"""Holding parameters constant in a program's density, and repeating the random numbers of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._core.owners import Owners, Wrapper
from pyro_vae._core.param_store import no_registration

T = TypeVar("T")


class DetachedSamples(Messenger):
    """Detach all samples, or those of auxiliary sites alone."""

    def __init__(self, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.auxiliary = auxiliary

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.auxiliary and not msg["infer"].get("is_auxiliary"):
            return
        if isinstance(msg["value"], Tensor) and not msg["is_observed"]:
            msg["value"] = msg["value"].detach()


class _HeldStatements(Messenger):
    """Detach the values of ``pyro.param`` statements."""

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


@contextmanager
def held_parameters() -> Iterator[None]:
    """Detach ``pyro.param`` statements within, and leave Pyro's parameter store unchanged."""
    with no_registration(), poutine.block(hide_types=["param"]), _HeldStatements(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not registered in the param store")  # they are detached
        yield


class _Held(Wrapper):
    def __init__(self, program: Callable[[], Any], owners: list[nn.Module]) -> None:
        super().__init__()
        self.owners, self._program = nn.ModuleList(owners), program

    def forward(self) -> Any:
        return self._program()


def hold_modules(program: Callable[[], T], owners: Owners) -> Callable[[], T]:
    """Return the program with the parameters of its modules as constants.

    They include parameters of the model that the guide uses, as in a ladder VAE.
    """
    modules = {id(m): m for m in owners.modules.values()}
    whole = _Held(program, list(modules.values()))
    tensors: dict[str, Tensor] = {}
    # Each module once: a VampPrior's guide is both a submodule of the model and the guide itself, and a tensor that is
    # swapped under two names would not be swapped back.
    for prefix, module in whole.named_modules():
        tensors |= {_join(prefix, k): p.detach() for k, p in module.named_parameters(recurse=False)}
        # Clones, so that running statistics are updated once.
        tensors |= {_join(prefix, k): b.clone() for k, b in module.named_buffers(recurse=False)}
    return lambda: torch.func.functional_call(whole, tensors, (), tie_weights=False)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


class RepeatedNoise:
    """Record the random numbers that a program uses outside of its sample statements (dropout), then repeat them."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the random numbers of the programs that run within."""
        sampling = _Sampling()
        with sampling, _Record(self.values, sampling):
            yield

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Repeat the recorded random numbers in their order."""
        with _Repeat(self.values):
            yield


class _Sampling(Messenger):
    """Whether a sample statement is running."""

    active = False

    def _pyro_sample(self, msg: Any) -> None:
        self.active = True

    def _pyro_post_sample(self, msg: Any) -> None:
        self.active = False


class _Record(TorchDispatchMode):
    def __init__(self, values: list[Any], sampling: _Sampling) -> None:
        super().__init__()
        self.values, self.sampling = values, sampling

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and not self.sampling.active:
            self.values.append(result.clone() if isinstance(result, Tensor) else result)
        return result


class _Repeat(TorchDispatchMode):
    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self.values = iter(values)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        value = next(self.values, None)
        if value is None:  # of a density that is itself estimated, which the first run did not evaluate
            return func(*args, **(kwargs or {}))
        return args[0].copy_(value) if func._schema.is_mutable else value
