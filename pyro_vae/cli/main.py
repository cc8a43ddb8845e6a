"""The command line ``pyro-vae``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pyro_vae._core.interrupts import exit_code, exiting, raising
from pyro_vae._core.version import __version__

# A command is imported when it is chosen, as importing torch takes seconds: module and function within pyro_vae.cli.
COMMANDS = {
    "train": ("train", "train"),
    "refit": ("train", "refit"),
    "evaluate": ("evaluate", "evaluate"),
    "classify": ("classify", "classify"),
    "generate": ("generate", "generate"),
    "sample": ("generate", "sample"),
    "interpolate": ("use", "interpolate"),
    "traverse": ("use", "traverse"),
    "edit": ("use", "edit"),
    "complete": ("use", "complete"),
    "explore": ("explore", "explore"),
    "impute": ("impute", "impute_table"),
    "outliers": ("outliers", "outliers"),
    "compress": ("compress", "compress_images"),
    "decompress": ("compress", "decompress_images"),
    "figures": ("figures", "draw_figures"),
    "rate-distortion": ("rate_distortion", "compare_rates"),
    "report": ("report", "write_report"),
    "compare": ("compare", "compare_runs"),
    "completion": ("completion", "complete_in_shell"),
}
_HELP = """\
Variational autoencoders as probabilistic programs.

usage: pyro-vae COMMAND [options]

commands:
  train                 train a VAE in a new run folder, evaluate it and draw its figures
  train --resume RUN    resume a training; the result is the same, bit for bit, as without an interruption
  train --seeds 0 1 2   train one run for each seed and print the mean of their results
  refit RUN             train another guide for the trained model of a run, in a new run folder
  evaluate RUN          estimate log-likelihood, inference gaps, latent diagnostics or classification error
  classify RUN IMAGE    classify images with a trained semi-supervised model
  generate RUN          draw images from a trained model; also as sample
  interpolate RUN A B   decode the path between two images, by position in the test split or file
  traverse RUN A        vary one latent dimension of an image at a time
  edit RUN A --to 3     move images along the direction of a class, or to a class of M2
  complete RUN A        sample the lower half of an image given the upper one from an AutoregressiveModel
  explore RUN           write one HTML page with which the latent space is explored in a browser
  impute RUN TABLE      fill the missing entries of a table with a model trained on such data
  outliers RUN          find data unlike the training data, with p-values from held-out data
  compress RUN FILES    compress images without loss with a trained model
  decompress RUN FILE   restore them
  figures RUN           draw the figures of a run as PDF, SVG or PNG for a paper
  rate-distortion RUNS  draw bits against squared error of lossy codes, JPEG, WebP and VAEs
  report RUN            write one HTML page with all results of a run
  compare RUN RUN       print a table of the results of several runs
  completion SHELL      print a script that completes commands and options in bash, zsh or tcsh

pyro-vae COMMAND --help shows the options of a command.

examples:
  pyro-vae train
      trains on scikit-learn's 8 x 8 digits, without a download, in half a minute
  pyro-vae train --data MNIST --data.root data --latent_dim 50 --epochs 100 --out runs/mnist
  pyro-vae train --likelihood.net GatedMLP --likelihood.net.hidden '[300, 300]' --optimizer.lr 5e-4
  pyro-vae train --objective BetaELBO --objective.beta LinearWarmUp --objective.beta.length 50
  pyro-vae train --prior VampPrior --prior.num_components 100
  pyro-vae train --config runs/mnist/config.yaml --seed 1 --out runs/mnist-1
  pyro-vae refit runs/mnist --guide IAFGuide --epochs 20 --out runs/mnist-iaf
  pyro-vae evaluate runs/mnist --method ais --num_distributions 1000 --num_data 100
  pyro-vae compare runs/mnist runs/mnist-iaf --out table.md
  pyro-vae train --model M2 --data.labels 100 --seeds 0 1 2 --out runs/m2
      trains a semi-supervised model on 100 labels, three times
  pyro-vae classify runs/m2-0 --split test --num_data 10
  pyro-vae train --model GatedPixelCNN --out runs/exact
      trains an autoregressive model, whose log-likelihood is exact
  pyro-vae complete runs/exact 3 17 --num 6
  pyro-vae interpolate runs/mnist 3 17 --path geodesic --out path.png
  pyro-vae explore runs/mnist
  pyro-vae impute runs/table table.csv --out imputed.csv
  pyro-vae outliers runs/mnist --against noise
  pyro-vae outliers runs/mnist photo.png
  pyro-vae compress runs/mnist photo.npz photo.pvz
  torchrun --nproc-per-node 2 -m pyro_vae train --out runs/two
      trains in two processes, which share every batch

Components (--data, --prior, --likelihood, --guide, --objective, --optimizer, ...) are chosen by class name, and their
constructor arguments follow after a dot. pyro-vae train --guide IAFGuide --help shows those of IAFGuide too.

With PYRO_VAE_TRACEBACK=1 in the environment every error is shown with its traceback.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the program's name; None are those of the process.

    Returns:
        The exit code: 0; 1 if the training became non-finite; 2 for bad input; 70 for a bug; 130 after Ctrl-C; 143
        after SIGTERM; 141 if the reader of the output closed it.
    """
    command, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        with raising():
            return _run(command, arguments)
    except KeyboardInterrupt as stop:
        return _fail(f"pyro-vae: interrupted{f', {stop}' if stop.args else ''}", exit_code(stop))
    except BrokenPipeError:  # a reader such as head has closed the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(command: str, arguments: list[str]) -> int:
    if command in ("-h", "--help"):
        return _print(_HELP)
    if command == "--version":
        return _print(f"pyro-vae {__version__}\n")
    if command not in COMMANDS:
        from pyro_vae.experiments.option_errors import unknown_name  # here, as main.py must be imported in no time

        return _fail(f"pyro-vae: {unknown_name('command', command, COMMANDS, 'see pyro-vae --help.')}", 2)
    try:
        with exiting("pyro-vae: interrupted"):
            errors, function = _imported(command)
    except ImportError as error:
        return _fail(f"pyro-vae: its dependencies must be installed, got {error}. Install pyro_vae again with pip.", 2)
    from pyro_vae.cli.arguments import check_values

    errors.log_errors_in(None)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            check_values(arguments)
            function(arguments)
    except SystemExit as stop:  # argparse has printed the help; a component may exit with a message
        return stop.code if isinstance(stop.code, int) else _fail(stop.code, 1) if stop.code else 0
    except BrokenPipeError:
        raise
    except Exception as error:
        return _fail(*errors.describe(error, [command, *arguments]))
    return 0


def _imported(command: str) -> tuple[Any, Callable[[list[str]], None]]:
    """The module of errors and the command's function."""
    import logging

    logging.getLogger("torch.utils.cpp_extension").addFilter(_is_of_use)
    return import_module("pyro_vae.cli.errors"), command_of(command)


def command_of(name: str) -> Callable[[list[str]], None]:
    """The function of a command, which is imported."""
    module, function = COMMANDS[name]
    imported: Callable[[list[str]], None] = getattr(import_module(f"pyro_vae.cli.{module}"), function)
    return imported


def _is_of_use(record: Any) -> bool:
    """Whether to show a line of torch.utils.cpp_extension: not that a machine with a CUDA toolkit lacks a GPU."""
    return not str(record.msg).startswith("No CUDA runtime is found")


def _show_warning(message: Warning | str, *args: object, **kwargs: object) -> None:
    _fail(f"warning: {' '.join(str(message).split())}", 0)


def _print(text: str) -> int:
    print(text, end="", flush=True)
    return 0


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
