"""Reading configurations that somebody else may have written."""

from __future__ import annotations

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
_WORD = re.compile(r"[\w+\- ]*|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PATHS = {"root", "out"}  # keys whose values are file names, never imported


def _classes(module: ModuleType | Any) -> list[str]:
    found = (getattr(module, name) for name in getattr(module, "__all__", dir(module)))
    return sorted(
        {c.__name__ for c in found if inspect.isclass(c) and get_origin(c) is None and not inspect.isabstract(c)}
    )


def _subclasses(names: Iterable[str], *excluded: str) -> list[str]:
    return sorted(name for name in names if name[0].isupper() and name not in excluded)


COMPONENTS: dict[str, list[str]] = {
    "data": [n for n in _classes(data) if n not in ("ImageSet", "Splits")],
    "prior": _classes(priors),
    "likelihood": _classes(likelihoods),
    "guide": _classes(guides),
    "net": _classes(networks),
    "objective": [n for n in _classes(objectives) if n.endswith("ELBO")],
    "beta": [n for n in _classes(objectives) if n.endswith(("Schedule", "WarmUp"))],
    "optimizer": _subclasses(torch.optim.__all__, "Optimizer"),
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
    except yaml.YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"{source}: must be YAML, got a syntax error ({first_line}). Correct the file.") from None
    if not isinstance(config, dict):
        raise ValueError(
            f"{source}: must map options to values, got {type(config).__name__}. Write lines `key: value`."
        )
    return {key: _checked(key, value, source, tuple(trust)) for key, value in config.items()}


def _checked(key: str, value: Any, source: str, trust: tuple[str, ...]) -> Any:
    if key in ("config", "resume"):
        raise ValueError(f"{source}: must not name another file, got key {key!r}. Remove the key.")
    if isinstance(value, dict):
        checked = {k: _checked(str(k), v, source, trust) for k, v in value.items()}
        if key in COMPONENTS and isinstance(checked.get("class_path"), str):
            checked["class_path"] = component_name(key, checked["class_path"])
        return checked
    if isinstance(value, list):
        return [_checked(key, item, source, trust) for item in value]
    if isinstance(value, str) and key not in _PATHS:
        _refuse_foreign(value, source, trust)
        return component_name(key, value) if key in COMPONENTS else value
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
