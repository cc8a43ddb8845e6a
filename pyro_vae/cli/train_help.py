"""Help on the options of a training, made from the signatures and docstrings of what they configure."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any

import docstring_parser

from pyro_vae._core.checks import check_choice, refusal
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.train_options import read_arguments
from pyro_vae.experiments.components import KINDS, component_parser, find_component
from pyro_vae.experiments.evaluation_options import plain_text
from pyro_vae.experiments.experiment import parser as training_parser
from pyro_vae.experiments.option_values import placeholder

_DEFAULT = re.compile(r"[.\s]*\(?default:.*", re.IGNORECASE)
_GROUPS = {
    "model": ("model", "latent_dim", "prior", "likelihood", "guide", "prior_guide", "init_at_mean", "model_from"),
    "data": ("data",),
    "training": (),  # all other options
    "evaluation": ("num_samples",),
    "semi-supervised model, with --model M2": ("classifier", "label_prior", "alpha", "m1"),
    "conditional model, with --model ConditionalVAE": ("score_seen",),
    "exact density, with --model AutoregressiveModel": ("net", "base"),
}


def format_options(argv: Sequence[str] = ()) -> str:
    """The options of a training in groups, then those of every component that the arguments choose.

    Raises:
        ValueError: an argument chooses a class that does not exist.
    """
    group_of = {name: title for title, names in _GROUPS.items() for name in names}
    parser = Parser(usage=argparse.SUPPRESS, add_help=False)
    groups = {title: parser.add_argument_group(title) for title in _GROUPS}
    for action in _options(training_parser()):
        _add(groups[group_of.get(action.dest, "training")], action, action.dest)
    chosen = read_arguments([word for word in argv if word not in ("-h", "--help")])
    names = {name: value for name, value in chosen if _last(name) in KINDS and isinstance(value, str)}
    return "\n".join([parser.format_help(), *(format_component(*choice) for choice in names.items())])


def format_component(option: str, name: str = "") -> str:
    """The options of a component, such as those of ``--guide IAFGuide``.

    Raises:
        ValueError: the option does not choose a class, or none of this name.
    """
    kind = _last(option)
    check_choice("pyro-vae train", "an option that chooses a class", kind, KINDS)
    if not name:
        advice = f"Add one of {', '.join(KINDS[kind].names())}"
        raise refusal(f"--{option}.help", "must come with a class", "none", advice)
    component = find_component(kind, name, option=f"--{option}")
    parser = Parser(usage=argparse.SUPPRESS, add_help=False)
    group = parser.add_argument_group(f"--{option} {component.__name__}", _summary(component))
    for action in _options(component_parser(kind, component)):
        _add(group, action, f"{option}.{action.dest}")
    return parser.format_help()


def _options(parser: Any) -> list[Any]:
    return [a for a in parser._actions if hasattr(a, "_typehint") and not a.dest.endswith(".help")]


def _add(group: argparse._ArgumentGroup, action: Any, name: str) -> None:
    """Add an option with its sentence, the classes to choose from and the default."""
    kind = KINDS.get(_last(name))
    classes = kind.names() if kind else []
    choices = f": {', '.join(classes)}" if len(classes) > 1 else ""
    default = " (required)" if action.required else "" if action.default is None else f" (default {_shown(action)})"
    sentence = _DEFAULT.sub("", plain_text(action.help or ""))  # in torch's texts, which name defaults themselves
    text = f"{sentence}{choices}{default}".strip()
    metavar = "CLASS" if kind else placeholder(action._typehint, _last(name))
    group.add_argument(f"--{name}", metavar=metavar, help=text.replace("%", "%%"))


def _shown(action: Any) -> str:
    default = action.default
    if isinstance(default, dict):
        return _last(default["class_path"])
    return json.dumps(default) if isinstance(default, bool | tuple | list) else str(default)


def _summary(component: Any) -> str:
    """The words of the docstring's first line, without its formula."""
    line = docstring_parser.parse(component.__doc__ or "").short_description or ""
    return plain_text(re.split(r"[,:]?\s*:math:", line)[0])


def _last(dotted: str) -> str:
    return dotted.rsplit(".", 1)[-1]
