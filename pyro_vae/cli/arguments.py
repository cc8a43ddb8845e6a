"""Parsing of command-line arguments."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, ClassVar, NoReturn

from pyro_vae._core.checks import refusal
from pyro_vae.experiments.option_errors import check_size, unknown_option, wrong_choice

_WIDTH = 100
_TYPES = {"int": "an integer", "float": "a number"}


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations that raises its errors, each one line; its help has 100 columns."""

    _collected: ClassVar[list[Parser] | None] = None

    @classmethod
    @contextmanager
    def collected(cls) -> Iterator[list[Parser]]:
        """Context whose list holds the parsers that are constructed in it."""
        cls._collected = []
        try:
            yield cls._collected
        finally:
            cls._collected = None

    def __init__(self, **options: Any) -> None:
        if Parser._collected is not None:
            Parser._collected.append(self)
        width = min(_WIDTH, shutil.get_terminal_size().columns)
        formatter = partial(argparse.HelpFormatter, width=width)
        super().__init__(**{"allow_abbrev": False, "formatter_class": formatter, **options})

    def error(self, message: str) -> NoReturn:
        option, value = _argument(message)
        if "expected" in message and option:
            raise refusal(option, "must have a value", "none", f"See {self.prog} --help")
        if type_ := re.search(r"invalid (\w+) value", message):
            raise refusal(option, f"must be {_TYPES.get(type_[1], type_[1])}", value)
        if "invalid choice" in message:
            raise wrong_choice(option, value, self._choices(option))
        raise ValueError(f"{self.prog}: {message[:200]}. See {self.prog} --help.")

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse arguments, options and names of files in any order."""
        parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        if unknown and unknown[0].startswith("-"):
            raise unknown_option(unknown[0].split("=")[0], self._option_string_actions, parent="")
        if unknown:
            self.error(f"unexpected argument {unknown[0]}")
        for action in self._actions:
            check_size([action.dest, *action.option_strings][-1], getattr(parsed, action.dest, None))
        return parsed

    def _choices(self, option: str) -> Sequence[Any]:
        actions = {
            name: action for action in self._actions for name in (*action.option_strings, action.metavar, action.dest)
        }
        return list(actions[option].choices or ())


def check_values(argv: Sequence[str]) -> None:
    """Require every argument to have a text.

    Raises:
        ValueError: one is empty, as after a shell's variable that is not set; it names the option.
    """
    for before, argument in zip(("", *argv), argv, strict=False):
        option, has_value, value = argument.partition("=")
        if not argument or (has_value and not value and option.startswith("--")):
            name = option or (before if before.startswith("--") else "pyro-vae")
            raise refusal(name, "must not be empty", "''", "Check that the variables of the shell are set")


def names_first(argv: Sequence[str]) -> list[str]:
    """Arguments with those that are no options moved to the front, if every option but --help has one value.

    Example:
        >>> names_first(["--guide", "IAFGuide", "run", "--seed=3"])
        ['run', '--guide', 'IAFGuide', '--seed=3']
    """
    names, options, arguments = [], [], iter(argv)
    for argument in arguments:
        if not argument.startswith("-"):
            names.append(argument)
            continue
        options.append(argument)
        if "=" not in argument and argument not in ("-h", "--help"):
            options.extend(islice(arguments, 1))
    return names + options


def _argument(message: str) -> tuple[str, str]:
    """Name and value of the argument that argparse rejects."""
    name = re.match(r"argument ([^\s:]+)", message)
    value = re.search(r"value: '?(.*?)'?$|choice: '?(.*?)'? \(", message)
    return name[1] if name else "", next(filter(None, value.groups()), "") if value else ""
