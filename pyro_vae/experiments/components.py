"""Components: the classes that a configuration chooses by name, and their options."""

from __future__ import annotations

import copy
import importlib
import inspect
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser
from torch.optim import lr_scheduler

from pyro_vae import data, guides, likelihoods, networks, objectives, priors
from pyro_vae._core.checks import refusal, require
from pyro_vae.data.sources import SUFFIXES
from pyro_vae.experiments.option_errors import similar, unknown_option
from pyro_vae.training import callbacks


@dataclass(frozen=True)
class Kind:
    """The classes that an option can name.

    Args:
        module: exports the classes.
        base: their base class.
        num_supplied: number of leading constructor arguments that the program supplies, such as latent_dim.
        excluded: names of classes that a configuration cannot describe or a training cannot use.
    """

    module: ModuleType | Any
    base: type
    num_supplied: int = 0
    excluded: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The names of the concrete classes, sorted."""
        exported = (getattr(self.module, name) for name in self.module.__all__)
        classes = {c for c in exported if inspect.isclass(c) and get_origin(c) is None and issubclass(c, self.base)}
        return sorted({c.__name__ for c in classes if not inspect.isabstract(c)} - {*self.excluded})


_INDESCRIBABLE = ("LRScheduler", "LambdaLR", "MultiplicativeLR", "ChainedScheduler", "SequentialLR")
KINDS = {
    "data": Kind(data, data.Dataset),
    "prior": Kind(priors, priors.Prior, 1),
    "likelihood": Kind(likelihoods, likelihoods.Likelihood, 2),
    "guide": Kind(guides, guides.Guide, 2),
    "prior_guide": Kind(guides, guides.Guide, 2),
    "classifier": Kind(guides, guides.CategoricalGuide, 2),
    "label_prior": Kind(priors, priors.CategoricalPrior, 1),
    "net": Kind(networks, torch.nn.Module, 2, ("ContextNetwork",)),
    "decoder": Kind(networks, networks.Network, 2),
    "discriminator": Kind(networks, networks.Network, 2),
    "ratio": Kind(networks, networks.Network, 2),
    "base": Kind(likelihoods, likelihoods.SiteLikelihood, 2),
    "objective": Kind(objectives, objectives.Objective, 0, ("PerceptualReconstruction",)),
    "beta": Kind(objectives, objectives.Schedule),
    "optimizer": Kind(torch.optim, torch.optim.Optimizer, 1, ("Optimizer", "LBFGS", "Muon", "SparseAdam")),
    "lr_schedule": Kind(lr_scheduler, lr_scheduler.LRScheduler, 1, _INDESCRIBABLE),
    "logger": Kind(callbacks, callbacks.Callback, 0, ("Callback", "OptunaPruner")),
}
"""The options that choose a class, by the last part of their name: ``net`` of ``--guide.net``."""


def assign(options: dict[str, Any], name: str, value: Any, *, parent: str = "--", owner: str = "") -> None:
    """Set an option in place; ``guide.net.hidden`` is an option of the guide's network.

    Args:
        options: all options by name, those of a component as ``{"class_path": ..., "init_args": {...}}``.
        name: of the option, dotted if it belongs to a component.
        value: text to be parsed, or a value; for a component see :func:`resolve`.
        parent: precedes the name in error messages.
        owner: the class whose options they are, for error messages.

    Raises:
        ValueError: no such option, or no such component.

    Example:
        >>> options = {"epochs": 3, "guide": resolve("guide", "iaf_guide")}
        >>> assign(options, "guide.net.hidden", [7])
        >>> options["guide"]["init_args"]["net"]["init_args"]["hidden"]
        [7]
    """
    first, _, rest = name.partition(".")
    if first not in options or (rest and first not in KINDS) or name.endswith("."):
        raise unknown_option(name, options, parent=parent, owner=owner)
    if first in KINDS:
        value = resolve(first, {rest: value} if rest else value, options[first], option=f"{parent}{first}")
    options[first] = value


def resolve(kind: str, value: Any, chosen: Any = None, *, option: str = "") -> Any:
    """Resolve a component name to its class path and default arguments, or set arguments of the class chosen before.

    With the defaults, no argument of the previously chosen class is kept if the new class has one of the same name:
    ``--data FreyFaces`` does not inherit ``binarize`` of ``Digits``.

    Args:
        kind: one of :data:`KINDS`.
        value: class name, in any case and with or without underscores; import path; ``class_path`` with ``init_args``;
            or arguments for the class chosen before. Text that begins with ``{`` is read as YAML; other text that does
            not begin like an identifier, numbers and None are returned unchanged.
        chosen: the component chosen before.
        option: precedes error messages.

    Raises:
        ValueError: no component of that kind has this name, it has no such argument, or no class is chosen yet.

    Example:
        >>> resolve("data", {"class_path": "frey_faces", "init_args": {"root": "data"}})["init_args"]["binarize"]
        'none'
    """
    option = option or f"--{kind}"
    if isinstance(value, str) and value[:1] == "{":
        with suppress(yaml.YAMLError):  # malformed YAML is reported by the parser
            value = yaml.safe_load(value)
    if isinstance(value, str) and kind == "data" and is_own_file(value):
        value = {"class_path": "Files", "init_args": {"root": value}}
    if isinstance(value, str) and value[:1].isidentifier():
        value = {"class_path": value, "init_args": {}}
    if not isinstance(value, dict):
        return value
    _check_mapping(value, option)
    if "class_path" in value:
        chosen = _default_component(kind, value["class_path"], option)
        value = value.get("init_args") or {}
    if not isinstance(chosen, dict):
        raise refusal(
            option, "a class must be chosen before its arguments", next(iter(value), "{}"), f"Add {option} CLASS"
        )
    component = copy.deepcopy(chosen)
    arguments = component.setdefault("init_args", {})
    for name, argument in value.get("init_args", value).items():
        assign(arguments, name, argument, parent=f"{option}.", owner=component["class_path"].rpartition(".")[2])
    return component


def _check_mapping(value: dict[Any, Any], option: str) -> None:
    """Require the form of a component, or a mapping of the arguments of the class chosen before."""
    is_named = "class_path" in value or "init_args" in value
    class_path, arguments = value.get("class_path", ""), value.get("init_args") or {}
    others = set(value) - {"class_path", "init_args"} if is_named else set()
    is_form = isinstance(class_path, str) and isinstance(arguments, dict) and not others
    has_names = all(isinstance(name, str) for name in (*value, *(arguments if is_form else ())))
    rule = "must hold only class_path, a name, and init_args, which map options to values"
    require(is_form and has_names, option, rule, value)


def is_own_file(name: str) -> bool:
    """Whether text given as the data set is the path of a file or folder, and no class."""
    path = Path(name).expanduser()
    if "/" in name or path.suffix.lower() in SUFFIXES or name in (".", "..", "~"):
        return True
    plain = name.replace("_", "").lower()
    return path.exists() and plain not in (known.lower() for known in KINDS["data"].names())


def find_component(kind: str, name: str, *, option: str = "") -> Any:
    """The class of a name, or the class or function at an import path.

    Raises:
        ValueError: no component of that kind has this name, the path cannot be imported, or what it names is neither a
            subclass of the kind's base nor a function that is annotated to return one.
    """
    if kind == "data" and is_own_file(name):
        return data.Files
    if "." not in name:
        return getattr(KINDS[kind].module, exact_name(kind, name, option=option))
    module, _, attribute = name.rpartition(".")
    try:
        component = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise refusal(option, f"{name} must be importable", str(error)) from None
    base, built = KINDS[kind].base, component
    if inspect.isfunction(component):
        built = get_type_hints(component).get("return")
    is_one = inspect.isclass(built) and issubclass(built, base)
    require(is_one, option, f"must be a {base.__name__}, or a function annotated to return one", name)
    return component


def exact_name(kind: str, name: str, *, option: str = "") -> str:
    """The exact class name for a name in any case, with or without underscores.

    Raises:
        ValueError: no component of that kind has this name.

    Example:
        >>> exact_name("data", "frey_faces")
        'FreyFaces'
    """
    plain = name.replace("_", "").lower()
    matches = [known for known in KINDS[kind].names() if known.lower() == plain]
    if not matches:
        raise unknown_class(kind, name, option or kind)
    return matches[0]


def unknown_class(kind: str, name: str, option: str) -> ValueError:
    """The error for text that names no class of a kind."""
    names = KINDS[kind].names()
    if likely := similar(name, names):
        return ValueError(f"{option}: unknown class {name}; did you mean {likely}?")
    advice = "Choose one of these, or give the import path of your own class"
    return refusal(option, f"must be one of {', '.join(names)}", name, advice)


def add_component(parser: ArgumentParser, kind: str, component: Any, *, nested_key: str | None = None) -> None:
    """Add the arguments of a component to a parser, except those that the program supplies."""
    add = parser.add_class_arguments if inspect.isclass(component) else parser.add_function_arguments
    add(component, nested_key, skip={KINDS[kind].num_supplied}, fail_untyped=False)


@cache
def component_parser(kind: str, component: Any) -> ArgumentParser:
    """A parser of the arguments of a component, except those that the program supplies."""
    parser = ArgumentParser(exit_on_error=False)
    add_component(parser, kind, component)
    return parser


@cache
def _default_component(kind: str, name: str, option: str) -> dict[str, Any]:
    """Class path and default arguments; an argument without a default is None."""
    component = find_component(kind, name, option=option)
    path = f"{component.__module__}.{component.__qualname__}"
    return {"class_path": path, "init_args": component_parser(kind, component).get_defaults().as_dict()}
