"""Modules in files of safetensors: weights, and how the module was constructed."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae._core.checks import arguments_of, check_arguments, refusal, require, shown
from pyro_vae._core.contexts import default_dtype, isolated_rng
from pyro_vae._core.differences import first_difference, same_values
from pyro_vae._core.weights import read_weights, write_weights

_FORMAT = "1"
_CONSTRUCTION, _ARGUMENT, _BUFFER = "construction", ".argument.", ".buffer."  # no name of a tensor begins with a dot
_PLAIN = (bool, int, float, str, type(None))
_OWN = ("pyro_vae.", "torch.nn.")
_FACTORIES = ("pyro_vae.networks.conditioned.build_with_context",)  # functions that a file may call
_ADVICE = "Save vae.state_dict() instead"

S = TypeVar("S", bound="SavedModule")


class SavedModule:
    """Mixin of models that are written to a file with their construction, and read without executing code from it."""

    def save(self: Any, path: str | Path, *, overwrite: bool = False) -> None:
        """Write weights and construction to one file of safetensors, atomically; :meth:`load` reads it.

        Args:
            path: the file, whose folder must exist.
            overwrite: replace an existing file.

        Raises:
            FileExistsError: the file exists and ``overwrite`` is False.
            ValueError: a part cannot be constructed again: an argument is a function without a name, or an object that
                is no module; or attributes were changed after the construction.

        Example:
            >>> import tempfile
            >>> from pyro_vae.models import AutoregressiveModel
            >>> from pyro_vae.networks import MaskedMLP
            >>> file = tempfile.mkdtemp() + "/model.safetensors"
            >>> AutoregressiveModel((4,), net=MaskedMLP).save(file)
            >>> AutoregressiveModel.load(file).data_shape
            (4,)
        """
        check_arguments(SavedModule.save, {"path": path, "overwrite": overwrite}, "save")
        arguments: dict[str, Tensor] = {}
        described, tensors = _Description(arguments).of(self), self.state_dict()
        require(not any(t.is_meta for t in tensors.values()), "save", "tensors must hold values", "device meta")
        try:
            rebuilt = _build(described, arguments, None, tensors)
        except Exception as error:
            rule = "the constructors must accept their arguments again"
            raise refusal("save", rule, f"{type(error).__name__}: {error}".splitlines()[0], _ADVICE) from error
        buffers = _set_later(self, rebuilt)
        _set_buffers(rebuilt, buffers)
        if name := first_difference(self, rebuilt, self.state_dict(keep_vars=True).values()):
            rule = "attributes must be those of the construction"
            raise refusal("save", rule, f"another {name}", f"Pass them to the constructor. {_ADVICE}")
        weights = {name: tensor for name, tensor in tensors.items() if name not in buffers}
        for prefix, others in ((_ARGUMENT, arguments), (_BUFFER, buffers)):
            weights |= {prefix + name: tensor for name, tensor in others.items()}
        frozen = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        text = json.dumps({"module": described, "frozen": frozen})
        write_weights(Path(path), weights, {"format": _FORMAT, _CONSTRUCTION: text}, overwrite=overwrite)

    @classmethod
    def load(cls: type[S], path: str | Path, *, trust: Iterable[str] = ()) -> S:
        """Read a model that :meth:`save` wrote.

        Args:
            path: the file.
            trust: packages of the user whose classes the file may name; importing them runs their code.

        Returns:
            The model in eval mode, on the CPU.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is damaged, or holds a model of another class or a class that is not trusted.
        """
        check_arguments(SavedModule.load, {"path": path, "trust": trust}, "load")
        weights, described = _read(Path(path))
        arguments, buffers = _taken(weights, _ARGUMENT), _taken(weights, _BUFFER)
        try:
            with torch.inference_mode(False):
                module = _build(described["module"], arguments, tuple(trust), weights)
                module.load_state_dict(weights)
                _set_buffers(module, buffers)
            frozen = set(described["frozen"])
        except ValueError:
            raise
        except Exception as error:
            raise _unreadable(path, repr(error)) from None
        require(isinstance(module, cls), "load", f"{path} must hold a {cls.__name__}", type(module).__name__)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return module.eval()


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the tensors whose name has a prefix, and return them without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in [*tensors] if name.startswith(prefix)}


def _set_buffers(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, tensor in buffers.items():
        path, _, key = name.rpartition(".")
        holder = module.get_submodule(path)._buffers
        if key not in holder:
            raise KeyError(name)
        holder[key] = tensor.detach().clone()


def _set_later(module: nn.Module, rebuilt: nn.Module) -> dict[str, Tensor]:
    """Buffers that neither construction nor weights give again: set later, such as units, or changed."""
    buffers, kept = {}, rebuilt.state_dict()
    parts = dict(rebuilt.named_modules(remove_duplicate=False))
    for path, part in module.named_modules(remove_duplicate=False):
        constructed = parts[path]._buffers if path in parts else {}
        for key, tensor in part._buffers.items():
            name, other = f"{path}.{key}".lstrip("."), constructed.get(key)
            if tensor is None or key not in constructed or name in kept:
                continue
            if other is None or other.dtype != tensor.dtype or not same_values(tensor, other):
                buffers[name] = tensor
    return buffers


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        weights, metadata = read_weights(path)
        known = metadata.get("format") == _FORMAT and _CONSTRUCTION in metadata
        if not known:
            raise ValueError("weights without a construction")
        return weights, dict(json.loads(metadata[_CONSTRUCTION]))
    except OSError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | Path, error: object) -> ValueError:
    line = (str(error).splitlines() or [""])[0][:120]
    return refusal("load", f"{path} must be a whole file that save wrote", f"another ({line})", "Restore a copy")


class _Description:
    """Descriptions in JSON of values that constructors got; tensors are collected in ``tensors``."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._numbers: dict[int, int] = {}  # of objects that were described, in their order

    def of(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, list):
            return [self.of(part) for part in value]
        if isinstance(value, tuple):
            return {"tuple": [self.of(part) for part in value]}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: self.of(part) for key, part in value.items()}}
        if isinstance(value, partial):
            called, args = _unwrapped(value)
            return {"partial": _path_of(called), **self._arguments(args, value.keywords)}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, type) or inspect.isfunction(value):
            return {"name": _path_of(value)}
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if id(value) in self._numbers:
            return {"same": self._numbers[id(value)]}
        if isinstance(value, Tensor):
            name = str(len(self.tensors))
            self.tensors[name] = value
            described = {"tensor": name}
        else:
            given = arguments_of(value)
            if given is None:
                rule = "arguments of constructors must be numbers, text, tensors, classes, or modules of this package"
                raise refusal("save", rule, shown(value), _ADVICE)
            described = {"class": _path_of(type(value)), **self._arguments(*given)}
        self._numbers[id(value)] = len(self._numbers)
        return described

    def _arguments(self, args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
        return {"args": [self.of(a) for a in args], "options": {name: self.of(v) for name, v in options.items()}}


def _unwrapped(value: partial[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Callable and arguments of a partial: the command line's parser calls a class by functions of its own."""
    function, *args = value.func, *value.args
    while args and getattr(function, "__module__", "").startswith("jsonargparse."):
        function, *args = args
    return function, tuple(args)


def _path_of(value: Any) -> str:
    """The import path of a class or function, which of this package is that of the folder that exports it."""
    name = getattr(value, "__qualname__", "")
    module = getattr(value, "__module__", None) or ""
    importable = name.isidentifier() and module not in ("", "__main__")
    rule = "arguments of constructors must be classes and functions that can be imported"
    got = f"{module}.{name}" if name else shown(value)
    require(importable, "save", rule, got, "Use a class, or functools.partial of one")
    folder = module.rpartition(".")[0]
    is_exported = module.startswith("pyro_vae.") and getattr(import_module(folder), name, None) is value
    return f"{folder if is_exported else module}.{name}"


def _build(
    described: Any, tensors: dict[str, Tensor], trust: tuple[str, ...] | None, weights: dict[str, Tensor]
) -> Any:
    """The module of a description on the CPU, of the dtype of its weights; the same at each call."""
    floats = [tensor.dtype for tensor in weights.values() if tensor.is_floating_point()]
    dtype = floats[0] if floats else torch.get_default_dtype()
    with isolated_rng(0), default_dtype(dtype), torch.device("cpu"):
        module = _Construction(tensors, trust).of(described)
        return module.to(dtype) if isinstance(module, nn.Module) else module


class _Construction:
    """Values from their descriptions: nothing is called but classes of modules, and what the user trusts; None is all.

    Args:
        tensors: those that were collected.
        trust: packages.
    """

    def __init__(self, tensors: dict[str, Tensor], trust: tuple[str, ...] | None) -> None:
        self.tensors, self.trust = tensors, trust
        self._objects: list[Any] = []

    def of(self, described: Any) -> Any:
        if isinstance(described, list):
            return [self.of(part) for part in described]
        if not isinstance(described, dict):
            return described
        kind = next(iter(described), "")
        value = described[kind]
        if kind == "tuple":
            return tuple(self.of(part) for part in value)
        if kind == "dict":
            return {key: self.of(part) for key, part in value.items()}
        if kind == "same":
            return self._objects[value]
        if kind == "dtype":
            return getattr(torch, value)
        if kind == "name":
            return self._named(value)
        if kind == "tensor":
            self._objects.append(self.tensors[value])
            return self._objects[-1]
        args = [self.of(part) for part in described["args"]]
        options = {name: self.of(part) for name, part in described["options"].items()}
        if kind == "partial":
            return partial(self._named(value), *args, **options)
        self._objects.append(self._class(value)(*args, **options))
        return self._objects[-1]

    def _class(self, path: str) -> type[nn.Module]:
        value = self._named(path)
        is_class = isinstance(value, type) and issubclass(value, nn.Module)
        require(is_class, "load", "the file must construct modules only", repr(path[:80]))
        return cast(type[nn.Module], value)

    def _named(self, path: str) -> Any:
        """A class of a module of this package or of torch, or a class or function of a package that is trusted."""
        package, (module, _, name) = path.split(".")[0], path.rpartition(".")
        own = re.fullmatch(r"(pyro_vae|torch\.nn)(\.\w+)+", path) is not None
        if not own and self.trust is not None and package not in self.trust:
            rule, advice = "the file must name only classes of pyro_vae", f"If you trust it, pass trust=['{package}']"
            raise refusal("load", rule, repr(path[:80]), advice)
        require("__main__" not in path, "load", "the file must name no script", repr(path[:80]))
        value = getattr(import_module(module), name)
        origin = f"{getattr(value, '__module__', '')}."
        if own:
            is_module = isinstance(value, type) and issubclass(value, nn.Module) and origin.startswith(_OWN)
            rule = "the file must name only classes of modules"
            require(is_module or path in _FACTORIES, "load", rule, repr(path[:80]))
        else:  # not what its modules import from others
            rule = "the file must name only classes and functions that the package itself defines"
            require(origin.startswith(f"{package}."), "load", rule, repr(path[:80]))
        return value
