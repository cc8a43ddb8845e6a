"""``pyro-vae train`` and ``pyro-vae refit``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae._core.distributed import join
from pyro_vae._core.files import write_atomically
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import TRUST, say
from pyro_vae.cli.results import final_evaluation
from pyro_vae.cli.seeds import train_seeds
from pyro_vae.cli.train_options import arguments_of, parse_args, refit_options
from pyro_vae.experiments.experiment import parse_config, parser, to_yaml
from pyro_vae.experiments.experiment import train as run_training
from pyro_vae.training import RunFolder

_REFIT_HELP = "Train another guide for the model of a run, which stays as it is, and evaluate it."
_SEEDS = """\
train a run for each of these seeds, of training and labels, in OUT-SEED, and print the mean; the same command goes on
where it was interrupted"""


def train(words: list[str]) -> None:
    """Train a model in a run folder, or go on with one."""
    own = Parser(prog="pyro-vae train", add_help=False, allow_abbrev=False)
    own.add_argument("--out", help="run folder to make; default: runs/DATA-TIME")
    own.add_argument("--resume", metavar="RUN", help="run folder to go on with; only --epochs may be given besides")
    own.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help=_SEEDS)
    own.add_argument("--trust", **TRUST)
    mine, rest = own.parse_known_args(words)
    if {"-h", "--help"} & set(rest):
        say((parser().format_help() + own.format_help().split("options:")[-1]).rstrip("\n"))
    elif mine.seeds is not None:
        if mine.resume:
            raise ValueError("--seeds: must stand without --resume, got both. Give the command that began them again.")
        train_seeds(mine.seeds, mine.out, rest, mine.trust)
    elif mine.resume:
        _resume(mine.resume, mine.out, rest, mine.trust)
    else:
        _start(mine.out, parse_args(rest, mine.trust), mine.trust)


def refit(words: list[str]) -> None:
    """Train another guide for a run's model."""
    own = Parser(prog="pyro-vae refit", description=_REFIT_HELP, add_help=False, allow_abbrev=False)
    own.add_argument("run", metavar="RUN", help="run folder whose prior and likelihood are taken and kept")
    own.add_argument("--out", help="run folder to make; default: runs/DATA-TIME")
    own.add_argument("--trust", **TRUST)
    if {"-h", "--help"} & set(words):
        say(own.format_help() + "\nand the options of `pyro-vae train` for guide and training.")
        return
    mine, rest = own.parse_known_args(words)
    run = RunFolder(mine.run)
    run.load_weights()
    _start(mine.out, refit_options(run, rest, trust=mine.trust), mine.trust)


def _start(out: str | None, options: Any, trust: Sequence[str]) -> None:
    name = options.data.class_path.rsplit(".", 1)[-1].lower()
    target = Path(out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if target.exists() and join().first:
        raise FileExistsError(f"--out: the run folder must not exist yet, got {target}. Choose another or --resume it.")

    def make() -> RunFolder:
        say(f"run folder: {target}")
        return RunFolder.create(target, config=to_yaml(options))

    final_evaluation(target, run_training(**arguments_of(options), run=make, trust=trust))


def _resume(path: str, out: str | None, words: list[str], trust: Sequence[str]) -> None:
    if out is not None:
        raise ValueError("--resume: must stand alone, got --out too. Leave --out away: the run goes on in its folder.")
    run = RunFolder(path)
    options = parse_config(run, trust=trust)
    longer = Parser(prog="pyro-vae train --resume", add_help=False, allow_abbrev=False)
    longer.add_argument("--epochs", type=int, default=options.epochs)
    given, unknown = longer.parse_known_args(words)
    if unknown:
        raise ValueError(f"--resume: only --epochs may be given besides, got {unknown[0]}. Start a new run instead.")
    if given.epochs != options.epochs and join().first:  # so that a resumption without --epochs goes to the new end
        options.epochs = given.epochs
        write_atomically(run.path / "config.yaml", to_yaml(options).encode(), overwrite=True)
    options.epochs = given.epochs
    final_evaluation(run.path, run_training(**arguments_of(options), run=run, resume=True, trust=trust))
