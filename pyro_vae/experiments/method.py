"""What a method of evaluation is on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro_vae.evaluation import Result
from pyro_vae.experiments.trained_model import TrainedModel

Options = dict[str, Any]


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Args:
        name: without the dashes.
        default: what it is if it is not given.
        help: what it means.
        choices: the words it may be; any value of the default's type where there are none.
        mark: how another value than the default shows in the names of files; it does not where this is empty.
        type: of the value, where the default has not the same.
    """

    name: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    mark: str = ""
    type: Callable[[str], Any] | None = None


@dataclass(frozen=True)
class Method:
    """A method of

    Args:
        name: on the command line.
        summary: what it finds, for the help.
        stem: what a file's name says besides split, seed and number of data; a format over the options.
        options: those that mean something to it.
        run: from the trained VAE and all options to the results.
        results: the kinds of results, which begin the files' names; the first is the main one.
        num_data: how many data it takes if it is not told; None for all.
        applies: whether it can be applied to a model at all.
    """

    name: str
    summary: str
    stem: str
    options: tuple[Option, ...]
    run: Callable[[TrainedModel, Options], list[Result]]
    results: tuple[str, ...]
    num_data: int | None = None
    applies: Callable[[Any], bool] = lambda vae: True

    def defaults(self) -> Options:
        """Every option that a file's name may say, at its default."""
        common: Options = {"split": "test", "seed": 0, "num_data": self.num_data}
        return {**common, **{option.name: option.default for option in self.options}}

    def file_stem(self, options: Options) -> str:
        """What the names of its files say of the protocol, such as ``test-guide-5000-seed0-first100``."""
        first = "" if options["num_data"] is None else f"-first{options['num_data']}"
        marks = (o.mark.format(options[o.name]) for o in self.options if options[o.name] != o.default)
        return f"{options['split']}-{self.stem.format(**options)}{''.join(marks)}-seed{options['seed']}{first}"
