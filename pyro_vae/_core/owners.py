"""The modules that own the parameters and buffers of Pyro programs.

Training, saving, moving and switching to eval mode all need the modules behind a model or a guide, however the program
is written. :class:`Owners` collects them by name: at construction by following the program's references
(:mod:`pyro_vae._core.references`), and while the program runs by hooks that observe which modules are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae._core.references import PLAIN_TYPES, FunctionVariables, describe_code, referenced_modules
from pyro_vae._core.types import Program

_TORCH_KEYS = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training", "call_super_init"}


class Wrapper(nn.Module):
    """A module of this package through which a program runs with the tensors of other modules; it owns none."""


class Owners:
    """The modules that programs use, by name, in the order in which they are found.

    A program may be a module, a method of one, a function that refers to modules in its closure, a
    ``functools.partial`` or a wrapper of Pyro's around any of these. Modules that functions take from their globals are
    added when the programs first call them, within :meth:`evaluating` or :meth:`noticing`.

    Args:
        programs: by name, such as ``model=vae.model, guide=vae.guide``; None is skipped.

    Attributes:
        modules: by name; a program that is a module, or a method of one, gives the module its own name.

    Example:
        >>> from functools import partial
        >>> decoder = nn.Linear(2, 3)
        >>> list(Owners(model=decoder).modules), list(Owners(model=partial(decoder.forward)).modules)
        (['model'], ['model'])
    """

    def __init__(self, **programs: Program | None) -> None:
        self.modules: dict[str, nn.Module] = {}
        self._known: dict[int, ref[nn.Module]] = {}  # by id, which another module may get after the first is freed
        self._called: set[str] = set()  # names of modules that were added when a program called them
        self._variables = FunctionVariables({}, [], [])
        for name, program in programs.items():
            if program is not None:
                for path, module in referenced_modules(program, self._variables):
                    self._add(f"{name}.{path}" if path else name, module)

    def _add(self, name: str, module: nn.Module) -> None:
        while name in self.modules and self.modules[name] is not module:
            name += "_"
        self.modules[name] = module
        self._remember(module.modules())

    def _remember(self, modules: Iterable[nn.Module]) -> None:
        self._known.update((id(module), ref(module)) for module in modules)

    def _knows(self, module: nn.Module) -> bool:
        reference = self._known.get(id(module))
        return reference is not None and reference() is module

    def submodules(self) -> list[nn.Module]:
        """All modules with all of their submodules."""
        return [submodule for module in self.modules.values() for submodule in module.modules()]

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
        """Device and dtype of the first parameter; None for programs without parameters."""
        objects = self._variables.objects.values()
        in_variables = [p for m in objects if isinstance(m, nn.Module) for p in m.parameters()]
        tensors = [t for t in objects if isinstance(t, Tensor) and t.is_floating_point()]
        first = next(iter([*self.parameters(), *in_variables, *tensors]), None)
        return (None, None) if first is None else (first.device, first.dtype)

    @property
    def variables(self) -> list[tuple[str, Any, str]]:
        """Variables of the programs' functions that hold plain values: name, cell or dictionary, key."""
        return self._variables.plain

    def all_tensors(self) -> list[Tensor]:
        """The tensors of the modules and of the variables of the programs' functions, each once."""
        values = self._variables.objects.values()
        modules = [value for value in values if isinstance(value, nn.Module)]
        held = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        return _unique([*self.tensors(), *held, *(value for value in values if isinstance(value, Tensor))])

    def code(self) -> list[Any]:
        """Classes of the modules, and code of the programs' functions and of the users' classes; for fingerprints."""
        kinds = [f"{type(m).__module__}.{type(m).__qualname__}" for m in self.submodules()]
        return [kinds, *(describe_code(code) for code in self._variables.code)]

    @property
    def names_functions(self) -> bool:
        """Whether the programs include functions, which may use modules and tensors without calling a module."""
        return bool(self._variables.objects)

    def disown(self, *programs: Program | None) -> None:
        """Do not notice the modules of these programs, which an evaluation has built from the others."""
        self._remember(_owners(program for program in programs if program is not None).submodules())

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Add the modules in variables of the programs' functions that hold one of the tensors."""
        known = {id(p) for p in self.parameters()}
        for tensor in (t for t in tensors if id(t) not in known):
            for name, value in self._variables.objects.items():
                if isinstance(value, nn.Module) and any(p is tensor for p in value.parameters()):
                    self._add(name, value)
                    break

    def name_of(self, tensor: Tensor) -> str | None:
        """The variable in which a program's function holds a tensor that belongs to no module; None if unknown."""
        return next((name for name, value in self._variables.objects.items() if value is tensor), None)

    def kept(self) -> dict[str, nn.Module]:
        """The modules that training may change: all except frozen ones that only a call revealed."""
        return {name: m for name, m in self.modules.items() if name not in self._called or _may_change(m)}

    def training(self, mode: bool) -> None:
        """Set train or eval mode; a module whose parameters are all frozen stays in its current mode."""
        for module in self.modules.values():
            parameters = list(module.parameters())
            if not parameters or any(p.requires_grad for p in parameters):
                module.train(mode)

    @contextmanager
    def noticing(self, on_call: Callable[[nn.Module], None] = lambda module: None) -> Iterator[None]:
        """Context that adds modules which are called and not in the list yet; ``on_call`` receives each once."""

        def notice(module: nn.Module, args: Any) -> None:
            if not self._knows(module) and not isinstance(module, torch.jit.ScriptModule | Wrapper):
                contained = any(module is submodule for submodule in self.submodules())
                name, owner = ("", module) if contained else self._owner_of(module)
                self._remember([module])
                if not contained:
                    self._add(name, owner)
                    self._called.add(name)
                on_call(owner)

        handle = register_module_forward_pre_hook(notice)
        try:
            yield
        finally:
            handle.remove()

    def _owner_of(self, module: nn.Module) -> tuple[str, nn.Module]:
        """The global variable whose module is, or contains, the given one."""
        for name, value in self._variables.objects.items():
            if isinstance(value, nn.Module) and any(module is submodule for submodule in value.modules()):
                return name, value
        return type(module).__name__, module

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context in eval mode and without gradients, which restores the mode of every module."""
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
        """Context that restores buffers and plain attributes (numbers, strings) of the modules."""
        buffers: list[tuple[Tensor, Tensor]] = []
        attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []

        def store(owner: nn.Module) -> None:
            buffers.extend((buffer, buffer.clone()) for buffer in owner.buffers())
            attributes.extend((vars(module), _plain_attributes(module)) for module in owner.modules())

        for owner in list(self.modules.values()):
            store(owner)
        try:
            with self.noticing(store):
                yield
        finally:
            with torch.no_grad():
                for buffer, value in reversed(buffers):
                    # A lazy buffer may have got its shape meanwhile; captured graphs need the same tensor object.
                    if buffer.shape == value.shape and not torch.equal(buffer, value):
                        buffer.copy_(value)
            for values, before in reversed(attributes):
                values.update({k: v for k, v in before.items() if type(values.get(k)) in PLAIN_TYPES})


@contextmanager
def perturbed(owners: Owners) -> Iterator[None]:
    """Context in which parameters and batch-normalisation statistics change by up to 20%; zeros become nonzero."""
    statistics = [
        buffer
        for module in owners.submodules()
        if isinstance(module, _BatchNorm)
        for buffer in module.buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    tensors = [*owners.parameters(), *statistics]
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                noise = torch.rand_like(value)
                # Through .data, so that autograd graphs that hold the tensor do not count a modification.
                tensor.data.copy_(torch.where(value == 0, 0.2 * noise - 0.1, value * (0.8 + 0.4 * noise)))
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.data.copy_(value)


def evaluating(*programs: Program) -> Any:
    """Context: the programs' modules in eval mode and without gradients; their modes are restored afterwards."""
    return _owners(programs).evaluating()


def placement(*programs: Program) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and dtype of the programs' first parameter; None for programs without parameters."""
    return _owners(programs).placement()


def _owners(programs: Iterable[Program]) -> Owners:
    return Owners(**{f"program{i}": program for i, program in enumerate(programs)})


def _may_change(module: nn.Module) -> bool:
    """Whether training may change a tensor of the module: a trainable parameter, or a buffer in train mode."""
    moving = any(True for _ in module.buffers()) and any(submodule.training for submodule in module.modules())
    return moving or any(p.requires_grad for p in module.parameters())


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if type(v) in PLAIN_TYPES and k not in _TORCH_KEYS}


def _unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
