"""The commands of ``pyro-vae``, each from the words after its name."""

from collections.abc import Callable

from pyro_vae.cli.classify import classify
from pyro_vae.cli.compare import compare_runs
from pyro_vae.cli.evaluate import evaluate
from pyro_vae.cli.report import write_report
from pyro_vae.cli.sample import sample
from pyro_vae.cli.train import refit, train

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "refit": refit,
    "evaluate": evaluate,
    "sample": sample,
    "classify": classify,
    "report": write_report,
    "compare": compare_runs,
}

__all__ = ["COMMANDS"]
