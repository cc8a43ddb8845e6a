"""What the commands share: options of a run, and speaking to the user."""

from __future__ import annotations

import argparse
from typing import Any

from pyro_vae._core.distributed import join
from pyro_vae.cli.arguments import Parser
from pyro_vae.experiments.experiment import load_run
from pyro_vae.experiments.trained_model import TrainedModel

TRUST: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "PACKAGE",
    "help": "package that a config may import classes from; repeatable",
}


def say(text: str) -> None:
    """Print, in the first process alone."""
    if join().first:
        print(text, flush=True)  # noqa: T201


def add_place(parser: argparse._ActionsContainer) -> None:
    """The options of where a run's model and data are."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default auto)")
    parser.add_argument("--root", help="where the data set lies, if not where it lay in training")
    parser.add_argument("--trust", **TRUST)


def run_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser for a command on a run folder."""
    made = Parser(prog=f"pyro-vae {command}", description=description, allow_abbrev=False)
    made.add_argument("run", metavar="RUN", help="run folder")
    add_place(made)
    return made


def load(options: dict[str, Any]) -> TrainedModel:
    """The run that the options name, which are taken out of them."""
    place = {key: options.pop(key) for key in ("device", "root", "trust")}
    return load_run(options.pop("run"), **place)


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed: must be in 0..2^63-1, got {seed}. Use a small number.")


def check_counts(options: dict[str, Any], **examples: int) -> None:
    """Refuse counts below 1; ``examples`` are the options and what to use instead."""
    for name, example in examples.items():
        if options[name] is not None and options[name] < 1:
            raise ValueError(f"--{name}: must be at least 1, got {options[name]}. Use {example}.")
