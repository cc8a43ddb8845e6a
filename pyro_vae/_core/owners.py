"""The modules and tensors behind a Pyro program, however it is written: what is trained, saved, moved and switched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae._core.types import Program

_DEPTH = 4  # of containers and objects between a program and its modules
_MOST = 20_000  # objects that are looked at: a program's object may hold a data set too
_LARGE = 1000  # a container of more entries holds data, not modules
_LIBRARIES = {"builtins", "types", "torch", "numpy", "pandas", "logging"}
_SIMPLE = (int, float, bool, str)
_TORCH_KEYS = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training", "call_super_init"}


class Owners:
    """The modules that programs use, by name, in the order in which they are reached.

    A program may be a module, a method of one, a function that refers to modules in its closure, a
    ``functools.partial`` or a wrapper of Pyro's around any of these. Modules that functions take from their globals are
    added when the programs first call them, within :meth:`evaluating` or :meth:`noticing`.

    Args:
        programs: by name, such as ``model=vae.model, guide=vae.guide``; None is skipped.

    Attributes:
        modules: by name; the module of a program that is one, or is a method of one, has the program's name.

    Example:
        >>> from functools import partial
        >>> decoder = nn.Linear(2, 3)
        >>> list(Owners(model=decoder).modules), list(Owners(model=partial(decoder.forward)).modules)
        (['model'], ['model'])
    """

    def __init__(self, **programs: Program | None) -> None:
        self.modules: dict[str, nn.Module] = {}
        self._known: set[int] = set()
        self._met: set[str] = set()
        self._hints = _Hints({}, [])
        for name, program in programs.items():
            if program is not None:
                for path, module in _reached(program, self._hints):
                    self._add(f"{name}.{path}" if path else name, module)

    def _add(self, name: str, module: nn.Module) -> None:
        while name in self.modules and self.modules[name] is not module:
            name += "_"
        self.modules[name] = module
        self._known |= {id(part) for part in module.modules()}

    def parameters(self) -> list[Tensor]:
        """Parameters of all modules, each once."""
        return _unique(p for module in self.modules.values() for p in module.parameters())

    def buffers(self) -> list[Tensor]:
        """Buffers of all modules, each once."""
        return _unique(b for module in self.modules.values() for b in module.buffers())

    def tensors(self) -> list[Tensor]:
        """Parameters and buffers, each once."""
        return _unique([*self.parameters(), *self.buffers()])

    def named_parameters(self) -> dict[str, Tensor]:
        """Parameters by name, each once."""
        named = {f"{k}.{name}": p for k, module in self.modules.items() for name, p in module.named_parameters()}
        first = {id(p): name for name, p in reversed(named.items())}
        return {name: p for name, p in named.items() if first[id(p)] == name}

    def placement(self) -> tuple[torch.device | None, torch.dtype | None]:
        """Device and dtype of the first parameter; None if there is none."""
        objects = self._hints.objects.values()
        hinted = [p for m in objects if isinstance(m, nn.Module) for p in m.parameters()]
        loose = [t for t in objects if isinstance(t, Tensor) and t.is_floating_point()]
        first = next(iter([*self.parameters(), *hinted, *loose]), None)
        return (None, None) if first is None else (first.device, first.dtype)

    @property
    def variables(self) -> list[tuple[str, Any, str]]:
        """Variables of the programs' functions that hold plain values: name, cell or dictionary, key."""
        return self._hints.variables

    @property
    def names_functions(self) -> bool:
        """Whether functions are among the programs, which may use modules and tensors without calling a module."""
        return bool(self._hints.objects)

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Add the modules in variables of the programs' functions that hold one of the tensors."""
        known = {id(p) for p in self.parameters()}
        for tensor in (t for t in tensors if id(t) not in known):
            for name, value in self._hints.objects.items():
                if isinstance(value, nn.Module) and any(p is tensor for p in value.parameters()):
                    self._add(name, value)
                    break

    def name_of(self, tensor: Tensor) -> str | None:
        """The variable in which a function of the programs keeps a tensor that no module holds; None if unknown."""
        return next((name for name, value in self._hints.objects.items() if value is tensor), None)

    def kept(self) -> dict[str, nn.Module]:
        """The modules that training may change: all but frozen ones that are outside of the programs' modules."""
        return {name: m for name, m in self.modules.items() if name not in self._met or _changes(m)}

    def training(self, mode: bool) -> None:
        """Set train or eval mode; a module whose parameters are all frozen stays in its own."""
        for module in self.modules.values():
            parameters = list(module.parameters())
            if not parameters or any(p.requires_grad for p in parameters):
                module.train(mode)

    @contextmanager
    def noticing(self, meet: Callable[[nn.Module], None] = lambda module: None) -> Iterator[None]:
        """Within it, modules that are called and not known yet are added."""

        def notice(module: nn.Module, args: Any) -> None:
            if id(module) not in self._known and not isinstance(module, torch.jit.ScriptModule):
                known = any(module is part for owner in self.modules.values() for part in owner.modules())
                name, owner = ("", module) if known else self._owner_of(module)
                self._known.add(id(module))
                if not known:
                    self._add(name, owner)
                    self._met.add(name)
                meet(owner)

        handle = register_module_forward_pre_hook(notice)
        try:
            yield
        finally:
            handle.remove()

    def _owner_of(self, module: nn.Module) -> tuple[str, nn.Module]:
        """The global variable that holds the module, alone or among others."""
        for name, value in self._hints.objects.items():
            if isinstance(value, nn.Module) and any(module is part for part in value.modules()):
                return name, value
        return type(module).__name__, module

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode and no gradients; every module is back in its own mode afterwards."""
        modes: list[tuple[nn.Module, bool]] = []

        def switch(owner: nn.Module) -> None:
            for module in owner.modules():
                modes.append((module, module.training))
                module.training = False

        for owner in list(self.modules.values()):
            switch(owner)
        try:
            with self.noticing(switch), torch.no_grad():
                yield
        finally:
            for module, mode in reversed(modes):
                module.training = mode

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Buffers and plain attributes (numbers, strings) of the modules are afterwards as they were."""
        buffers: list[tuple[Tensor, Tensor]] = []
        attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []

        def keep(owner: nn.Module) -> None:
            buffers.extend((buffer, buffer.clone()) for buffer in owner.buffers())
            attributes.extend((vars(module), _plain(module)) for module in owner.modules())

        for owner in list(self.modules.values()):
            keep(owner)
        try:
            with self.noticing(keep):
                yield
        finally:
            with torch.no_grad():
                for buffer, value in reversed(buffers):
                    # One without a shape may have been given it; a copy would be seen by graphs that hold the buffer.
                    if buffer.shape == value.shape and not torch.equal(buffer, value):
                        buffer.copy_(value)
            for values, before in reversed(attributes):
                values.update({k: v for k, v in before.items() if type(values.get(k)) in _SIMPLE})


