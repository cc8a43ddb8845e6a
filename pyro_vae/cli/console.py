"""Options that commands share, and output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pyro_vae._core.checks import require
from pyro_vae._core.distributed import join
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.errors import log_errors_in
from pyro_vae.experiments.experiment import load_run
from pyro_vae.experiments.trained_model import TrainedModel

TRUST: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "PACKAGE",
    "help": "package whose classes a configuration may import; repeatable",
}


def say(text: str) -> None:
    """Print, in the first process only."""
    if join().first:
        print(text, flush=True)  # noqa: T201


def note(text: str) -> None:
    """Print a remark on stderr, in the first process only."""
    if join().first:
        sys.stderr.write(f"{text}\n")


def add_place(parser: argparse._ActionsContainer) -> None:
    """Add the options for the device, the location of the data set and the choice of the weights."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default auto)")
    parser.add_argument("--root", help="folder of the data set, if it has moved since the training")
    help = "final ones, averaged if the run was trained with --ema, or raw ones (default final)"
    parser.add_argument("--weights", choices=["final", "raw"], default="final", help=help)
    parser.add_argument("--trust", **TRUST)


def run_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser for a command on a run folder."""
    parser = Parser(prog=f"pyro-vae {command}", description=description)
    parser.add_argument("run", metavar="RUN", help="run folder")
    add_place(parser)
    return parser


def load(options: dict[str, Any]) -> TrainedModel:
    """Load the run that the options name, and remove these from the options."""
    place = {key: options.pop(key) for key in ("device", "root", "weights", "trust")}
    run = options.pop("run")
    log_errors_in(Path(run))
    return load_run(run, **place)


def check_out(out: Path | None, overwrite: bool, *suffixes: str, name: str = "--out") -> None:
    """Require a file that can be written, or neither a file nor ``--overwrite``."""
    if out is None:
        require(not overwrite, "--overwrite", f"must come with {name}", "it alone")
        return
    require(out.suffix in suffixes, name, f"must end in {' or '.join(suffixes)}", out)
    require(out.parent.is_dir(), name, "must be in a folder that exists", out, f"Create {out.parent}")
    if out.exists() and not overwrite and join().first:
        raise FileExistsError(f"{name}: {out} must not exist yet. Replace it with --overwrite.")


def check_seed(seed: int) -> None:
    """Require a seed that every random number generator accepts."""
    require(0 <= seed < 2**63, "--seed", "must be in 0..2^63-1", seed)
