"""Reading configurations that somebody else may have written."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from types import ModuleType
from typing import Any, get_origin

import torch
import yaml

from pyro_vae import data, guides, likelihoods, networks, objectives, priors

# What a configuration may name: public-looking classes of this package, torch's optimizers and their schedules.
_OWN = re.compile(r"pyro_vae(\.[a-z_0-9]+)*\.[A-Z]\w*|torch\.optim(\.lr_scheduler)?\.[A-Z]\w*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(rf"[\w+\- ]*|{_NUMBER.pattern}")
_PATHS = {"root", "out", "model_from", "m1"}  # keys whose values are file names, never imported


# Where the classes of each kind live, and how many arguments come from the program (latent_dim, data_shape, ...).
_HOMES: dict[str, Any] = {
    **{
        "data": data,
        "prior": priors,
        "likelihood": likelihoods,
        "guide": guides,
        "prior_guide": guides,
        "classifier": guides,
        "label_prior": priors,
        "net": networks,
    },
    **{"objective": objectives, "beta": objectives, "optimizer": torch.optim, "lr_schedule": torch.optim.lr_scheduler},
}
_POSITIONAL = {
    **{"prior": 1, "likelihood": 2, "guide": 2, "prior_guide": 2, "net": 2, "optimizer": 1, "lr_schedule": 1},
    **{"classifier": 2, "label_prior": 1},
}


def _classes(module: ModuleType | Any) -> list[str]:
    found = (getattr(module, name) for name in getattr(module, "__all__", dir(module)))
    return sorted(
        {c.__name__ for c in found if inspect.isclass(c) and get_origin(c) is None and not inspect.isabstract(c)}
    )


def _subclasses(names: Iterable[str], *excluded: str) -> list[str]:
    return sorted(name for name in names if name[0].isupper() and name not in excluded)


COMPONENTS: dict[str, list[str]] = {
    "data": [n for n in _classes(data) if issubclass(getattr(data, n), data.Dataset)],
    "prior": _classes(priors),
    "likelihood": _classes(likelihoods),
    "guide": _classes(guides),
    "prior_guide": _classes(guides),
    "classifier": [n for n in _classes(guides) if issubclass(getattr(guides, n), guides.CategoricalGuide)],
    "label_prior": [n for n in _classes(priors) if issubclass(getattr(priors, n), priors.CategoricalPrior)],
    "net": [n for n in _classes(networks) if issubclass(getattr(networks, n), networks.Network)],
    "objective": [n for n in _classes(objectives) if issubclass(getattr(objectives, n), objectives.Objective)],
    "beta": [n for n in _classes(objectives) if issubclass(getattr(objectives, n), objectives.Schedule)],
    "optimizer": _subclasses(torch.optim.__all__, "Optimizer", "LBFGS", "SparseAdam"),
    "lr_schedule": _subclasses(torch.optim.lr_scheduler.__all__, "LRScheduler", "LambdaLR", "MultiplicativeLR"),
}


def component_name(kind: str, value: str) -> str:
    """The class name that is meant: case and underscores do not matter, a dotted import path is taken as it is.

    Args:
        kind: key of the option, such as ``"guide"``.
        value: what was given.

    Raises:
        ValueError: no component of that kind has this name.

    Example:
        >>> component_name("data", "frey_faces"), component_name("beta", "0.5")
        ('FreyFaces', '0.5')
    """
    if "." in value or value[:1] in "{[0123456789" or value in ("null", ""):
        return value
    names = {_plain(name): name for name in COMPONENTS[kind]}
    if _plain(value) not in names:
        raise ValueError(
            f"{kind}: must be one of {', '.join(COMPONENTS[kind])}, got {kind}={value!r}. "
            "Pick one of these, or give the import path of a class of your own."
        )
    return names[_plain(value)]


def component(kind: str, value: str, given: dict[str, Any] | None = None) -> Any:
    """The class that is meant, with every option that is not given at this class's own default.

    Left to itself, the parser would keep what the options of the class chosen before, the default one, have in common
    with this one's: Frey Faces would be binarized as the digits are.

    Args:
        kind: key of the option, such as ``"guide"``.
        value: name or import path of the class; anything else is returned as it is.
        given: options given together with it.

    Example:
        >>> component("data", "frey_faces", {"root": "data"})["init_args"]["binarize"]
        'none'
    """
    name = component_name(kind, value)
    found = _find(kind, name)
    if found is None:
        return name if given is None else {"class_path": name, "init_args": given}
    return {
        "class_path": f"{found.__module__}.{found.__qualname__}",
        "init_args": {**_defaults(kind, found), **(given or {})},
    }


def _find(kind: str, name: str) -> type | None:
    if "." in name and not _NUMBER.fullmatch(name):
        module, _, attribute = name.rpartition(".")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            return None  # the parser says what is wrong with it
    return getattr(_HOMES[kind], name, None) if name in COMPONENTS[kind] else None


def _defaults(kind: str, found: type) -> dict[str, Any]:
    parameters = list(inspect.signature(found).parameters.values())[_POSITIONAL.get(kind, 0) :]
    return {p.name: _plain_default(p.name, p.default) for p in parameters if _is_plain(p.default)}


def _plain_default(name: str, default: Any) -> Any:
    if inspect.isclass(default):
        return {"class_path": f"{default.__module__}.{default.__qualname__}", "init_args": _defaults(name, default)}
    return list(default) if isinstance(default, tuple) else default


def _is_plain(default: Any) -> bool:
    if inspect.isclass(default):
        return default is not inspect.Parameter.empty
    return default is None or isinstance(default, bool | int | float | str | tuple)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def load_config(text: str, source: str, *, trust: Iterable[str] = ()) -> dict[str, Any]:
    """Parse a YAML configuration and refuse whatever would import code from elsewhere.

    Args:
        text: the YAML.
        source: its name, for messages.
        trust: packages whose classes may be named too; importing them runs their code.

    Returns:
        The configuration, component names in their exact form.

    Raises:
        ValueError: not a mapping, or it names something outside this package and torch's optimizers.
    """
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"{source}: must be YAML, got a syntax error ({first_line}). Correct the file.") from None
    if not isinstance(config, dict):
        raise ValueError(
            f"{source}: must map options to values, got {type(config).__name__}. Write lines `key: value`."
        )
    try:
        return {_key(key, source): _checked(str(key), value, source, tuple(trust)) for key, value in config.items()}
    except RecursionError:
        raise ValueError(f"{source}: must not contain itself, got an endless nesting. Correct the file.") from None


def _key(key: Any, source: str) -> str:
    if not isinstance(key, str) or not key.isidentifier():
        raise ValueError(f"{source}: must have plain words as keys, got {str(key)[:80]!r}. Correct the file.")
    return key


def _checked(key: str, value: Any, source: str, trust: tuple[str, ...]) -> Any:
    if key in ("config", "resume"):
        raise ValueError(f"{source}: must not name another file, got key {key!r}. Remove the key.")
    if isinstance(value, dict):
        checked = {_key(k, source): _checked(str(k), v, source, trust) for k, v in value.items()}
        if key in COMPONENTS and isinstance(checked.get("class_path"), str):
            return component(key, checked["class_path"], checked.get("init_args") or {})
        return checked
    if isinstance(value, list):
        return [_checked(key, item, source, trust) for item in value]
    if isinstance(value, str) and key not in _PATHS:
        _refuse_foreign(value, source, trust)
        return component(key, value) if key in COMPONENTS else value
    if not isinstance(value, str | bool | int | float | None):
        raise ValueError(f"{source}: must hold text and numbers, got a {type(value).__name__} at {key!r}. Correct it.")
    return value


def _refuse_foreign(value: str, source: str, trust: tuple[str, ...]) -> None:
    if _WORD.fullmatch(value) or _OWN.fullmatch(value):
        return
    root = value.split(".")[0]
    if root in trust and re.fullmatch(r"[\w.]+", value):
        return
    raise ValueError(
        f"{source}: must name only classes of pyro_vae and torch.optim, got {value!r}. "
        f"Importing others runs their code: if you trust it, add --trust {root if root.isidentifier() else 'PACKAGE'}."
    )
