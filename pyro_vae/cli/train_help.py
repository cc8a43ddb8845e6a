"""Help on the options of a training, made from the signatures and docstrings of what they configure."""

from __future__ import annotations

import json
from argparse import Action
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from pyro_vae._core.checks import check_choice, require
from pyro_vae.experiments.components import KINDS, add_component, find_component
from pyro_vae.experiments.experiment import parser


class _Formatter(DefaultHelpFormatter):
    """The sentence of an option, then the classes to choose from and the default."""

    def add_arguments(self, actions: Iterable[Action]) -> None:
        redundant = "Path to a configuration file."
        super().add_arguments(a for a in actions if not a.dest.endswith("help") and a.help != redundant)

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        return "CLASS" if _last(action.dest) in KINDS else _last(action.dest).upper()

    def _get_help_string(self, action: Action) -> str:
        sentence = (action.help or "").replace("``", "").replace("%", "%%").rstrip(".")
        kind = KINDS.get(_last(action.dest))
        classes = kind.names() if kind else []
        choices = f": {', '.join(classes)}" if len(classes) > 1 else ""
        return f"{sentence}{choices}{'' if action.default is None else f' (default {_shown(action.default)})'}"


def _shown(default: Any) -> str:
    if isinstance(default, dict):
        return _last(default["class_path"])
    return json.dumps(default) if isinstance(default, bool | tuple) else str(default)


def _last(dotted: str) -> str:
    return dotted.rsplit(".", 1)[-1]


def format_options() -> str:
    """The options of a training."""
    _, _, body = _format(parser()).partition("\n")
    return f"training options:\n{body}"


def format_component(option: str, name: str = "") -> str:
    """The options of a component, such as those of ``--guide IAFGuide``.

    Raises:
        ValueError: the option does not choose a class, or none of this name.
    """
    kind = _last(option)
    check_choice("pyro-vae train", "an option that chooses a class", kind, KINDS)
    require(
        name != "", f"--{option}.help", "must come with a class", "none", f"Add one of {', '.join(KINDS[kind].names())}"
    )
    component = find_component(kind, name, option=f"--{option}")
    options = ArgumentParser()
    add_component(options, kind, component, nested_key=option)
    return f"--{option} {component.__name__}\n{_format(options)}"


def _format(options: ArgumentParser) -> str:
    options.usage, options.formatter_class = "", _Formatter
    _, _, body = options.format_help().strip("\n").partition("\n\n")
    return body
