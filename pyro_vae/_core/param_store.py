"""Registration of modules in Pyro's global parameter store, under names that are unique per instance.

``pyro.module(name, module)`` keeps the first module that it receives under a name, so a second VAE in a process would
silently not train. Here every instance, deep copies included, has its own name, and code that trains with
``torch.optim`` does not use the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from weakref import WeakKeyDictionary

import pyro
from torch import nn

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_counter = count()
_registering: ContextVar[bool] = ContextVar("registering", default=True)


def register(module: nn.Module) -> None:
    """Register the trainable parameters of ``module`` with Pyro, under a name that no other instance has.

    ``pyro.infer.SVI`` trains registered parameters only. Inside :func:`no_registration` this does nothing. The store
    keeps the tensors of a deleted module until ``pyro.clear_param_store()``.
    """
    if not _registering.get():
        return
    name = _names.get(module) or _names.setdefault(module, f"{type(module).__name__}-{next(_counter)}")
    store = pyro.get_param_store()
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            full = f"{name}$$${key}"
            if full in store and store[full] is not parameter:  # replaced, for example by load_state_dict(assign=True)
                del store[full]
            pyro.param(full, parameter)


@contextmanager
def unregistered() -> Iterator[None]:
    """Context that removes from the parameter store, at its end, the parameters that programs added."""
    store = pyro.get_param_store()
    before, names = set(store.keys()), dict(store._param_to_name)
    try:
        yield
    finally:
        for name in set(store.keys()) - before:
            with suppress(KeyError):  # a tensor with two names
                del store[name]
            store._constraints.pop(name, None)
        store._param_to_name = names


@contextmanager
def no_registration() -> Iterator[None]:
    """Context in which :func:`register` does nothing, for training and evaluation without the parameter store."""
    token = _registering.set(False)
    try:
        yield
    finally:
        _registering.reset(token)
