"""``pyro-vae train`` and ``pyro-vae refit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae.arguments import Parser, exact_words
from pyro_vae.commands.console import TRUST, check_seed, say
from pyro_vae.commands.keeping import announce, keep
from pyro_vae.experiment import parse_config, parser, refit_options, to_yaml
from pyro_vae.experiment import train as run_training
from pyro_vae.files import write_atomically
from pyro_vae.methods import METHODS
from pyro_vae.ranks import join
from pyro_vae.trained import Trained
from pyro_vae.training import Run

_REFIT_HELP = "Train another guide for the model of a run, which stays as it is, and evaluate it."


def train(words: list[str]) -> None:
    """Train a VAE in a run folder, or go on with one."""
    own = Parser(prog="pyro-vae train", add_help=False, allow_abbrev=False)
    own.add_argument("--out", help="run folder to make; default: runs/DATA-TIME")
    own.add_argument("--resume", metavar="RUN", help="run folder to go on with; only --epochs may be given besides")
    own.add_argument("--trust", **TRUST)
    mine, rest = own.parse_known_args(words)
    if {"-h", "--help"} & set(rest):
        say((parser().format_help() + own.format_help().split("options:")[-1]).rstrip("\n"))
    elif mine.resume:
        _resume(mine.resume, mine.out, rest, mine.trust)
    else:
        _start(mine.out, parser().parse_args(exact_words(rest, mine.trust)))


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
    run = Run(mine.run)
    run.load_weights()
    _start(mine.out, refit_options(run, exact_words(rest, mine.trust), trust=mine.trust))


def _start(out: str | None, options: Any) -> None:
    name = options.data.class_path.rsplit(".", 1)[-1].lower()
    target = Path(out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if target.exists() and join().first:
        raise FileExistsError(f"--out: the run folder must not exist yet, got {target}. Choose another or --resume it.")

    def make() -> Run:
        say(f"run folder: {target}")
        return Run.create(target, config=to_yaml(options))

    _evaluate(target, run_training(**_arguments(options), run=make))


def _resume(path: str, out: str | None, words: list[str], trust: Sequence[str]) -> None:
    if out is not None:
        raise ValueError("--resume: must stand alone, got --out too. Leave --out away: the run goes on in its folder.")
    run = Run(path)
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
    _evaluate(run.path, run_training(**_arguments(options), run=run, resume=True))


def _arguments(options: Any) -> dict[str, Any]:
    """The arguments of :func:`pyro_vae.experiment.train`, with what can be refused at once refused."""
    arguments = dict(vars(parser().instantiate(options)))
    arguments.pop("config", None)
    for name in ("epochs", "batch_size", "num_samples", "latent_dim"):
        if arguments[name] < 1:
            raise ValueError(f"--{name}: must be at least 1, got {arguments[name]}. Use a positive number.")
    check_seed(arguments["seed"])
    for name in ("data", "prior", "likelihood", "guide", "objective", "optimizer"):
        if arguments[name] is None:
            raise ValueError(f"--{name}: must be a class, got null. Leave the option away for its default.")
    return arguments


def _evaluate(folder: Path, trained: Trained) -> None:
    """The test log-likelihood, and all figures of the run."""
    from pyro_vae.plotting import caption_of, save_figures  # here, since it loads matplotlib

    method = METHODS["importance"]
    options = {**method.defaults(), "num_samples": trained.num_samples}
    result = trained.evaluate(progress=sys.stderr.isatty())
    if not join().first:
        return
    run = Run(folder)
    parts = trained.vae, trained.splits, run.metrics()
    figures = save_figures(run.figures, *parts, result=result, caption=caption_of(result.protocol))
    path, curve = keep(run, result, method.file_stem(options), overwrite=True)
    announce(result, path)
    names = [figure.name for figure in (*figures, *([curve] if curve else []))]
    say(f"figures: {run.figures}/ ({', '.join(names)})")