@contextmanager
def perturbed(owners: Owners) -> Iterator[None]:
    """Within it, parameters and the statistics of batch normalization differ by a fifth; zeros do not stay zero."""
    statistics = [
        (name, buffer)
        for module in owners.modules.values()
        for part in module.modules()
        if isinstance(part, _BatchNorm)
        for name, buffer in part.named_buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    tensors = [*owners.parameters(), *(buffer for _, buffer in statistics)]
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                noise = torch.rand_like(value)  # through .data, which graphs that hold the tensor do not notice
                tensor.data.copy_(torch.where(value == 0, 0.2 * noise - 0.1, value * (0.8 + 0.4 * noise)))
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.data.copy_(value)


def evaluating(*programs: Program) -> Any:
    """Context: the programs' modules in eval mode and without gradients; each back in its own mode afterwards."""
    return Owners(**{f"program{i}": program for i, program in enumerate(programs)}).evaluating()


def placement(*programs: Program) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and dtype of the programs' first parameter; None if there is none."""
    return Owners(**{f"program{i}": program for i, program in enumerate(programs)}).placement()


def _changes(module: nn.Module) -> bool:
    """Whether training may change a tensor of the module."""
    moving = any(True for _ in module.buffers()) and any(part.training for part in module.modules())
    return moving or any(p.requires_grad for p in module.parameters())


def _plain(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if type(v) in _SIMPLE and k not in _TORCH_KEYS}


def _unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


class _Hints(NamedTuple):
    """Variables of functions: modules and tensors by name, and where numbers, flags and strings are."""

    objects: dict[str, Any]
    variables: list[tuple[str, Any, str]]


def _reached(program: Program, hints: _Hints) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a program refers to, with the path to each; variables of its functions go to ``hints``."""
    queue: list[tuple[str, Any, int]] = [("", program, 0)]
    seen: set[int] = set()
    while queue and len(seen) < _MOST:
        path, item, depth = queue.pop(0)
        if id(item) in seen or depth > _DEPTH:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            seen |= {id(module) for module in item.modules()}
            yield path, item
            queue.extend((f"{path}.{label}".lstrip("."), part, depth + 1) for label, part in _unregistered(item))
            for function in _methods(item):
                hints.variables.extend(_settings(function))
            continue
        if isinstance(item, Tensor):
            hints.objects.setdefault(path or "tensor", item)
            continue
        queue.extend(
            (".".join(filter(None, (path, label))), part, depth + cost) for label, part, cost in _parts(item, hints)
        )


def _parts(item: Any, hints: _Hints) -> Iterator[tuple[str, Any, int]]:
    """What an item refers to: label, part, and whether that is a step into a container or an object."""
    if isinstance(item, MethodType):
        yield from (("", item.__self__, 0), ("", item.__func__, 0))
    elif isinstance(item, partial):
        yield from (("", part, 0) for part in (item.func, *item.args))
        yield from ((key, part, 0) for key, part in item.keywords.items())
    elif isinstance(item, FunctionType):
        yield from _of_function(item, hints)
    elif isinstance(item, dict | list | tuple | set | frozenset):
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        yield from ((str(key), part, 1) for key, part in pairs if len(item) <= _LARGE)
    elif isinstance(item, Messenger) or is_object(item) or _is_callable_object(item):
        yield from ((key, part, 1) for key, part in vars(item).items() if not key.startswith("__"))


def _methods(module: nn.Module) -> Iterator[FunctionType]:
    """The methods of the user's classes among a module's parts."""
    for kind in {type(part) for part in module.modules()}:
        if kind.__module__.split(".")[0] not in (*_LIBRARIES, "pyro", "pyro_vae"):
            yield from (value for value in vars(kind).values() if isinstance(value, FunctionType))


def _settings(function: FunctionType) -> Iterator[tuple[str, Any, str]]:
    """The variables with plain values that a function refers to."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            if _is_setting(cell.cell_contents):
                yield name, cell, name
    for name in _names(function.__code__):
        if name in function.__globals__ and not name.startswith("__") and _is_setting(function.__globals__[name]):
            yield name, function.__globals__, name


def _is_setting(value: Any) -> bool:
    """Whether a variable holds plain values: one, or a container of them."""
    return isinstance(value, (*_SIMPLE, list, dict)) or (not isinstance(value, nn.Module) and is_object(value))


def is_object(item: Any) -> bool:
    """Whether an item is of a class of the user's, with attributes."""
    kind = type(item)
    known = isinstance(item, type | Tensor | torch.distributions.Distribution)
    named = kind.__name__ == "SimpleNamespace" or kind.__module__.split(".")[0] not in _LIBRARIES
    return hasattr(item, "__dict__") and not known and not callable(item) and named


def _is_callable_object(item: Any) -> bool:
    """Whether it is an instance of a class of the user's that is called as a program."""
    kind = type(item).__module__.split(".")[0]
    return callable(item) and not isinstance(item, type) and hasattr(item, "__dict__") and kind not in _LIBRARIES


def _unregistered(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Lists and dictionaries of a module's parts, whose tensors are none of its parameters."""
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if not key.startswith("_") and isinstance(value, list | tuple | dict) and value:
                yield f"{name}.{key}".lstrip("."), value


def _of_function(function: FunctionType, hints: _Hints) -> Iterator[tuple[str, Any, int]]:
    hints.variables.extend(_settings(function))
    if hasattr(function, "__wrapped__"):
        yield "", function.__wrapped__, 0
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # a variable that is not assigned yet
            continue
        if isinstance(value, nn.Module | Tensor):
            hints.objects.setdefault(name, value)
        yield name, value, 0
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    yield from ((name, value, 1) for name, value in zip(names[len(names) - len(defaults) :], defaults, strict=True))
    yield from ((key, value, 1) for key, value in (function.__kwdefaults__ or {}).items())
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType):
            if value.__module__ == function.__module__:  # a helper in the same script, not one of a library
                yield "", value, 1
        elif isinstance(value, nn.Module | Tensor):
            hints.objects.setdefault(name, value)


def _names(code: CodeType) -> Iterator[str]:
    """The names that code and the functions within it refer to."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
