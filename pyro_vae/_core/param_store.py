"""How modules meet Pyro's global parameter store: under a name of their own, or not at all.

``pyro.module(name, module)`` keeps the first module it sees under a name, so a second VAE of a process would silently
not train. Here every instance, a deep copy included, has its own name, and code that trains by ``torch.optim``
leaves the store alone.
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
    """Show the trainable parameters of ``module`` to Pyro, under a name that no other instance has.

    It is what makes ``pyro.infer.SVI`` see the parameters; inside :func:`no_registration` it does nothing. The store
    keeps the tensors of a module that is gone, until ``pyro.clear_param_store()``.
    """
    if not _registering.get():
        return
    name = _names.get(module) or _names.setdefault(module, f"{type(module).__name__}-{next(_counter)}")
    store = pyro.get_param_store()
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            full = f"{name}$$${key}"
            if full in store and store[full] is not parameter:  # replaced since, by load_state_dict(assign=True) say
                del store[full]
            pyro.param(full, parameter)


@contextmanager
def unregistered() -> Iterator[None]:
    """What programs put into the parameter store within it is not there afterwards."""
    store = pyro.get_param_store()
    before, names = set(store.keys()), dict(store._param_to_name)
    try:
        yield
    finally:
        for name in set(store.keys()) - before:
            with suppress(KeyError):  # of a tensor that has another name too
                del store[name]
            store._constraints.pop(name, None)
        store._param_to_name = names


@contextmanager
def no_registration() -> Iterator[None]:
    """Within it, modules do not enter the parameter store; their parameters are trained by ``torch.optim``."""
    token = _registering.set(False)
    try:
        yield
    finally:
        _registering.reset(token)
